package cgroup

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Kill kills every process in the group and below it and waits until none is left;
// new processes that they fork meanwhile are killed too. The caller must not be in
// it, but its threads may (OnThreadIn). If it takes too long, the error is ctx's and
// names what lives on.
func Kill(ctx context.Context, path string) error {
	pause := time.Millisecond
	for first := true; ; first = false {
		pids := Procs(path)
		if len(pids) == 0 {
			return nil
		}
		if first || pause >= 16*time.Millisecond {
			killAll(path, pids)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("kill cgroup %s: %d processes live on, the first is %d: %w", path, len(pids), pids[0], ctx.Err())
		case <-time.After(pause): // v1 has no notice of an empty group
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}

// killAll sends one round of SIGKILL. On v2 the kernel does it whole; on v1 the
// group is frozen meanwhile, if that is safe, so that nothing forks past us.
func killAll(path string, pids []int) {
	if Unified() && writeFile(filepath.Join(root, path, "cgroup.kill"), "1") == nil {
		return
	}
	thaw, frozen := freeze(path)
	if frozen {
		defer thaw()
		pids = Procs(path)
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, unix.SIGKILL) // it may have exited
	}
}

// ours is held for reading while a thread of this process goes into a group, and for
// writing while a group is frozen: a process with a frozen thread comes to a stand at
// its next garbage collection, and could never thaw it.
var ours sync.RWMutex

// freeze has the kernel stop whatever is in the group and below it, until thaw is
// called. It does not if a thread of this process is there, or may be.
func freeze(path string) (thaw func(), frozen bool) {
	dir := filepath.Join(root, "freezer", path)
	if !ours.TryLock() {
		return nil, false
	}
	if threadIn(dir) || writeFile(filepath.Join(dir, freezerState), "FROZEN") != nil {
		ours.Unlock()
		return nil, false
	}
	return func() {
		defer ours.Unlock()
		_ = writeFile(filepath.Join(dir, freezerState), "THAWED") // and those below a freezer of their own:
		walk(dir, func(d string) { _ = writeFile(filepath.Join(d, freezerState), "THAWED") })
	}, true
}

const freezerState = "freezer.state"

// threadIn says whether a thread of this process is in the group folder or below:
// one that has left OnThreadIn takes a moment to die.
func threadIn(dir string) (in bool) {
	walk(dir, func(d string) {
		for _, tid := range readPIDs(filepath.Join(d, "tasks")) {
			in = in || exists(filepath.Join("/proc/self/task", strconv.Itoa(tid)))
		}
	})
	return in
}
