package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// NewNamespace makes a network namespace in which nothing but the loopback
// interface is up, with 127.0.0.1 and, where the kernel has IPv6, ::1. It pins it
// by a mount on the file at path, which it makes together with its folder.
// A namespace at path already is an error of class AlreadyExists; a file that a
// reboot has left there is used.
//
// The mount's folder gets no propagation of its own. Whoever uses the pin (the
// plugins, the supervisor, systemd-nspawn) opens it in the host's mount
// namespace, where it is made. Where the host's mounts are shared, as under
// systemd, its end reaches every copy of them; elsewhere, a process that has
// copied the mounts keeps the namespace in memory until it ends, but not the
// pod's interfaces: DEL has removed these.
func NewNamespace(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make network namespace %s: %w", path, err)
		}
	}()
	if IsNamespace(path) {
		return errdefs.ErrAlreadyExists
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|os.O_CREATE, 0o444)
	if err != nil {
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	if err := onThrowawayThread(func() error { return unshareAndPin(path) }); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// onThrowawayThread runs f on a thread that ends with it, so that f may change
// the thread's namespaces.
func onThrowawayThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			// The main thread cannot end: it would keep the namespace, and show it as
			// the whole process's. While it is locked here, the next goroutine gets
			// another one.
			defer runtime.UnlockOSThread()
			done <- onThrowawayThread(f)
			return
		}
		done <- f() // not unlocked: the Go runtime ends the thread with the goroutine
	}()
	return <-done
}

func unshareAndPin(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return fmt.Errorf("bring loopback up: %w", err)
	}
	own := fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid())
	if err := unix.Mount(own, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", own, err)
	}
	return nil
}

// loopbackUp sets lo up in the thread's network namespace. The kernel then gives
// it its addresses by itself.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
}

// RemoveNamespace removes the pin at path and its file. What is gone already is
// no error. It does not wait for the kernel to take the namespace apart, nor does
// it end processes in it.
func RemoveNamespace(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // nothing is mounted there, or nothing is there
		}
		if err != nil {
			return fmt.Errorf("remove network namespace %s: unmount: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// IsNamespace says whether path leads to a network namespace, and not, say, to
// the empty file that a reboot leaves of a pin.
func IsNamespace(path string) bool {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	return err == nil && kind == unix.CLONE_NEWNET
}
