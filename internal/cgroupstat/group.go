// Package cgroupstat reads what a cgroup uses, from files that are opened once:
// asking 330 groups takes a few milliseconds, where opening the files each time
// takes ten times as long.
//
// Files of a group that was removed stay readable for the kernel's sake only: they
// answer ENODEV, and opening one of them keeps no group alive.
package cgroupstat

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
)

// root is where the hierarchies are mounted, by convention of every init system.
const root = "/sys/fs/cgroup"

// Group is one cgroup, named by its path from the root of every hierarchy. Its
// files are opened when they are first read, and stay open until Close. Its methods
// are safe for concurrent use.
type Group struct {
	root    string
	path    string
	unified bool

	mu     sync.Mutex
	files  map[string]*file // guarded by mu; by name
	closed bool             // guarded by mu
}

// file is one file of a group; fd is negative where the kernel has no such file.
type file struct{ fd int }

// New names a group of this host. It opens nothing.
func New(path string) *Group {
	return &Group{root: root, path: path, unified: cgroup.Unified(), files: map[string]*file{}}
}

// Close closes the files. The group cannot be read any more.
func (g *Group) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = true
	for _, f := range g.files {
		if f.fd >= 0 {
			_ = unix.Close(f.fd)
		}
	}
	clear(g.files)
}

// CPU returns the processor time that the group has used, and when that was read.
func (g *Group) CPU() (used time.Duration, at time.Time, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.cpuLocked()
}

func (g *Group) cpuLocked() (used time.Duration, at time.Time, err error) {
	if !g.unified {
		n, err := g.number("cpuacct", "cpuacct.usage")
		return time.Duration(n), time.Now(), err
	}
	err = g.fields("", "cpu.stat", func(key []byte, value uint64) {
		if string(key) == "usage_usec" {
			used = time.Duration(value) * time.Microsecond
		}
	})
	return used, time.Now(), err
}

// read returns the text of a file in buf, or in a larger buffer. A file that the
// kernel does not have is unix.ENOENT, a group that is gone unix.ENODEV.
func (g *Group) read(hierarchy, name string, buf []byte) ([]byte, error) {
	f := g.files[name]
	if f == nil {
		if g.closed {
			return nil, fmt.Errorf("read cgroup %s: %s: %w", g.path, name, unix.ENODEV)
		}
		f = &file{fd: -1}
		dir := filepath.Join(g.root, hierarchy, g.path)
		fd, err := unix.Open(filepath.Join(dir, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		switch {
		case err == nil:
			f.fd = fd
		case !errors.Is(err, unix.ENOENT):
			return nil, fmt.Errorf("read cgroup %s: open %s: %w", g.path, name, err)
		case unix.Access(dir, unix.F_OK) != nil && unix.Access(filepath.Join(g.root, hierarchy), unix.F_OK) == nil: // not made yet, or gone
			return nil, fmt.Errorf("read cgroup %s: %w", g.path, unix.ENODEV)
		}
		g.files[name] = f
	}
	if f.fd < 0 {
		return nil, unix.ENOENT
	}
	for {
		n, err := unix.Pread(f.fd, buf, 0)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, fmt.Errorf("read cgroup %s: %s: %w", g.path, name, err)
		case n < len(buf):
			return buf[:n], nil
		default: // it may go on
			buf = make([]byte, 2*len(buf))
		}
	}
}
