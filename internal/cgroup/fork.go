package cgroup

import (
	"fmt"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/thread"
)

// OnThreadIn runs f on a thread of its own that has joined the given group folders
// of cgroup v1, so that a process which f forks is born in them: the race-free way
// in, since a v1 process can join only after its birth. The thread dies afterwards;
// f must not set a parent death signal (SysProcAttr.Pdeathsig). The folders must lie in different
// hierarchies.
func OnThreadIn(dirs []string, f func() error) error {
	if len(dirs) == 0 {
		return f()
	}
	ours.RLock()
	defer ours.RUnlock()
	return thread.Run(func() error {
		for _, dir := range dirs {
			// "0" is the writing thread, which needs no lock of all forks.
			if err := writeFile(filepath.Join(dir, "tasks"), "0"); err != nil {
				return fmt.Errorf("join cgroup %s: %w", dir, err)
			}
		}
		return f()
	})
}

// ForkInto calls f, which is to fork with the given attributes: the process is then
// born in the group, in every hierarchy, and so is all that it forks. f runs on a
// thread that may die afterwards.
func ForkInto(path string, sys *syscall.SysProcAttr, f func() error) error {
	var v1 []string
	for _, dir := range Dirs(path) {
		if exists(filepath.Join(dir, "tasks")) {
			v1 = append(v1, dir)
			continue
		}
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open cgroup %s: %w", dir, err)
		}
		defer unix.Close(fd)
		sys.UseCgroupFD, sys.CgroupFD = true, fd
	}
	return OnThreadIn(v1, f)
}
