package rktshim

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// lockDir makes this process the one that runs the node of a data folder, until
// the file is closed or the process ends. Commands like rkt do not take the lock.
func lockDir(dir string) (*os.File, error) {
	path := filepath.Join(dir, "rktshim.lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data folder: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("another runtime uses the data folder %s: stop it, or choose another folder: %w", dir, errdefs.ErrFailedPrecondition)
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}
