package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/reap"
	"github.com/rktnetes/rktshim/supervisor"
)

// execSlot is a cgroup below an app's own in which one exec runs, so that its
// whole process tree can be killed. Slots are kept for later execs.
type execSlot struct {
	name string // relative to the app's cgroup
	path string // in cgroupfs syntax
}

// session is one exec under way.
type session struct {
	id      uint64
	app     *app
	slot    *execSlot
	proc    *reap.Process
	tty     *os.File // our copy of the terminal's master, for resize
	started time.Time
	bootAt  time.Duration
}

// takeSlot returns a slot without processes, made new if none is free. On v1 a
// slot lies in every hierarchy but cpuset: there a group below the app's would
// forbid the app to change its own CPUs.
func (s *Server) takeSlot(a *app) (*execSlot, error) {
	a.mu.Lock()
	for i, slot := range a.slots {
		if len(cgroup.Procs(slot.path)) == 0 { // else: what an exec left in the background
			a.slots = append(a.slots[:i:i], a.slots[i+1:]...)
			a.mu.Unlock()
			return slot, nil
		}
	}
	name := "exec-" + strconv.Itoa(a.nslots)
	a.nslots++
	a.mu.Unlock()
	slot := &execSlot{name: name, path: filepath.Join(a.spec.Cgroup, name)}
	if err := s.makeSlot(a, slot); err != nil {
		return nil, err
	}
	return slot, nil
}

func (s *Server) makeSlot(a *app, slot *execSlot) error {
	for _, dir := range cgroup.Dirs(a.spec.Cgroup) {
		h := cgroup.Controller(dir, a.spec.Cgroup)
		if h == "cpuset" || s.oci.isRunc() && h != "freezer" && h != "" {
			continue
		}
		if err := os.Mkdir(filepath.Join(dir, slot.name), 0o755); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("make cgroup for exec: %w", err)
		}
	}
	return nil
}

func (a *app) giveSlot(slot *execSlot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.slots = append(a.slots, slot)
}

// removeSlots removes the slots' cgroups of an app that has ended.
func (s *Server) removeSlots(ctx context.Context, a *app) error {
	a.mu.Lock()
	n := a.nslots
	a.mu.Unlock()
	for i := range n {
		if err := cgroup.Remove(ctx, filepath.Join(a.spec.Cgroup, "exec-"+strconv.Itoa(i))); err != nil {
			return err
		}
	}
	return nil
}

// startExec starts a process in a running app. files are process.json and, without
// a terminal, stdin, stdout and stderr; they stay the caller's. With a terminal it
// returns the master, which is the caller's.
func (s *Server) startExec(ctx context.Context, a *app, tty bool, files []*os.File) (*session, *os.File, error) {
	if !a.is(supervisor.AppRunning) {
		return nil, nil, fmt.Errorf("exec in app %s: it is not running: %w", a.spec.Name, errdefs.ErrFailedPrecondition)
	}
	slot, err := s.takeSlot(a)
	if err != nil {
		return nil, nil, fmt.Errorf("exec in app %s: %w", a.spec.Name, err)
	}
	sess, master, err := s.execIn(ctx, a, slot, tty, files)
	if err != nil {
		a.giveSlot(slot)
		return nil, nil, fmt.Errorf("exec in app %s: %w", a.spec.Name, err)
	}
	return sess, master, nil
}

func (s *Server) execIn(ctx context.Context, a *app, slot *execSlot, tty bool, files []*os.File) (_ *session, master *os.File, err error) {
	stdio := []*os.File{nil, nil, nil}
	if !tty {
		stdio = files[1:4]
		for _, f := range stdio {
			_ = unix.SetNonblock(int(f.Fd()), false) // the command must not meet EAGAIN
		}
	}
	pidFile := s.oci.temp("pid")
	args := []string{"--detach", "--process=/proc/self/fd/3", "--pid-file=" + pidFile, s.cgroupFlag(slot)}
	var console *consoleSocket
	if tty {
		if console, err = listenConsole(s.oci.temp("console")); err != nil {
			return nil, nil, err
		}
		defer console.close()
		args = append(args, "--tty", "--console-socket="+console.path)
	}
	claim := s.reaper.Claim()
	defer claim.Release()
	var cmd *command
	start := func() (err error) {
		cmd, err = s.oci.start("exec", append(args, a.spec.Name), stdio[0], stdio[1], stdio[2], files[0])
		return err
	}
	sess := &session{app: a, slot: slot, started: time.Now().Round(0), bootAt: bootClock()}
	if err := cgroup.OnThreadIn(s.joinBeforeExec(a), start); err != nil {
		return nil, nil, err
	}
	if err = cmd.finish(ctx); err == nil {
		sess.proc, err = adoptFrom(claim, pidFile)
	}
	if err == nil && tty {
		master, err = s.execTerminal(ctx, sess, console)
	}
	if err != nil {
		_ = os.Remove(pidFile)
		s.killExec(sess)
		return nil, nil, err
	}
	return sess, master, nil
}

func adoptFrom(claim *reap.Claim, pidFile string) (*reap.Process, error) {
	pid, err := pidFrom(pidFile)
	if err != nil {
		return nil, err
	}
	return claim.Adopt(pid)
}

// execTerminal receives the terminal, keeps a copy for resize and returns it.
func (s *Server) execTerminal(ctx context.Context, sess *session, console *consoleSocket) (*os.File, error) {
	master, err := console.receive(ctx)
	if err != nil {
		return nil, err
	}
	fd, err := unix.FcntlInt(master.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		master.Close()
		return nil, fmt.Errorf("duplicate terminal: %w", err)
	}
	sess.tty = os.NewFile(uintptr(fd), "terminal")
	return master, nil
}

// cgroupFlag makes the runtime put the process into the slot. crun joins the slot
// in each hierarchy that has it, and none else; runc joins the app's cgroup in
// each that is not named.
func (s *Server) cgroupFlag(slot *execSlot) string {
	if s.oci.isRunc() && !cgroup.Unified() {
		return "--cgroup=freezer:" + slot.name
	}
	return "--cgroup=" + slot.name
}

// joinBeforeExec returns the groups of the app that crun will not join by itself,
// because the slot is not in that hierarchy.
func (s *Server) joinBeforeExec(a *app) (dirs []string) {
	if s.oci.isRunc() || cgroup.Unified() {
		return nil
	}
	for _, dir := range cgroup.Dirs(a.spec.Cgroup) {
		if cgroup.Controller(dir, a.spec.Cgroup) == "cpuset" {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// hangupTime is how long a process on a terminal may take to end once its asker has
// gone, before it is killed.
const hangupTime = 5 * time.Second

// hangUp gives up our side of an exec's terminal, as its asker has done or does: the
// kernel then sends SIGHUP. It waits until the process has ended, or for too long.
func (s *Server) hangUp(sess *session) {
	if sess.tty == nil {
		return
	}
	sess.tty.Close()
	timer := time.NewTimer(hangupTime)
	defer timer.Stop()
	select {
	case <-sess.proc.Done():
	case <-timer.C:
	}
}

// waitExec waits for the end of an exec and gives its slot back. At the timeout,
// or when ctx is done, the whole tree is killed; on a terminal it is hung up first.
func (s *Server) waitExec(ctx context.Context, sess *session, timeout time.Duration) supervisor.Exit {
	var late <-chan time.Time
	if timeout > 0 {
		timer := time.NewTimer(max(timeout-time.Since(sess.started), 0))
		defer timer.Stop()
		late = timer.C
	}
	timedOut := false
	select {
	case <-sess.proc.Done():
	case <-late:
		timedOut = true
		s.killExec(sess)
	case <-ctx.Done():
		s.hangUp(sess)
		s.killExec(sess)
	}
	st := sess.proc.Status()
	exit := supervisor.Exit{
		Code:       st.Code,
		Signal:     int(st.Signal),
		TimedOut:   timedOut,
		StartedAt:  sess.started,
		FinishedAt: sess.started.Add(bootClock() - sess.bootAt),
	}
	if sess.tty != nil {
		sess.tty.Close()
	}
	sess.app.giveSlot(sess.slot)
	return exit
}

// killExec ends the exec's process tree.
func (s *Server) killExec(sess *session) {
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	if sess.proc != nil {
		_ = sess.proc.Signal(unix.SIGKILL) // it may have exited, or never have joined the slot
	}
	if err := cgroup.Kill(ctx, sess.slot.path); err != nil {
		s.log.warn("Processes of an exec live on", err, "app", sess.app.spec.Name)
	}
}
