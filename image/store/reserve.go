package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.podman.io/storage/pkg/lockfile"
	"golang.org/x/sys/unix"
)

// Even removing needs some space, as the library writes its lists anew. A file
// of this size keeps it, so that a full disk can be emptied.
const (
	reserveFile = "reserve"
	reserveSize = 1 << 20
)

// withReserve runs f, which removes something, with the reserved space at hand
// if the disk is full: f is run again if it fails for that reason all the same.
func (s *Store) withReserve(f func() error) error {
	defer s.keepReserve()
	if s.nearlyFull() { // now, as a removal that is cut short leaves layers behind
		s.freeReserve()
	}
	err := f()
	if !isFull(err) {
		return err
	}
	s.freeReserve()
	if err := s.reload(); err != nil {
		return err
	}
	if err = f(); isFull(err) {
		err = errors.Join(err, s.reload())
	}
	return err
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// reload makes the library read its lists again. When it cannot write one, it
// has the change in memory all the same, and takes for gone what is not.
func (s *Store) reload() error {
	for _, list := range []string{"overlay-images/images.lock", "overlay-layers/layers.lock", "overlay-containers/containers.lock"} {
		if err := announceWrite(filepath.Join(s.cfg.Root, list)); err != nil {
			return fmt.Errorf("read lists of image store again: %w", err)
		}
	}
	return nil
}

func announceWrite(path string) error {
	lock, err := lockfile.GetLockFile(path)
	if err != nil {
		return err
	}
	lock.Lock()
	defer lock.Unlock()
	_, err = lock.RecordWrite()
	return err
}

func (s *Store) nearlyFull() bool {
	var st unix.Statfs_t
	return unix.Statfs(s.cfg.Root, &st) == nil && st.Bavail*uint64(st.Bsize) < reserveSize
}

// keepReserve makes the reserve if it is not there. A disk that has no room for
// it, or cannot set space aside, has none.
func (s *Store) keepReserve() {
	f, err := os.OpenFile(s.own(reserveFile), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer f.Close()
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) == nil && st.Size == reserveSize && st.Blocks*512 >= reserveSize {
		return
	}
	if unix.Fallocate(int(f.Fd()), 0, 0, reserveSize) != nil {
		f.Truncate(0) //nolint:errcheck // what there is of it would keep nothing
	}
}

// freeReserve gives the space back; the file stays, as making it takes space, too.
func (s *Store) freeReserve() {
	os.Truncate(s.own(reserveFile), 0) //nolint:errcheck // there may be none
}
