package cli

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/rundir"
)

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

func TestWhatIsRemovedOrWrittenCanBeHadAsJSON(t *testing.T) {
	n := newNode(t)
	file := n.aci("x.aci", appManifest)
	id := lastLine(n.rkt("fetch", "--full", file))
	require.JSONEq(t, fmt.Sprintf(`{"id":%q,"file":%q,"archive":"docker-archive"}`, id, n.path("x.tar")),
		n.rkt("image", "export", shortID(id), "x.tar", "--archive=docker-archive", "--format=json"))

	require.Equal(t, "[]\n", n.rkt("image", "rm", "nothing", "--format=json"))
	code, stdout, stderr := n.try("image", "rm", "nothing", "example.com/app:1.2", "A B", "--format=json-pretty")
	require.Equal(t, 254, code)
	require.Equal(t, fmt.Sprintf("[\n\t%q\n]\n", id), stdout, "also if another failed")
	require.Contains(t, stderr, `rm: parse image name "A B"`)

	require.JSONEq(t, `{"images":[],"layers":0}`, n.rkt("image", "gc", "--grace-period=0s", "--format=json"))
	n.rkt("fetch", file)
	require.JSONEq(t, fmt.Sprintf(`{"images":[%q],"layers":0}`, id), n.rkt("image", "gc", "--grace-period=0s", "--format=json"))
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

// damageConfig changes the config of an image on the disk, so that the store can
// no longer read the image.
func (n *node) damageConfig(id string) {
	items, err := filepath.Glob(n.path("data/images/overlay-images/" + strings.TrimPrefix(id, "sha256:") + "/=*"))
	require.NoError(n.t, err)
	for _, item := range items {
		raw, err := os.ReadFile(item)
		require.NoError(n.t, err)
		if "sha256:"+fmt.Sprintf("%x", sha256.Sum256(raw)) == id {
			require.NoError(n.t, os.WriteFile(item, []byte("{}"), 0o600))
			return
		}
	}
	n.t.Fatalf("no config of image %s on the disk", id)
}

func TestAnImageWithoutReadableRecordsCanBeVerifiedAndRemovedByNameAndID(t *testing.T) {
	n := newNode(t)
	file := n.aci("x.aci", appManifest)
	for _, by := range []func(id string) string{
		func(id string) string { return id },
		func(id string) string { return strings.TrimPrefix(id, "sha256:") },
		func(string) string { return "docker://example.com/app:1.2" },
	} {
		id := lastLine(n.rkt("fetch", "--full", file))
		n.damageConfig(id)
		require.Empty(t, n.list())
		code, stdout, stderr := n.try("image", "verify", by(id))
		require.Equal(t, 254, code, stderr)
		require.Regexp(t, "^"+id+" damaged: the image's own config: ", stdout)
		require.Equal(t, fmt.Sprintf("successfully removed image: %q\n", id), n.rkt("image", "rm", by(id)))
		require.Empty(t, n.rkt("image", "verify"))
		require.Zero(t, n.find("app"), "its layer is gone too")
	}
	_, _, stderr := n.try("image", "rm", "example.com/app:1.2")
	require.Contains(t, stderr, "cannot find", "it is gone")
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
	n.fails("cat-manifest: cannot find", "image", "cat-manifest", "gone")

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

// bigACI is a local image whose export takes a while.
func (n *node) bigACI() string {
	body := make([]byte, 256<<20) // gzip takes more than a second for it
	out, err := os.Create(n.path("big.aci"))
	require.NoError(n.t, err)
	defer out.Close()
	w := tar.NewWriter(out)
	for _, f := range []struct {
		name string
		body []byte
	}{{"manifest", []byte(appManifest)}, {"rootfs/big", body}} {
		require.NoError(n.t, w.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.body)), Typeflag: tar.TypeReg}))
		_, err = w.Write(f.body)
		require.NoError(n.t, err)
	}
	require.NoError(n.t, w.Close())
	return out.Name()
}

func TestAKilledExportLeavesNothing(t *testing.T) {
	n := newNode(t)
	id := lastLine(n.rkt("fetch", n.bigACI()))
	require.NoError(t, os.Mkdir(n.path("out"), 0o700))
	for _, kind := range []string{"docker-archive", "oci-archive"} {
		cmd := n.command("image", "export", id, "out/x", "--archive="+kind)
		require.NoError(t, cmd.Start())
		writing := func() bool { // it has a file of that folder open, as it has from the start
			fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", cmd.Process.Pid))
			return slices.ContainsFunc(fds, func(fd string) bool {
				to, _ := os.Readlink(fd)
				return strings.HasPrefix(to, n.path("out/"))
			})
		}
		require.Eventually(t, writing, time.Minute, 5*time.Millisecond)
		require.NoError(t, cmd.Process.Kill())
		require.ErrorContains(t, cmd.Wait(), "killed")
		left, err := os.ReadDir(n.path("out"))
		require.NoError(t, err)
		require.Empty(t, left)
	}
	n.rkt("image", "export", id, "out/x")
	left, err := os.ReadDir(n.path("data/tmp"))
	require.NoError(t, err)
	require.Empty(t, left, "what was on the disk of the store")
}

func TestAnImageWithoutATagExportsAsOCIOnly(t *testing.T) {
	n := newNode(t)
	id := lastLine(n.rkt("fetch", "--full", n.aci("x.aci", strings.Replace(appManifest, "example.com/app", "a~b", 1))))
	n.fails("a docker-archive needs a tag and the image has none", "image", "export", id, "x", "--archive=docker-archive")
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
	require.Equal(t, "list: pods and images belong to root: run this as root\n", string(out))
}

func TestOnlyAFetchMakesAStore(t *testing.T) {
	for _, prepare := range []func(*node){
		func(*node) {},
		func(n *node) { require.NoError(t, os.MkdirAll(n.path("data/images"), 0o700)) },
	} {
		n := newNode(t)
		prepare(n)
		before := n.tree()
		require.Equal(t, "[]\n", n.rkt("image", "list", "--format=json"))
		require.Contains(t, n.rkt("image", "list"), "ID")
		require.Empty(t, n.rkt("image", "verify"))
		require.Equal(t, "[]\n", n.rkt("image", "verify", "--format=json"))
		code, stdout, stderr := n.try("image", "rm", "a")
		require.Zero(t, code)
		require.Empty(t, stdout)
		require.Equal(t, "rm: cannot find an image satisfying \"a\" in the local store: not found\n", stderr)
		require.Equal(t, "[]\n", n.rkt("image", "rm", "a", "--format=json"))
		_, stdout, stderr = n.try("image", "gc")
		require.Empty(t, stdout)
		require.Equal(t, "gc: 0 image(s) and 0 unused layer(s) removed\n", stderr)
		for _, args := range []string{"verify a", "cat-manifest a", "export a file"} {
			n.fails(`cannot find an image satisfying "a"`, append([]string{"image"}, strings.Fields(args)...)...)
		}
		require.Equal(t, before, n.tree())
	}
}

func TestAnEmptyDirIsNotTheCurrentFolder(t *testing.T) {
	n := newNode(t)
	for _, args := range []string{"image list", "fetch ./x"} {
		n.fails("--dir: it is empty, give the folder of rkt's data", append(strings.Fields(args), "--dir=")...)
	}
	require.Empty(t, n.tree())
}

// tree are all the paths below the node's folder.
func (n *node) tree() (paths []string) {
	require.NoError(n.t, filepath.WalkDir(n.dir, func(path string, _ fs.DirEntry, err error) error {
		if path != n.dir {
			paths = append(paths, path)
		}
		return err
	}))
	return paths
}

func TestTheRunDirectoryOfAStoreIsChosenOnce(t *testing.T) {
	n := newNode(t)
	n.rkt("fetch", n.aci("x.aci", appManifest))
	n.fails("it is "+n.path("run")+", by the file "+n.path("data/run-dir"), "--run-dir="+n.path("other"), "image", "list")
	found, err := rundir.Find(n.path("data"), "")
	require.NoError(t, err)
	require.Equal(t, n.path("run"), found.Run, "where rkt is called without the flag")
	require.Len(t, strings.Split(n.rkt("--run-dir=", "image", "list"), "\n"), 3)
	require.NoDirExists(t, n.path("other"))
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
