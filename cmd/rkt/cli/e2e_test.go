package cli

import (
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

func simple(content string) registrytest.Image {
	return registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"etc/motd": content}}}}
}

func TestFetchOfAnACIKeepsHowToRunIt(t *testing.T) {
	n := newNode(t)
	n.aci("x", appManifest)
	code, stdout, stderr := n.try("fetch", "--full", "./x")
	require.Equal(t, 0, code, stderr)
	id := lastLine(stdout)
	require.Regexp(t, `^sha256:[0-9a-f]{64}$`, id)
	require.Regexp(t, `(?m)^fetch: reading \./x as aci$`, stderr)
	require.Regexp(t, `(?m)^fetch: layer [0-9a-f]{12}: done$`, stderr)
	require.NotContains(t, stderr, "\x1b", "no bars without a terminal")

	images := n.list()
	require.Len(t, images, 1)
	require.Equal(t, id, images[0].ID)
	require.Equal(t, []string{"example.com/app:1.2"}, images[0].Names)
	require.Positive(t, images[0].Size)
	require.InDelta(t, time.Now().UnixNano(), images[0].Imported, float64(time.Minute))
	config := n.rkt("image", "cat-manifest", "--config", "--pretty-print=false", "example.com/app:1.2")
	require.Equal(t, id, digest.FromString(config).String())
	for _, part := range []string{`"Entrypoint":["/bin/app","-v"]`, `"User":"7:8"`, `"Env":["A=b"]`, `"80/tcp":{}`, `"/data":{}`, `"WorkingDir":"/w"`} {
		require.Contains(t, config, part)
	}
	require.Contains(t, n.rkt("image", "cat-manifest", id[:19]), "\n\t\"annotations\"")
}

func TestEveryArchiveOfAnImageGivesTheSameImage(t *testing.T) {
	n := newNode(t)
	id := lastLine(n.rkt("fetch", "--full", n.aci("x.aci", appManifest)))
	n.rkt("image", "export", "example.com/app:1.2", "oci.tar")
	n.rkt("image", "export", shortID(id), "docker.tar", "--format=docker-archive")
	require.NoError(t, os.Mkdir(n.path("layout"), 0o700))
	for _, cmd := range [][]string{{"tar", "-xf", "oci.tar", "-C", "layout"}, {"gzip", "-k", "oci.tar"}, {"xz", "-k", "docker.tar"}} {
		c := exec.CommandContext(t.Context(), cmd[0], cmd[1:]...)
		c.Dir = n.dir
		require.NoError(t, c.Run(), cmd)
	}
	for _, file := range []string{"oci.tar", "docker.tar", "layout", "oci.tar.gz", "docker.tar.xz"} {
		other := &node{t: t, bin: n.bin, dir: n.path("other-" + file)}
		require.NoError(t, os.Mkdir(other.dir, 0o700))
		require.Equal(t, id, lastLine(other.rkt("fetch", "--full", n.path(file))), file)
		require.Equal(t, []string{"example.com/app:1.2"}, other.list()[0].Names, file)
		require.Equal(t, id+" ok\n", other.rkt("image", "verify"))
	}
}

func TestReadingAFileUnpacksOnTheDiskOfTheStoreAndCleansUp(t *testing.T) {
	n := newNode(t)
	n.rkt("fetch", n.aci("x.aci", appManifest))
	n.rkt("image", "export", "example.com/app:1.2", "x.tar")
	before, err := filepath.Glob("/var/tmp/container_images_*")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(n.path("data/tmp/rkt-killed"), 0o700))
	n.rkt("fetch", "x.tar")
	after, err := filepath.Glob("/var/tmp/container_images_*")
	require.NoError(t, err)
	require.Equal(t, before, after)
	left, err := os.ReadDir(n.path("data/tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestALocalFileCannotStall(t *testing.T) {
	n := newNode(t)
	s, err := store.Open(t.Context(), store.Config{Root: n.path("data/images"), RunRoot: n.path("run")})
	require.NoError(t, err)
	defer s.Close()
	cmd := fetchCommand(&global{})
	cmd.SetOut(io.Discard)
	cmd.SetErr(io.Discard)
	f := &fetcher{fetchFlags: &fetchFlags{}, cmd: cmd, store: s, cfg: pull.Config{StallTimeout: 1}, scratch: n.dir}
	require.NoError(t, f.all(t.Context(), []string{n.aci("x.aci", appManifest)}))
	require.ErrorContains(t, f.all(t.Context(), []string{registrytest.New(t).Ref("app", "v1")}), "no progress for 1ns")
}

func TestNamesOfAFileCanBeReplaced(t *testing.T) {
	n := newNode(t)
	file := n.aci("x.aci", strings.Replace(appManifest, "example.com/app", "example.com/a~b", 1))
	_, stdout, stderr := n.try("fetch", file)
	require.Contains(t, stderr, `imported without a name: name: "example.com/a~b"`)
	require.Contains(t, n.rkt("image", "list"), "<none>")
	n.rkt("fetch", file, "--name=one", "--name=example.com/two:2")
	images := n.list()
	require.Len(t, images, 1)
	require.Equal(t, lastLine(stdout), shortID(images[0].ID))
	require.Equal(t, []string{"docker.io/library/one:latest", "example.com/two:2"}, images[0].Names)
}

func TestBadFilesAreRefusedAndLeaveNothing(t *testing.T) {
	n := newNode(t)
	require.NoError(t, os.WriteFile(n.path("text"), []byte(strings.Repeat("no tar ", 200)), 0o600))
	n.fails("fetch: image ./text: read it as a tar archive", "fetch", "./text")
	n.fails("dependencies: the image is layered on example.com/base;", "fetch",
		n.aci("dep.aci", `{"acKind":"ImageManifest","acVersion":"0.8.11","name":"a","dependencies":[{"imageName":"example.com/base"}]}`))
	cut := n.aci("cut.aci", appManifest)
	require.NoError(t, os.Truncate(cut, 330))
	n.fails("fetch: ", "fetch", cut)
	require.Empty(t, n.list())
}

func TestPullPolicySaysWhenTheRegistryIsAsked(t *testing.T) {
	n := newNode(t)
	r := registrytest.New(t)
	one := r.Push("app", "v1", simple("one"))
	ref := r.Ref("app", "v1")
	fetch := func(policy string) string {
		r.Forget()
		return lastLine(n.rkt("--insecure-options=image,http", "fetch", "--full", "--pull-policy="+policy, "docker://"+ref))
	}
	n.fails("is not in the local store, and --pull-policy=never", "fetch", "--pull-policy=never", ref)
	require.Equal(t, one.ID(), fetch("new"))
	require.NotEmpty(t, r.Requests("/blobs/"))

	two := r.Push("app", "v1", simple("two"))
	require.Equal(t, one.ID(), fetch("never"))
	require.Equal(t, one.ID(), fetch("new"))
	require.Empty(t, r.Requests("/"))
	require.Equal(t, two.ID(), fetch("update"))
	require.Equal(t, two.ID(), fetch("update"))
	require.Empty(t, r.Requests("/blobs/"+two.Layers[0].String()), "what is there is not fetched")
	require.Equal(t, two.Manifest, digest.FromString(n.rkt("image", "cat-manifest", "--pretty-print=false", ref)))
}

func TestPlainHTTPAndUnknownCertificatesNeedTheFlag(t *testing.T) {
	n := newNode(t)
	for word, r := range map[string]*registrytest.Registry{"http": registrytest.New(t), "tls": registrytest.NewTLS(t)} {
		want := r.Push("app", "v1", simple(word))
		n.fails("fetch: ", "fetch", r.Ref("app", "v1"))
		require.Equal(t, want.ID(), lastLine(n.rkt("fetch", "--full", "--insecure-options="+word, r.Ref("app", "v1"))))
	}
}

func TestCredentialsComeFromTheAuthFile(t *testing.T) {
	n := newNode(t)
	r := registrytest.New(t)
	r.RequireLogin(registrytest.Login{User: "ann", Password: "secret"})
	want := r.Push("app", "v1", simple("x"))
	n.fails(r.Host, "fetch", "--insecure-options=http", "--auth-file=/dev/null", r.Ref("app", "v1"))
	auth := func(user, password string) string {
		file := n.path("auth-" + user)
		pair := base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
		require.NoError(t, os.WriteFile(file, fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, r.Host, pair), 0o600))
		return file
	}
	_, _, stderr := n.try("fetch", "--insecure-options=http", "--auth-file="+auth("bob", "guess-42"), r.Ref("app", "v1"))
	require.Contains(t, stderr, r.Host)
	require.NotContains(t, stderr, "guess-42")
	require.Equal(t, want.ID(), lastLine(n.rkt("fetch", "--full", "--insecure-options=http", "--auth-file="+auth("ann", "secret"), r.Ref("app", "v1"))))
}

func TestATerminalGetsBarsAndTheIDStaysOnStandardOutput(t *testing.T) {
	n := newNode(t)
	r := registrytest.New(t)
	img := r.Push("app", "v1", simple("x"))
	r.OnBlob(img.Layers[0], registrytest.Slowly(4, 150*time.Millisecond))
	screen, tty := terminal(t)
	text := watch(screen)
	cmd := n.command("fetch", "--full", "--insecure-options=http", r.Ref("app", "v1"))
	cmd.Stderr = tty
	out, err := cmd.Output()
	require.NoError(t, tty.Close())
	shown := text()
	require.NoError(t, err, shown)
	require.Equal(t, img.ID()+"\n", string(out))
	require.Contains(t, shown, "\x1b[", "drawn, not only printed")
	require.Regexp(t, `layer [0-9a-f]{12}.*B of [0-9.]+K?i?B`, shown)
	require.Regexp(t, `layer [0-9a-f]{12} .*done`, shown)
	require.NotContains(t, shown, "not finished")
}

// stuck starts a fetch that hangs in the middle of its layer.
func stuck(t *testing.T, n *node) (cmd *exec.Cmd, out *strings.Builder, ref string, img registrytest.Pushed) {
	r := registrytest.New(t)
	img = r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"big": strings.Repeat("x", 1<<20)}, Compression: registrytest.None}}})
	release, reached := make(chan struct{}), make(chan struct{}, 1)
	t.Cleanup(func() { close(release) })
	r.OnBlob(img.Layers[0], func(w http.ResponseWriter, q *http.Request, content []byte) bool {
		reached <- struct{}{}
		return registrytest.StallAfter(1<<19, release)(w, q, content)
	})
	out = &strings.Builder{}
	cmd = n.command("fetch", "--insecure-options=http", r.Ref("app", "v1"))
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	select {
	case <-reached:
	case <-time.After(30 * time.Second):
		cmd.Process.Kill()
		cmd.Wait()
		t.Fatalf("the layer was never asked for: %s", out)
	}
	return cmd, out, r.Ref("app", "v1"), img
}

func TestInterruptEndsAFetchAndLeavesNothing(t *testing.T) {
	n := newNode(t)
	cmd, out, ref, img := stuck(t, n)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.Error(t, cmd.Wait())
	require.Equal(t, 254, cmd.ProcessState.ExitCode())
	require.Equal(t, "fetch: interrupted", lastLine(out.String()))
	require.Empty(t, n.list())
	require.Zero(t, n.find("big"))
	require.Equal(t, img.ID(), lastLine(n.rkt("fetch", "--full", "--insecure-options=http", ref)))
}

func TestAKilledFetchLeavesNothingAfterTheNextCommand(t *testing.T) {
	n := newNode(t)
	kept := lastLine(n.rkt("fetch", "--full", n.aci("x.aci", appManifest)))
	cmd, _, ref, img := stuck(t, n)
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
	require.Len(t, n.list(), 1)
	require.Zero(t, n.find("big"))
	require.Equal(t, kept+" ok\n", n.rkt("image", "verify"))
	require.Equal(t, img.ID(), lastLine(n.rkt("fetch", "--full", "--insecure-options=http", ref)))
	require.Equal(t, 1, n.find("big"))
}

// find counts the files of a name below the store.
func (n *node) find(name string) (count int) {
	require.NoError(n.t, filepath.WalkDir(n.path("data"), func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Name() == name {
			count++
		}
		return err
	}))
	return count
}

func TestRemoveTakesNamesAndIDsAndForgivesWhatIsGone(t *testing.T) {
	n := newNode(t)
	id := lastLine(n.rkt("fetch", "--full", n.aci("x.aci", appManifest), "--name=a:1", "--name=b:1"))
	code, stdout, stderr := n.try("image", "rm", "nothing", "docker://a:1", "sha256:00")
	require.Equal(t, 0, code)
	require.Equal(t, fmt.Sprintf("successfully removed image: %q\n", id), stdout)
	require.Contains(t, stderr, `rm: cannot find an image satisfying "nothing" in the local store`)
	require.Contains(t, stderr, `rm: 1 image(s) successfully removed`)
	require.Empty(t, n.list())
	require.Zero(t, n.find("app"), "its layer is gone too")
	n.fails(`rm: parse image name "A B"`, "image", "rm", "A B")
}

func TestRemoveAndGCSpareAnImageInUse(t *testing.T) {
	n := newNode(t)
	id := lastLine(n.rkt("fetch", "--full", n.aci("x.aci", appManifest)))
	s, err := store.Open(t.Context(), store.Config{Root: n.path("data/images"), RunRoot: n.path("run")})
	require.NoError(t, err)
	defer s.Close()
	_, err = s.CreateRoot(t.Context(), "c1", id, store.RootOptions{})
	require.NoError(t, err)
	n.fails("rm: remove image "+id+": used by container c1", "image", "rm", id)
	_, _, stderr := n.try("image", "gc", "--grace-period=0s")
	require.Contains(t, stderr, "gc: 0 image(s)")
	require.Len(t, n.list(), 1)
	require.NoError(t, s.RemoveRoot(t.Context(), "c1"))
	require.Empty(t, n.rkt("image", "gc"), "within the grace period of a day")
	require.Equal(t, fmt.Sprintf("successfully removed image: %q\n", id), n.rkt("image", "gc", "--grace-period=0s"))
	require.Empty(t, n.list())
}

func TestVerifyFindsDamageAndFetchRepairsIt(t *testing.T) {
	n := newNode(t)
	file := n.aci("x.aci", appManifest)
	id := lastLine(n.rkt("fetch", "--full", file))
	other := lastLine(n.rkt("fetch", "--full", n.aci("y.aci", strings.Replace(appManifest, "/app\"", "/other\"", 1))))
	_ = other
	found, err := filepath.Glob(n.path("data/images/overlay/*/diff/bin/app"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	require.NoError(t, os.WriteFile(found[0], []byte("another content\n!!"), 0o755))

	code, stdout, stderr := n.try("image", "verify", id)
	require.Equal(t, 254, code)
	require.Regexp(t, `^`+id+` damaged: layer [0-9a-f]{12} .*bin/app: .+\n$`, stdout)
	require.Equal(t, "verify: damaged images found, fetch them again to repair them\n", stderr)
	code, stdout, _ = n.try("image", "verify", "--format=json")
	require.Equal(t, 254, code)
	require.Contains(t, stdout, `"damage":[{"layer":`)

	n.rkt("fetch", file)
	require.Equal(t, id+" ok\n", n.rkt("image", "verify", id))
	n.fails(`verify: cannot find an image satisfying "gone"`, "image", "verify", "gone")
}

func TestExportIsWholeOrNotThere(t *testing.T) {
	n := newNode(t)
	id := lastLine(n.rkt("fetch", "--full", n.aci("x.aci", appManifest)))
	require.NoError(t, os.WriteFile(n.path("taken"), []byte("mine"), 0o600))
	n.fails("export: taken exists already, give --overwrite", "image", "export", id, "taken")
	n.rkt("image", "export", id, "taken", "--overwrite")
	require.Equal(t, id, lastLine(n.rkt("fetch", "--full", "./taken")))
	n.fails("export: export image", "image", "export", id, "no/such/folder")
	n.fails("cannot find", "image", "export", "gone", "x")

	// A disk of 4 KiB, in a mount namespace of its own.
	full := n.path("full")
	require.NoError(t, os.Mkdir(full, 0o700))
	out, err := exec.CommandContext(t.Context(), "unshare", "-m", "sh", "-c",
		`mount -t tmpfs -o size=4k none "$1" && "$2" --dir="$3/data" --run-dir="$3/run" image export "$4" "$1/x"; code=$?; ls -A "$1"; exit $code`,
		"sh", full, n.bin, n.dir, id).CombinedOutput()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, 254, exit.ExitCode())
	require.Regexp(t, `^export: .*no space left on device\n$`, string(out), "and no file is left")
}

func TestAnImageWithoutATagExportsAsOCIOnly(t *testing.T) {
	n := newNode(t)
	id := lastLine(n.rkt("fetch", "--full", n.aci("x.aci", strings.Replace(appManifest, "example.com/app", "a~b", 1))))
	n.fails("a docker-archive needs a tag and the image has none", "image", "export", id, "x", "--format=docker-archive")
	n.rkt("image", "export", id, "x")
	require.Equal(t, id, lastLine(n.rkt("fetch", "--full", "./x")))
}

func TestOnlyRootMayTouchTheStore(t *testing.T) {
	n := newNode(t)
	require.NoError(t, os.Chmod(ownDir(), 0o755))
	require.NoError(t, os.Chmod(n.dir, 0o755))
	cmd := n.command("image", "list")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Equal(t, "list: the image store belongs to root: run this as root\n", string(out))
}

func TestAStoreThatCannotBeOpenedIsOneClearLine(t *testing.T) {
	n := newNode(t)
	require.NoError(t, os.WriteFile(n.path("data"), nil, 0o600))
	n.fails("list: open image store "+n.path("data/images"), "image", "list")
}

func TestWorkerWithoutItsSocketFails(t *testing.T) {
	n := newNode(t)
	n.fails("image-worker: ", "image-worker")
}
