package server

import (
	"io"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// sealed is a program behind a read-only mount of its own that nobody else sees. crun
// protects its program from what it runs (CVE-2019-5736): each of its commands makes
// such a mount, takes it away and executes itself again, which is the greater part of
// a command's time. It leaves that out when it finds itself behind one.
//
// The mount goes with its descriptor, so it needs no cleaning up.
type sealed struct {
	path string

	mu   sync.Mutex
	fd   int     // guarded by mu; of the mount, -1 for none
	of   program // guarded by mu; what is behind it
	dead bool    // guarded by mu; this host cannot do it
}

// firstFD is above those that a command is given, which would take its place.
const firstFD = 64

func newSealed(path string) *sealed { return &sealed{path: path, fd: -1} }

// command returns a path to execute: through the mount, which is made anew when the
// program has been replaced, or the program's own where there can be none.
func (s *sealed) command() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var st unix.Stat_t
	if s.dead || unix.Stat(s.path, &st) != nil {
		return s.path
	}
	if is := (program{uint64(st.Dev), st.Ino}); s.fd < 0 || s.of != is {
		s.closeLocked()
		fd, err := mountReadOnly(s.path)
		if err != nil || !isBinary(fd) {
			s.fd, s.dead = fd, true
			s.closeLocked()
			return s.path
		}
		s.fd, s.of = fd, is
	}
	return "/proc/self/fd/" + strconv.Itoa(s.fd)
}

// giveUp is for when the mount cannot be executed from: a security module may not
// know what to make of a path that nobody sees.
func (s *sealed) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closeLocked()
	s.dead = true
}

func (s *sealed) closeLocked() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd) // nothing was written through it
		s.fd = -1
	}
}

// isBinary says whether the file is a program by itself: a script's interpreter would
// look for a descriptor that is closed by then.
func isBinary(fd int) bool {
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return false
	}
	defer f.Close()
	magic := make([]byte, 4)
	_, err = io.ReadFull(f, magic)
	return err == nil && string(magic) == "\x7fELF"
}

// mountReadOnly makes a read-only mount of a file that is attached nowhere (Linux
// 5.12).
func mountReadOnly(path string) (fd int, err error) {
	made, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, err
	}
	defer unix.Close(made)
	if err := unix.MountSetattr(made, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return -1, err
	}
	return unix.FcntlInt(uintptr(made), unix.F_DUPFD_CLOEXEC, firstFD)
}
