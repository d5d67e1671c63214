package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Quick keeps moves of processes between cgroups quick for a while. The first move
// waits until every CPU has passed a quiescent state, 8 ms and more, and so does
// the first after a pause: the kernel takes a lock that costs forks nothing and
// moves much (cgroup_threadgroup_rwsem). Moves that follow each other closely do
// not wait. Quick moves a thread of its own into the group that it is in already,
// which changes nothing else, every few milliseconds for as long as wanted.
type Quick struct {
	wanted chan time.Duration
}

// quickEvery is less than the kernel takes to give the lock up.
const quickEvery = 3 * time.Millisecond

// NewQuick returns one that does nothing before Run.
func NewQuick() *Quick { return &Quick{wanted: make(chan time.Duration, 1)} }

// Want asks for quick moves from now on for d. It never blocks.
func (q *Quick) Want(d time.Duration) {
	select {
	case q.wanted <- d:
	default: // somebody has just asked
	}
}

// Run does what is wanted until ctx ends. Where the process's own group cannot be
// written to, moves stay as slow as they are.
func (q *Quick) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-q.wanted:
			q.hold(ctx, d)
		}
	}
}

func (q *Quick) hold(ctx context.Context, d time.Duration) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tick := time.NewTicker(quickEvery)
	defer tick.Stop()
	for until := time.Now().Add(d); time.Now().Before(until); {
		if !moveNowhere() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case d := <-q.wanted:
			if next := time.Now().Add(d); next.After(until) {
				until = next
			}
		case <-tick.C:
		}
	}
}

// moveNowhere moves the calling thread, on v2 the process, into a group that it is
// in, of v1 if there is any. It looks anew each time which that is, as an init system
// or the kubelet may move the process meanwhile.
func moveNowhere() bool {
	path, id := ownMembers()
	return path != "" && writeFile(path, id) == nil
}

// ownMembers returns the list of members of a group that the calling thread is in,
// and what is to be written to it. Empty: there is none.
func ownMembers() (path, id string) {
	text, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return "", ""
	}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		switch {
		case len(f) != 3:
		case f[1] != "":
			path, id = filepath.Join(root, strings.TrimPrefix(f[1], "name="), f[2], "tasks"), strconv.Itoa(unix.Gettid())
		case Unified(): // threads have no list of their own
			path, id = filepath.Join(root, f[2], "cgroup.procs"), strconv.Itoa(os.Getpid())
		}
		if path != "" && exists(path) {
			return path, id
		}
	}
	return "", ""
}
