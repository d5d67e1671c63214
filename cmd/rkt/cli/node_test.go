package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.podman.io/storage/pkg/reexec"
	"golang.org/x/sys/unix"
)

const testDirs = "/var/tmp/rkt-cli-test-" // on a disk: overlay takes no tmpfs everywhere

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	sweep()
	code := m.Run()
	os.RemoveAll(ownDir())
	os.Exit(code)
}

func ownDir() string { return fmt.Sprintf("%s%d", testDirs, os.Getpid()) }

// sweep removes what killed runs of these tests left.
func sweep() {
	left, _ := filepath.Glob(testDirs + "*")
	for _, dir := range left {
		pid := strings.TrimPrefix(dir, testDirs)
		if _, err := os.Stat("/proc/" + pid); errors.Is(err, os.ErrNotExist) {
			os.RemoveAll(dir)
		}
	}
}

// rktBinary builds the program once, as it is shipped.
var rktBinary = sync.OnceValues(func() (string, error) {
	bin := filepath.Join(ownDir(), "rkt")
	build := exec.Command("go", "build", "-tags", "containers_image_openpgp,exclude_graphdriver_btrfs,exclude_graphdriver_devicemapper", "-o", bin, "..")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build rkt: %w\n%s", err, out)
	}
	return bin, nil
})

// node is a machine's image store, worked on by the built program.
type node struct {
	t   *testing.T
	bin string
	dir string
}

func newNode(t *testing.T) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("the image store belongs to root")
	}
	bin, err := rktBinary()
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(ownDir(), 0o700))
	dir, err := os.MkdirTemp(ownDir(), "node-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return &node{t: t, bin: bin, dir: dir}
}

// command is rkt with its global flags set to this node.
func (n *node) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(n.t.Context(), n.bin, append([]string{"--dir=" + n.dir + "/data", "--run-dir=" + n.dir + "/run"}, args...)...)
	cmd.Dir = n.dir
	return cmd
}

// try runs rkt to its end.
func (n *node) try(args ...string) (code int, stdout, stderr string) {
	n.t.Helper()
	var out, errOut bytes.Buffer
	cmd := n.command(args...)
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(n.t, err, &exit)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

// rkt runs rkt, which must succeed, and returns its standard output.
func (n *node) rkt(args ...string) string {
	n.t.Helper()
	code, stdout, stderr := n.try(args...)
	require.Equal(n.t, 0, code, "rkt %s: %s", strings.Join(args, " "), stderr)
	return stdout
}

// fails runs rkt, which must fail and print nothing on standard output.
func (n *node) fails(want string, args ...string) {
	n.t.Helper()
	code, stdout, stderr := n.try(args...)
	require.Equal(n.t, 254, code, stderr)
	require.Contains(n.t, stderr, want)
	require.Empty(n.t, stdout)
}

// list is what rkt image list says, in JSON.
func (n *node) list() (out []entry) {
	n.t.Helper()
	require.NoError(n.t, json.Unmarshal([]byte(n.rkt("image", "list", "--format=json")), &out))
	return out
}

// path is a file of the node.
func (n *node) path(name string) string { return filepath.Join(n.dir, name) }

const appManifest = `{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/app","labels":[{"name":"version","value":"1.2"}],
	"app":{"exec":["/bin/app","-v"],"user":"7","group":"8","environment":[{"name":"A","value":"b"}],
	"ports":[{"name":"http","port":80,"protocol":"tcp"}],"mountPoints":[{"name":"data","path":"/data"}],"workingDirectory":"/w"}}`

// aci writes a compressed ACI file.
func (n *node) aci(name, manifest string) string {
	n.t.Helper()
	var buf bytes.Buffer
	zip := gzip.NewWriter(&buf)
	w := tar.NewWriter(zip)
	for _, f := range []struct{ name, body string }{{"manifest", manifest}, {"rootfs/", ""}, {"rootfs/bin/", ""}, {"rootfs/bin/app", "the app's content\n"}} {
		h := &tar.Header{Name: f.name, Mode: 0o755, Size: int64(len(f.body)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			h.Typeflag = tar.TypeDir
		}
		require.NoError(n.t, w.WriteHeader(h))
		_, err := w.Write([]byte(f.body))
		require.NoError(n.t, err)
	}
	require.NoError(n.t, w.Close())
	require.NoError(n.t, zip.Close())
	require.NoError(n.t, os.WriteFile(n.path(name), buf.Bytes(), 0o600))
	return n.path(name)
}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	return lines[len(lines)-1]
}

// terminal opens a pseudo terminal: the side that a person looks at, and the
// side that a program gets.
func terminal(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { screen.Close() })
	require.NoError(t, unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	require.NoError(t, err)
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { tty.Close() })
	require.NoError(t, unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 40, Col: 120}))
	return screen, tty
}

// watch collects what appears on the screen until the last holder of the tty
// has closed it.
func watch(screen *os.File) (text func() string) {
	var out bytes.Buffer
	done := make(chan struct{})
	go func() {
		defer close(done)
		out.ReadFrom(screen) // ends with EIO when the tty is closed
	}()
	return func() string {
		<-done
		return out.String()
	}
}
