package cgroup

import (
	"fmt"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
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
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for _, dir := range dirs {
			// "0" is the writing thread, which needs no lock of all forks.
			if err := writeFile(filepath.Join(dir, "tasks"), "0"); err != nil {
				errs <- fmt.Errorf("join cgroup %s: %w", dir, err)
				return
			}
		}
		errs <- f()
	}()
	return <-errs
}

// OpenV2 opens the group's folder for clone3's CLONE_INTO_CGROUP. The caller
// closes it.
func OpenV2(path string) (fd int, err error) {
	fd, err = unix.Open(filepath.Join(root, path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open cgroup %s: %w", path, err)
	}
	return fd, nil
}
