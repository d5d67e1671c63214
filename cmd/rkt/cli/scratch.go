package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// withScratch runs work with a folder for large temporary files, on the disk of
// the store. Each process holds a lock on its own; one whose lock is free
// belonged to a process that was killed, and is removed here.
func (g *global) withScratch(work func(dir string) error) (err error) {
	base := filepath.Join(g.dir, "tmp")
	dir, lock, err := claim(base)
	if err != nil {
		return fmt.Errorf("make a temporary folder below %s: %w", base, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir), lock.Close()) }()
	return work(dir)
}

// claim makes a folder below base and locks it, after a look at the others.
func claim(base string) (dir string, lock *os.File, err error) {
	if err := os.MkdirAll(base, 0o700); err != nil {
		return "", nil, err
	}
	all, err := locked(base, unix.LOCK_EX) // nobody else looks while ours has no lock yet
	if err != nil {
		return "", nil, err
	}
	defer all.Close()
	left, err := os.ReadDir(base)
	if err != nil {
		return "", nil, err
	}
	for _, e := range left {
		old := filepath.Join(base, e.Name())
		free, err := locked(old, unix.LOCK_EX|unix.LOCK_NB)
		if err != nil {
			continue // in use
		}
		if err := errors.Join(os.RemoveAll(old), free.Close()); err != nil {
			return "", nil, err
		}
	}
	if dir, err = os.MkdirTemp(base, "rkt-"); err != nil {
		return "", nil, err
	}
	lock, err = locked(dir, unix.LOCK_EX)
	return dir, lock, err
}

// locked opens a file or folder and locks it until it is closed.
func locked(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
	}
	return f, nil
}
