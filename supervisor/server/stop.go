package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/reap"
	"github.com/rktnetes/rktshim/supervisor"
)

// stopApp signals, waits and kills. It is safe beside itself.
func (s *Server) stopApp(ctx context.Context, a *app, sig syscall.Signal, grace time.Duration) (supervisor.Exit, error) {
	if grace > 0 && sig != unix.SIGKILL && a.is(supervisor.AppRunning) {
		timer := time.NewTimer(grace)
		defer timer.Stop()
		if err := a.awaitProgram(ctx, timer); err != nil {
			return supervisor.Exit{}, err
		}
		if err := a.proc.Signal(sig); err != nil && !errors.Is(err, errdefs.ErrNotFound) {
			return supervisor.Exit{}, fmt.Errorf("stop app %s: %w", a.spec.Name, err)
		}
		select {
		case <-a.exited:
			return a.exit, nil
		case <-timer.C:
		case <-ctx.Done():
			return supervisor.Exit{}, ctx.Err()
		}
	}
	a.kill(ctx)
	select {
	case <-a.exited:
		return a.exit, nil
	case <-ctx.Done():
		return supervisor.Exit{}, ctx.Err()
	}
}

// kill ends all that is in the app's cgroup, and its first process even if that has
// left the cgroup.
func (a *app) kill(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	_ = a.proc.Signal(unix.SIGKILL)     // it may have exited
	_ = cgroup.Kill(ctx, a.spec.Cgroup) // watch does so again and reports
}

// program tells files that processes execute apart. The zero value is none.
type program struct{ dev, ino uint64 }

// programOf is what a process executes; none if it has ended.
func programOf(p *reap.Process) (exe program) {
	_ = p.While(func(pid int) error {
		var st unix.Stat_t
		if err := unix.Stat("/proc/"+strconv.Itoa(pid)+"/exe", &st); err != nil {
			return err
		}
		exe = program{uint64(st.Dev), st.Ino}
		return nil
	})
	return exe
}

// awaitProgram waits until the OCI runtime's init has become the app, for as long as
// the timer runs. The runtime's start returns a little before that, and a signal in
// between would be lost (crun, which is process 1) or end the app with an exit code
// that is the init's (runc, whose exits with 2).
func (a *app) awaitProgram(ctx context.Context, timer *time.Timer) error {
	for a.waiting != (program{}) && programOf(a.proc) == a.waiting {
		select {
		case <-a.exited:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
			timer.Reset(0) // for who waits next
			return nil
		case <-time.After(time.Millisecond):
		}
	}
	return nil
}
