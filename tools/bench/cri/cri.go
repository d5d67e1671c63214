// Package cri measures the calls by which a kubelet runs pods: ours in memory, as
// the kubelet makes them, with each of two flavors; ours by socket; and Debian's
// containerd with runc, on the same machine in the same run, with the same image
// and the same network configuration.
//
// # Processes
//
//	bench ── arena (PID 1 of namespaces of its own: mount, network, PID)
//	          └ conductor ─┬ agent "nspawn": rktshim, as it is in a kubelet
//	                       ├ agent "lean":   the same with the other flavor
//	                       └ containerd, with configuration and folders of its own
//
// The kernel ends all of it with the arena. What it leaves on disk and in cgroups
// lies in folders of fixed names, swept before and after each run.
package cri

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
)

// scratch is where everything lies: on a disk, as nodes keep images there.
const scratch = "/var/tmp/rktshim-bench-cri"

// cgroups is below which all pods are.
const cgroups = "/rktshim-bench-cri"

// only is a name in the kernel that one process can have at a time: two runs would
// disturb each other.
const only = "@rktshim-bench-cri"

// Binaries are the programs of ours that a node needs.
type Binaries struct{ Rkt, Supervisor string }

// Scale says how much is measured.
type Scale struct {
	Rounds     int           // pods one after the other, of each kind
	Burst      int           // pods at once
	Workers    int           // who start and remove those
	Bursts     int           // how often
	Sessions   int           // rounds of exec and port-forward
	Alive      int           // pods alive while lists are measured
	Lists      int           // calls of each list
	Idle       time.Duration // for which CPU time is counted
	Containerd bool
}

// Full is what the published figures are measured with.
func Full(rounds int) Scale {
	return Scale{Rounds: rounds, Burst: 50, Workers: 10, Bursts: 3, Sessions: max(1, rounds/3), Alive: 100, Lists: 100, Idle: 10 * time.Second, Containerd: true}
}

// Quick tries everything once. Its figures mean nothing.
func Quick() Scale {
	_, err := exec.LookPath("containerd")
	return Scale{Rounds: 1, Burst: 3, Workers: 3, Bursts: 1, Sessions: 1, Alive: 3, Lists: 2, Idle: 100 * time.Millisecond, Containerd: err == nil}
}

// Measure runs everything in an arena.
func Measure(scale Scale, bin Binaries, progress func(string)) (*Results, error) {
	for _, path := range []*string{&bin.Rkt, &bin.Supervisor} {
		abs, err := filepath.Abs(*path)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(abs); err != nil {
			return nil, fmt.Errorf("%w: run make build first", err)
		}
		*path = abs
	}
	lock, err := alone()
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	if err := sweep(); err != nil {
		return nil, fmt.Errorf("remove what a killed benchmark has left: %w", err)
	}
	r, err := inArena(plan{Scale: scale, Binaries: bin}, progress)
	return r, errors.Join(err, sweep())
}

// alone waits until no other benchmark of pods runs.
func alone() (net.Listener, error) {
	for start := time.Now(); ; time.Sleep(time.Second) {
		lock, err := net.Listen("unix", only)
		if err == nil {
			return lock, nil
		}
		if !errors.Is(err, unix.EADDRINUSE) || time.Since(start) > 5*time.Minute {
			return nil, fmt.Errorf("another benchmark of pods runs: %w", err)
		}
	}
}

// plan is what the arena is told.
type plan struct {
	Scale
	Binaries
}

// message is one line from the arena.
type message struct {
	Progress string   `json:",omitempty"`
	Results  *Results `json:",omitempty"`
}

func inArena(p plan, progress func(string)) (*Results, error) {
	if err := os.MkdirAll(scratch, 0o755); err != nil {
		return nil, err
	}
	told, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", arenaArg, string(told))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID,
		Pdeathsig:  unix.SIGKILL,
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread() // Pdeathsig is sent when the thread ends
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var results *Results
	for in := json.NewDecoder(out); ; {
		var m message
		if err = in.Decode(&m); err != nil {
			break // its end
		}
		if m.Results != nil {
			results = m.Results
		} else {
			progress(m.Progress)
		}
	}
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("the arena: %w; logs of what ran in it are above", err)
	}
	if results == nil {
		return nil, fmt.Errorf("the arena gave no results: %w", err)
	}
	return results, nil
}

// sweep removes what an arena leaves: its processes are dead, its mounts gone.
func sweep() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	err := cgroup.Kill(ctx, cgroups)
	if err == nil {
		err = cgroup.Remove(ctx, cgroups)
	}
	return errors.Join(err, os.RemoveAll(scratch))
}

// Child runs this program as one of the processes above, if its arguments say so.
func Child(args []string) (bool, error) {
	if len(args) == 0 {
		return false, nil
	}
	switch {
	case args[0] == arenaArg && len(args) == 2:
		return true, arena(args[1])
	case args[0] == conductorArg && len(args) == 2:
		return true, conductor(args[1])
	case args[0] == agentArg && len(args) == 2:
		return true, serveAgent(args[1])
	}
	return false, nil
}
