package pod

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// onItsOwnDisk puts the engine's records on a file system of their own.
func (h *host) onItsOwnDisk() (pods string) {
	h.t.Helper()
	pods = filepath.Join(h.dir, "pods")
	require.NoError(h.t, os.MkdirAll(pods, 0o700))
	require.NoError(h.t, unix.Mount("none", pods, "tmpfs", 0, "size=1m"))
	return pods
}

// A disk that turns read-only: calls that write fail and say why, nothing of them is
// left, and all that does not write goes on.
func TestReadOnlyDiskFailsWhatWritesAndNothingElse(t *testing.T) {
	h := newHost(t)
	pods := h.onItsOwnDisk()
	e, _, id, app := launched(t, h)
	readOnly := func(flag uintptr) {
		require.NoError(t, unix.Mount("none", pods, "", unix.MS_REMOUNT|flag, "size=1m"))
	}
	readOnly(unix.MS_RDONLY)
	t.Cleanup(func() { readOnly(0) })
	other := testSpec()
	other.UID += "-other"

	_, lerr := e.Launch(t.Context(), other)
	second := testApp()
	second.Name += "-second"
	_, cerr := e.CreateApp(t.Context(), id, second, plain)

	require.ErrorIs(t, lerr, unix.EROFS)
	require.ErrorIs(t, cerr, unix.EROFS)
	require.Len(t, e.Pods(nil), 1, "reads go on")
	require.Len(t, e.Apps(nil), 1)
	require.Equal(t, []string{string(app)}, h.rootIDs(), "nothing is left of the other app")
	require.NoError(t, e.Stop(t.Context(), id, 0), "a pod can be stopped")
	p, err := e.Pod(id)
	require.NoError(t, err)
	require.Equal(t, Exited, p.State)
	require.Error(t, e.Remove(t.Context(), id), "but not be deleted")

	readOnly(0)
	require.NoError(t, e.Remove(t.Context(), id))
	h.requireNothingLeft()
}

// A disk that answers nobody for a while: who writes waits, who reads does not.
func TestSlowDiskDelaysNoRead(t *testing.T) {
	h := newHost(t)
	pods := h.onItsOwnDisk()
	e, _, id, app := launched(t, h)
	reached, release := stall(t, pods)
	other := testSpec()
	other.UID += "-other"
	done := make(chan error, 1)
	go func() {
		_, err := e.Launch(t.Context(), other)
		done <- err
	}()
	<-reached // it writes its record

	_, err := e.Pod(id)
	require.NoError(t, err)
	_, err = e.App(app)
	require.NoError(t, err)
	require.Len(t, e.Pods(nil), 1)
	require.Len(t, e.Apps(nil), 1)
	require.Empty(t, done)

	release()
	require.NoError(t, <-done)
	require.Len(t, e.Pods(nil), 2)
}

// stall has every opening of a file on a mount wait until release is called: the
// kernel asks us for leave (fanotify(7)). If the test dies, it asks nobody any more.
// The first who waits is told of.
func stall(t *testing.T, mount string) (reached chan struct{}, release func()) {
	t.Helper()
	asker, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT|unix.FAN_CLOEXEC, unix.O_RDONLY|unix.O_CLOEXEC)
	require.NoError(t, err)
	require.NoError(t, unix.FanotifyMark(asker, unix.FAN_MARK_ADD|unix.FAN_MARK_MOUNT, unix.FAN_OPEN_PERM, unix.AT_FDCWD, mount))
	reached = make(chan struct{})
	go func() {
		defer close(reached)
		var event unix.FanotifyEventMetadata
		buf := unsafe.Slice((*byte)(unsafe.Pointer(&event)), unsafe.Sizeof(event))
		if n, err := unix.Read(asker, buf); err == nil && n == len(buf) {
			unix.Close(int(event.Fd))
		}
	}()
	closed := false
	release = func() {
		if !closed {
			closed = true
			require.NoError(t, unix.Close(asker)) // all who wait may go on
		}
	}
	t.Cleanup(release)
	return reached, release
}
