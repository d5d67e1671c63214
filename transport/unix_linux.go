package transport

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// MaxSocketPath is the longest path, in bytes, that a client can put into a
// sockaddr_un (unix(7): 108 bytes with the terminating zero).
const MaxSocketPath = 107

// Unix makes an endpoint at a unix socket. Listening creates the parent folder
// and the socket with mode 0600, so only the user of this process (root, for a
// kubelet) can dial it; it replaces a socket that nobody serves, atomically, and
// fails with errdefs.ErrAlreadyExists if a live server has it, and with
// errdefs.ErrFailedPrecondition if path is something else than a socket. Closing
// the listener removes the socket unless somebody else has replaced it.
func Unix(path string) *Endpoint {
	return &Endpoint{
		name:   "unix://" + path,
		listen: func() (net.Listener, error) { return listenUnix(path) },
		dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
	}
}

// unixListener removes its socket, and gives up its lock, when it is closed.
type unixListener struct {
	*net.UnixListener
	path  string
	inode uint64
	lock  *os.File
	close sync.Once
}

// Close implements net.Listener. Later calls return nil.
func (l *unixListener) Close() (err error) {
	l.close.Do(func() {
		err = l.UnixListener.Close()
		if ino, ierr := inode(l.path); ierr == nil && ino == l.inode {
			err = errors.Join(err, os.Remove(l.path))
		}
		err = errors.Join(err, l.lock.Close())
	})
	return err
}

func listenUnix(path string) (_ net.Listener, err error) {
	if !filepath.IsAbs(path) || len(path) > MaxSocketPath {
		return nil, fmt.Errorf("socket path %q must be absolute and at most %d bytes: %w", path, MaxSocketPath, errdefs.ErrInvalidArgument)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	lock, err := lockSocket(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	if err := checkReplaceable(path); err != nil {
		return nil, err
	}
	l, err := bindAt(dir, path)
	if err != nil {
		return nil, err
	}
	ino, err := inode(path)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &unixListener{UnixListener: l, path: path, inode: ino, lock: lock}, nil
}

// lockSocket takes the lock beside the socket for the listener's life. A process
// that dies drops it, so a lock that is held means a server that lives. The file
// stays behind: removing it would let two servers lock two different files.
func lockSocket(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("a live server holds %s.lock: stop it, or choose another path: %w", path, errdefs.ErrAlreadyExists)
	}
	return nil, fmt.Errorf("lock %s.lock: %w", path, err)
}

// checkReplaceable says whether path may be replaced by our socket. A server of
// another program takes no lock of ours, so it is asked by dialling.
func checkReplaceable(path string) error {
	fi, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case fi.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s exists and is no socket: remove it, or choose another path: %w", path, errdefs.ErrFailedPrecondition)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		c.Close()
	}
	return fmt.Errorf("another program serves %s: stop it, or choose another path: %w", path, errdefs.ErrAlreadyExists)
}

// bindAt makes the socket in a private folder, gives it its mode, and moves it to
// path: at no moment is it there with a wider mode, or without a server behind
// it. The bind goes through /proc/self/fd, as the temporary path may be too long
// for a sockaddr_un.
func bindAt(dir, path string) (_ *net.UnixListener, err error) {
	tmp, err := os.MkdirTemp(dir, ".sock-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	d, err := os.Open(tmp)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/s", d.Fd()), Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(filepath.Join(tmp, "s"), 0o600), os.Rename(filepath.Join(tmp, "s"), path)); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func inode(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0, &fs.PathError{Op: "lstat", Path: path, Err: err}
	}
	return st.Ino, nil
}
