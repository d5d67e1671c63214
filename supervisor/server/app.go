package server

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/reap"
	"github.com/rktnetes/rktshim/supervisor"
)

// killTime bounds how long the kernel may take to end what was killed. A process
// in uninterruptible sleep outlives it; the app is then reported without it.
const killTime = 10 * time.Second

// drainTime bounds how long the end of an app's output is waited for, once nothing
// of its cgroup lives: only a process that got hold of the pipe by other ways can
// keep it open.
const drainTime = 2 * time.Second

// app is one app of the pod, from its creation to its removal.
type app struct {
	spec supervisor.AppSpec
	proc *reap.Process

	log     *criLog // nil if none is kept
	streams []*os.File
	pumps   sync.WaitGroup
	sinks   sinks
	tty     *os.File // master of the terminal; also in streams
	stdin   *stdin   // nil if the app has none

	created time.Time
	waiting program       // what the first process is before the app itself is started in it
	exited  chan struct{} // closed once the exit is on disk

	busy chan struct{} // holds a token while start, update or remove work on it

	mu      sync.Mutex
	state   supervisor.AppState // guarded by mu, as is what follows
	started time.Time
	bootAt  time.Duration // boot clock at start
	exit    supervisor.Exit
	slots   []*execSlot // free ones
	nslots  int
}

// bootClock counts also while the machine sleeps, and no one can set it.
func bootClock() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail with this clock
	return time.Duration(ts.Nano())
}

// createApp has the runtime create the app, adopts its first process and begins to
// watch it.
func (s *Server) createApp(ctx context.Context, spec supervisor.AppSpec) (*app, error) {
	if err := checkApp(spec); err != nil {
		return nil, err
	}
	a := &app{spec: spec, exited: make(chan struct{}), busy: make(chan struct{}, 1), created: time.Now(), state: supervisor.AppCreated}
	a.busy <- struct{}{}
	defer a.release()
	if err := s.addApp(a); err != nil {
		return nil, err
	}
	defer s.creating.Done()
	if err := s.bringUp(ctx, a); err != nil {
		s.dropApp(a)
		return nil, fmt.Errorf("create app %s: %w", spec.Name, err)
	}
	s.appReady(a)
	s.log.info("App created", "app", spec.Name)
	return a, nil
}

func checkApp(spec supervisor.AppSpec) error {
	const ok = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
	if spec.Name == "" || spec.Name[0] == '.' || spec.Name[0] == '-' || strings.Trim(spec.Name, ok) != "" {
		return fmt.Errorf("app name %q: want letters, digits, '_', '-', '.': %w", spec.Name, errdefs.ErrInvalidArgument)
	}
	for field, path := range map[string]string{"bundle": spec.Bundle, "dir": spec.Dir, "cgroup": spec.Cgroup} {
		if !filepath.IsAbs(path) {
			return fmt.Errorf("app %s: %s %q: want an absolute path: %w", spec.Name, field, path, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// bringUp leaves nothing behind when it fails.
func (s *Server) bringUp(ctx context.Context, a *app) (err error) {
	defer func() {
		if err != nil {
			s.takeDown(a)
		}
	}()
	if a.spec.Log != "" {
		if a.log, err = openLog(a.spec.Log); err != nil {
			return err
		}
	}
	if a.spec.PIDOf != "" {
		unlink, err := s.linkTarget(a)
		if err != nil {
			return err
		}
		defer unlink()
	}
	var console *consoleSocket
	files, err := a.openStdio()
	if err != nil {
		return err
	}
	defer supervisor.CloseAll(files)
	pidFile := s.oci.temp("pid")
	args := []string{"--bundle=" + a.spec.Bundle, "--pid-file=" + pidFile}
	if a.spec.TTY {
		if console, err = listenConsole(s.oci.temp("console")); err != nil {
			return err
		}
		defer console.close()
		args = append(args, "--console-socket="+console.path)
	}
	claim := s.reaper.Claim()
	defer claim.Release()
	cmd, err := s.oci.start("create", append(args, a.spec.Name), files...)
	if err != nil {
		return err
	}
	if err := cmd.finish(ctx); err != nil {
		_ = os.Remove(pidFile)
		return err
	}
	pid, err := pidFrom(pidFile)
	if err != nil {
		return err
	}
	if a.proc, err = claim.Adopt(pid); err != nil {
		return err
	}
	a.waiting = programOf(a.proc)
	if console != nil {
		if a.tty, err = console.receive(ctx); err != nil {
			return err
		}
		a.streams = []*os.File{a.tty}
		a.stdin = newTTYStdin(a.tty, a.spec)
	}
	a.pump()
	s.tasks.Go(func() { s.watch(a) })
	return nil
}

// openStdio makes the app's ends of its stdio and keeps ours in a.
func (a *app) openStdio() (theirs []*os.File, err error) {
	if a.spec.TTY {
		return nil, nil
	}
	theirs = make([]*os.File, 3)
	defer func() {
		if err != nil {
			supervisor.CloseAll(theirs)
		}
	}()
	if a.spec.Stdin {
		var ours *os.File
		if ours, theirs[0], err = newPipe(false); err != nil {
			return nil, err
		}
		a.stdin = &stdin{f: ours, once: a.spec.StdinOnce}
	}
	for i := 1; i <= 2; i++ {
		var ours *os.File
		if ours, theirs[i], err = newPipe(true); err != nil {
			return nil, err
		}
		a.streams = append(a.streams, ours)
	}
	return theirs, nil
}

// pump begins to read the app's output.
func (a *app) pump() {
	for i, src := range a.streams {
		name := "stdout"
		if i == 1 {
			name = "stderr"
		}
		st := &stream{src: src, lines: lineSplitter{log: a.log, stream: name}, sinks: &a.sinks}
		a.pumps.Go(st.run)
	}
}

// watch waits for the app's end, puts it on disk and reports it.
func (s *Server) watch(a *app) {
	st := a.proc.Status()
	ended := bootClock()
	oom := cgroup.OOMKills(a.spec.Cgroup) > 0
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	if err := cgroup.Kill(ctx, a.spec.Cgroup); err != nil {
		s.log.warn("Processes of an exited app live on", err, "app", a.spec.Name)
	}
	a.drain()
	exit := a.conclude(st, ended, oom)
	if err := supervisor.WriteExit(a.spec.Dir, exit); err != nil {
		s.log.warn("The exit of an app is not on disk", err, "app", a.spec.Name)
	}
	a.mu.Lock()
	a.state, a.exit = supervisor.AppExited, exit
	a.mu.Unlock()
	s.log.info("App exited", "app", a.spec.Name, "code", itoa(exit.Code))
	s.events.add(supervisor.Event{Kind: supervisor.AppHasExited, App: a.spec.Name, Exit: &exit})
	// Only now: the pod's end is reported by who waits for this, after the exits.
	close(a.exited)
	s.quiet.touch()
}

// drain reads the output to its end and closes all of the app's files.
func (a *app) drain() {
	limit := time.Now().Add(drainTime)
	for _, f := range a.streams {
		_ = f.SetReadDeadline(limit)
	}
	a.pumps.Wait()
	supervisor.CloseAll(a.streams)
	if a.stdin != nil {
		a.stdin.close()
	}
	for _, k := range a.sinks.list() {
		k.drop()
	}
	if a.log != nil {
		_ = a.log.close() // nothing is buffered
	}
}

func (a *app) conclude(st reap.Status, ended time.Duration, oom bool) supervisor.Exit {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := supervisor.Exit{
		Code:      st.Code,
		Signal:    int(st.Signal),
		OOMKilled: oom && st.Code != 0,
		StartedAt: a.started,
	}
	if a.started.IsZero() {
		e.FinishedAt = time.Now()
	} else {
		e.FinishedAt = a.started.Add(ended - a.bootAt)
	}
	return e
}

// startApp runs a created app.
func (s *Server) startApp(ctx context.Context, a *app) (time.Time, error) {
	if err := a.acquire(ctx); err != nil {
		return time.Time{}, err
	}
	defer a.release()
	a.mu.Lock()
	state, started := a.state, a.started
	if state == supervisor.AppCreated {
		a.started, a.bootAt = time.Now().Round(0), bootClock() // before it can exit
	}
	now := a.started
	a.mu.Unlock()
	switch {
	case state == supervisor.AppRunning:
		return started, nil
	case state == supervisor.AppExited:
		return time.Time{}, fmt.Errorf("start app %s: it has exited: %w", a.spec.Name, errdefs.ErrFailedPrecondition)
	}
	err := s.oci.run(ctx, "start", a.spec.Name)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.started = time.Time{}
		return time.Time{}, fmt.Errorf("start app %s: %w", a.spec.Name, err)
	}
	if a.state == supervisor.AppCreated {
		a.state = supervisor.AppRunning
	}
	return now, nil
}

// removeApp forgets an app that does not run. An unknown one is removed already.
func (s *Server) removeApp(ctx context.Context, name string) error {
	a := s.findApp(name)
	if a == nil {
		return nil
	}
	if err := a.acquire(ctx); err != nil {
		return err
	}
	defer a.release()
	if a.is(supervisor.AppRunning) {
		return fmt.Errorf("remove app %s: it is running, stop it first: %w", name, errdefs.ErrFailedPrecondition)
	}
	a.kill(ctx)
	select {
	case <-a.exited:
	case <-ctx.Done():
		return fmt.Errorf("remove app %s: %w", name, ctx.Err())
	}
	if err := s.deleteContainer(ctx, a); err != nil {
		return fmt.Errorf("remove app %s: %w", name, err)
	}
	s.dropApp(a)
	s.quiet.touch()
	return nil
}

// deleteContainer removes the app's cgroup and what the runtime knows of it, which is
// all that its own delete would do for an app that is dead and has no hooks: its
// folder is ours, and to run it costs more than the rest of a removal.
func (s *Server) deleteContainer(ctx context.Context, a *app) error {
	if err := s.removeSlots(ctx, a); err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(s.oci.root, a.spec.Name)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	return cgroup.Remove(ctx, a.spec.Cgroup)
}

// takeDown undoes a bringUp that failed, as far as it got; watch does not run.
func (s *Server) takeDown(a *app) {
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	_ = cgroup.Kill(ctx, a.spec.Cgroup)
	if a.proc != nil {
		_ = a.proc.Signal(unix.SIGKILL)
	}
	if err := s.deleteContainer(ctx, a); err != nil {
		s.log.warn("Remains of an app that could not be created", err, "app", a.spec.Name)
	}
	supervisor.CloseAll(a.streams)
	if a.stdin != nil {
		a.stdin.close()
	}
	if a.log != nil {
		_ = a.log.close()
	}
}

// updateApp hands the runtime new limits, which it reads from file.
func (s *Server) updateApp(ctx context.Context, a *app, resources *os.File) error {
	if err := a.acquire(ctx); err != nil {
		return err
	}
	defer a.release()
	if a.is(supervisor.AppExited) {
		return fmt.Errorf("update app %s: it has exited: %w", a.spec.Name, errdefs.ErrFailedPrecondition)
	}
	cmd, err := s.oci.start("update", []string{"--resources=/proc/self/fd/3", a.spec.Name}, nil, nil, nil, resources)
	if err == nil {
		err = cmd.finish(ctx)
	}
	if err != nil {
		return fmt.Errorf("update app %s: %w", a.spec.Name, err)
	}
	return nil
}

// acquire orders start, update and remove of one app.
func (a *app) acquire(ctx context.Context) error {
	select {
	case a.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *app) release() { <-a.busy }

func (a *app) is(state supervisor.AppState) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.state == state
}

func (a *app) status() supervisor.AppStatus {
	a.mu.Lock()
	defer a.mu.Unlock()
	st := supervisor.AppStatus{Name: a.spec.Name, State: a.state, CreatedAt: a.created, StartedAt: a.started}
	if a.log != nil {
		st.LostBytes = a.log.lostBytes()
	}
	if a.state == supervisor.AppExited {
		exit := a.exit
		st.Exit = &exit
		return st
	}
	if a.proc != nil { // else it is being created
		st.PID = a.proc.PID()
	}
	return st
}
