package network

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestNewNamespaceHasOnlyLoopbackAndThatIsUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "netns", "a")
	require.NoError(t, NewNamespace(path))
	require.True(t, IsNamespace(path))
	inNamespace(t, path, func() error {
		ifaces, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, iface := range ifaces {
			if up := iface.Flags&net.FlagUp != 0; up != (iface.Name == "lo") {
				return fmt.Errorf("%s is up: %v", iface.Name, up)
			}
		}
		for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
			listener, err := net.Listen("tcp", address)
			if err != nil {
				return err
			}
			listener.Close()
		}
		return nil
	})
	require.NoError(t, RemoveNamespace(path))
	require.NoFileExists(t, path)
	require.NoError(t, RemoveNamespace(path), "once more does no harm")
}

func TestNamespacesLeaveNoThreadAndNoMount(t *testing.T) {
	dir := t.TempDir()
	own, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	var wg sync.WaitGroup
	for i := range 50 {
		path := filepath.Join(dir, fmt.Sprint(i))
		wg.Go(func() {
			if err := NewNamespace(path); err != nil {
				t.Error(err)
			}
			if err := RemoveNamespace(path); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), dir)
	now, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	require.Equal(t, own, now, "the main thread must stay where it was")
	require.Eventually(t, func() bool { return len(strayThreads(t, own)) == 0 }, waitFor, tick, "no thread may stay in a namespace")
}

func strayThreads(t *testing.T, own string) (out []string) {
	links, err := filepath.Glob("/proc/self/task/*/ns/net")
	require.NoError(t, err)
	for _, link := range links {
		if ns, err := os.Readlink(link); err == nil && ns != own {
			out = append(out, ns)
		}
	}
	return out
}

func TestNewNamespaceUsesTheFileThatARebootLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	require.NoError(t, os.WriteFile(path, nil, 0o444))
	require.False(t, IsNamespace(path))
	require.NoError(t, NewNamespace(path))
	require.True(t, IsNamespace(path))
	require.ErrorIs(t, NewNamespace(path), errdefs.ErrAlreadyExists)
	require.True(t, IsNamespace(path), "a refused call must not harm what is there")
	require.NoError(t, RemoveNamespace(path))
}

func TestRemoveNamespaceRemovesStackedPins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	require.NoError(t, NewNamespace(path))
	require.NoError(t, unix.Mount("/proc/self/ns/net", path, "", unix.MS_BIND, ""))
	require.NoError(t, RemoveNamespace(path))
	require.NoFileExists(t, path)
}

func TestRemoveNamespaceRemovesThePinOfAPlainFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a")
	require.NoError(t, os.WriteFile(path, nil, 0o444))
	require.NoError(t, RemoveNamespace(path))
	require.NoFileExists(t, path)
}

func TestNewNamespaceLeavesNothingWhenItFails(t *testing.T) {
	dir := t.TempDir()
	folder := filepath.Join(dir, "folder")
	require.NoError(t, os.MkdirAll(folder, 0o755))
	require.ErrorContains(t, NewNamespace(folder), "make network namespace "+folder)
	require.DirExists(t, folder)
	require.ErrorContains(t, NewNamespace("/proc/none/a"), "/proc/none")

	h := newHost(t)
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := h.helper("refused")
	cmd.Path, err = exec.LookPath("setpriv")
	require.NoError(t, err)
	cmd.Args = []string{"setpriv", "--bounding-set=-sys_admin", exe}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.NoFileExists(t, filepath.Join(h.dir, "refused"))
}
