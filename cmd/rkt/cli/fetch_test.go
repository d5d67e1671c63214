package cli

import (
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/signature"

	"github.com/rktnetes/rktshim/image/archive"
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
	n.rkt("image", "export", shortID(id), "docker.tar", "--archive=docker-archive")
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

func TestAllImagesOfAFileAreImported(t *testing.T) {
	n := newNode(t)
	for i := range 2 {
		name := fmt.Sprintf("app%d", i)
		file := n.aci(name, strings.Replace(appManifest, "example.com/app", "example.com/"+name, 1))
		src, err := archive.ParseReference("aci:" + file)
		require.NoError(t, err)
		dst, err := archive.ParseReference("oci:" + n.path("layout") + ":example.com/" + name + ":1.2")
		require.NoError(t, err)
		policy, err := signature.NewPolicyContext(&signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}})
		require.NoError(t, err)
		_, err = copy.Image(t.Context(), policy, dst, src, &copy.Options{})
		require.NoError(t, err)
		require.NoError(t, policy.Destroy())
	}
	n.fails("--name: layout holds 2 images, a name is for one", "fetch", "layout", "--name=x")
	ids := strings.Fields(n.rkt("fetch", "--full", "layout"))
	images := n.list()
	require.Len(t, images, 2)
	require.ElementsMatch(t, ids, []string{images[0].ID, images[1].ID})
	require.ElementsMatch(t, []string{"example.com/app0:1.2", "example.com/app1:1.2"}, []string{images[0].Name, images[1].Name})
}

func TestDebugShowsWhatTheLibrariesLog(t *testing.T) {
	n := newNode(t)
	n.rkt("fetch", n.aci("x.aci", appManifest))
	_, _, quiet := n.try("image", "list")
	require.Empty(t, quiet)
	_, _, loud := n.try("image", "list", "--debug")
	require.Contains(t, loud, "level=debug")
}

func TestPathsWithAColonAreRefusedOnlyWhereTheyMustBe(t *testing.T) {
	n := newNode(t)
	require.NoError(t, os.Mkdir(n.path("a:b"), 0o700))
	id := lastLine(n.rkt("fetch", n.aci("a:b/x", appManifest)))
	n.rkt("image", "export", id, "a:b/y")
	n.rkt("image", "export", id, "y:z", "--archive=docker-archive")
	n.fails("cannot be read under a path with a colon in it, rename it", "fetch", "./y:z")
	n.fails("cannot be read under a path with a colon in it, rename it", "fetch", "a:b/y")
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

	screen, tty = terminal(t)
	text = watch(screen)
	cmd = n.command("fetch", "--full", "--insecure-options=http", r.Ref("app", "v1"))
	cmd.Stdout, cmd.Stderr = tty, tty
	require.NoError(t, cmd.Run())
	require.NoError(t, tty.Close())
	shown = text()
	require.Regexp(t, `layer [0-9a-f]{12} .*present`, shown)
	require.Equal(t, img.ID(), lastLine(strings.ReplaceAll(shown, "\r\n", "\n")), "the id comes below the bars")
}

func TestATerminalThatCannotMoveItsCursorGetsLines(t *testing.T) {
	n := newNode(t)
	screen, tty := terminal(t)
	text := watch(screen)
	cmd := n.command("fetch", n.aci("x.aci", appManifest))
	cmd.Env, cmd.Stderr = append(os.Environ(), "TERM=dumb"), tty
	require.NoError(t, cmd.Run())
	require.NoError(t, tty.Close())
	shown := text()
	require.Contains(t, shown, ": done")
	require.NotContains(t, shown, "\x1b")
}

func TestAnImageForOtherMachinesIsNoted(t *testing.T) {
	n := newNode(t)
	manifest := strings.Replace(appManifest, `"labels":[`, `"labels":[{"name":"arch","value":"s390x"},`, 1)
	code, _, stderr := n.try("fetch", n.aci("x.aci", manifest))
	require.Equal(t, 0, code)
	require.Contains(t, stderr, "fetch: the image is for s390x, this machine is "+runtime.GOARCH+"\n")
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
