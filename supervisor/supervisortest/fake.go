// Package supervisortest stands in for supervisors in the tests of what uses them:
// a Fake speaks the real protocol over a real socket, without root and without
// processes, and a Launcher launches Fakes.
package supervisortest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/launch"
)

// Fake is one supervisor whose apps are records in memory. It keeps the rules of
// the real one: states, exits on disk before they are reported, events kept until
// acknowledged. Its lock on the pod's folder is real.
type Fake struct {
	// Version is the protocol version it speaks; 0 means the newest.
	Version int
	// Fail, if set, is asked before each request; an error is the answer.
	Fail func(req supervisor.Request) error
	// Exec, if set, answers execs: it may use the files, which are closed after.
	Exec func(req supervisor.Request, files []*os.File) (supervisor.Exit, error)

	podDir, runDir string
	pod, flavor    string
	listener       *os.File
	lock           *os.File
	wg             sync.WaitGroup

	mu    sync.Mutex
	apps  map[string]*fakeApp // guarded by mu, as is what follows
	kept  []supervisor.Event
	seq   uint64
	moved chan struct{} // closed and replaced when an app exits
	conns map[*supervisor.Conn]bool
	ops   []supervisor.Request
	gone  bool
}

type fakeApp struct {
	spec supervisor.AppSpec
	supervisor.AppStatus
}

// Start reads the pod's spec and serves at the run folder until Kill or a shutdown
// request. It must not be copied.
func (f *Fake) Start(podDir, runDir string) error {
	spec, err := supervisor.ReadSpec(podDir)
	if err != nil {
		return err
	}
	f.podDir, f.runDir, f.pod, f.flavor = podDir, runDir, spec.Stage1.ID, spec.Flavor
	f.apps, f.conns, f.moved = map[string]*fakeApp{}, map[*supervisor.Conn]bool{}, make(chan struct{})
	if f.lock, err = os.Open(podDir); err != nil {
		return err
	}
	if err := unix.Flock(int(f.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.lock.Close()
		return fmt.Errorf("lock %s: %w", podDir, err)
	}
	fd, err := supervisor.Listen(filepath.Join(runDir, supervisor.SocketName))
	if err != nil {
		f.lock.Close()
		return err
	}
	f.listener = os.NewFile(uintptr(fd), "fake supervisor")
	f.wg.Go(f.accept)
	return nil
}

// Kill ends the fake as SIGKILL ends a supervisor: no exit is written, the socket
// stays behind and answers nobody.
func (f *Fake) Kill() {
	f.end()
	f.wg.Wait()
}

func (f *Fake) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone {
		return
	}
	f.gone = true
	f.listener.Close()
	f.lock.Close()
	for c := range f.conns {
		c.Close()
	}
	close(f.moved)
	f.moved = make(chan struct{})
}

// ExitApp makes an app exit: written to its folder, then reported.
func (f *Fake) ExitApp(name string, exit supervisor.Exit) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.exitLocked(name, exit)
}

func (f *Fake) exitLocked(name string, exit supervisor.Exit) error {
	a := f.apps[name]
	if a == nil || a.State == supervisor.AppExited {
		return fmt.Errorf("exit app %s: it does not live: %w", name, errdefs.ErrNotFound)
	}
	exit.StartedAt = a.StartedAt
	if exit.FinishedAt.IsZero() {
		exit.FinishedAt = time.Now().Round(0).UTC()
	}
	if err := supervisor.WriteExit(a.spec.Dir, exit); err != nil {
		return err
	}
	a.State, a.Exit, a.PID = supervisor.AppExited, &exit, 0
	f.emitLocked(supervisor.Event{Kind: supervisor.AppHasExited, App: name, Exit: &exit})
	return nil
}

// EndPod makes the instance end by itself: all apps are killed first.
func (f *Fake) EndPod() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.killAllLocked(); err != nil {
		return err
	}
	f.emitLocked(supervisor.Event{Kind: supervisor.PodHasEnded})
	return nil
}

func (f *Fake) killAllLocked() error {
	for name, a := range f.apps {
		if a.State != supervisor.AppExited {
			if err := f.exitLocked(name, supervisor.Exit{Code: 137, Signal: 9}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (f *Fake) emitLocked(ev supervisor.Event) {
	f.seq++
	ev.Seq = f.seq
	f.kept = append(f.kept, ev)
	close(f.moved)
	f.moved = make(chan struct{})
}

// Ops returns the ops of the requests that came, in order, hello left out.
func (f *Fake) Ops() (ops []string) {
	for _, r := range f.Requests() {
		ops = append(ops, r.Op)
	}
	return ops
}

// Requests returns the requests that came, in order, hello left out.
func (f *Fake) Requests() []supervisor.Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.ops)
}

func (f *Fake) accept() {
	conn, err := f.listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		var fd int
		var aerr error
		err := conn.Read(func(l uintptr) bool {
			fd, _, aerr = unix.Accept4(int(l), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			return aerr != unix.EAGAIN
		})
		if err != nil || aerr != nil {
			return
		}
		c := supervisor.NewConn(fd)
		f.mu.Lock()
		gone := f.gone
		f.conns[c] = true
		f.mu.Unlock()
		if gone {
			c.Close()
			return
		}
		f.wg.Go(func() { f.serve(c) })
	}
}

func (f *Fake) serve(c *supervisor.Conn) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer c.Close()
	for {
		packet, files, err := c.Recv()
		if err != nil {
			return
		}
		req, err := supervisor.DecodeRequest(packet)
		if err != nil {
			supervisor.CloseAll(files)
			return
		}
		wg.Go(func() {
			defer supervisor.CloseAll(files)
			r, err := f.handle(ctx, c, req, files)
			r.ID = req.ID
			if err != nil {
				r.Fail(err)
			}
			_ = c.Send(r.Encode()) // the peer may have gone
			if req.Op == supervisor.OpSubscribe && err == nil {
				f.deliver(ctx, c, req.Seq)
			}
			if req.Op == supervisor.OpShutdown && err == nil {
				_ = os.Remove(filepath.Join(f.runDir, supervisor.SocketName))
				f.end()
			}
		})
	}
}

func (f *Fake) deliver(ctx context.Context, c *supervisor.Conn, after uint64) {
	for {
		f.mu.Lock()
		var news []supervisor.Event
		for _, ev := range f.kept {
			if ev.Seq > after {
				news = append(news, ev)
			}
		}
		moved, gone := f.moved, f.gone
		f.mu.Unlock()
		for _, ev := range news {
			if c.Send(supervisor.Reply{Event: &ev}.Encode()) != nil {
				return
			}
			after = ev.Seq
		}
		if gone {
			return
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}

func (f *Fake) handle(ctx context.Context, c *supervisor.Conn, req supervisor.Request, files []*os.File) (r supervisor.Reply, err error) {
	if req.Op == supervisor.OpHello {
		version := f.Version
		if version == 0 {
			version = supervisor.VersionMax
		}
		return supervisor.Reply{Version: min(version, req.Max), Pod: f.pod, Flavor: f.flavor, PID: os.Getpid()}, nil
	}
	f.mu.Lock()
	f.ops = append(f.ops, req)
	f.mu.Unlock()
	if f.Fail != nil {
		if err := f.Fail(req); err != nil {
			return r, err
		}
	}
	if req.Op == supervisor.OpExec {
		return f.exec(c, req, files)
	}
	if req.Op == supervisor.OpAttach {
		<-ctx.Done()
		return r, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.handleLocked(req)
}

func (f *Fake) exec(c *supervisor.Conn, req supervisor.Request, files []*os.File) (r supervisor.Reply, err error) {
	if f.Exec == nil {
		return r, fmt.Errorf("exec in app %s: the fake has no Exec: %w", req.Name, errdefs.ErrNotImplemented)
	}
	_ = c.Send(supervisor.Reply{ID: req.ID, Session: req.ID}.Encode())
	exit, err := f.Exec(req, files)
	r.Exit = &exit
	return r, err
}

func (f *Fake) handleLocked(req supervisor.Request) (r supervisor.Reply, err error) {
	switch req.Op {
	case supervisor.OpCreateApp:
		return f.createLocked(*req.App)
	case supervisor.OpStatus:
		st := supervisor.Status{Pod: f.pod, Flavor: f.flavor, PID: os.Getpid(), Seq: f.seq}
		for _, a := range f.apps {
			st.Apps = append(st.Apps, a.AppStatus)
		}
		r.Status = &st
		return r, nil
	case supervisor.OpAck:
		f.kept = slices.DeleteFunc(f.kept, func(ev supervisor.Event) bool { return ev.Seq <= req.Seq })
		return r, nil
	case supervisor.OpSubscribe, supervisor.OpCancel:
		return r, nil
	case supervisor.OpShutdown:
		return r, f.killAllLocked()
	}
	a := f.apps[req.Name]
	if a == nil {
		if req.Op == supervisor.OpRemoveApp {
			return r, nil
		}
		return r, fmt.Errorf("app %q: %w", req.Name, errdefs.ErrNotFound)
	}
	switch req.Op {
	case supervisor.OpStartApp:
		if a.State == supervisor.AppExited {
			return r, fmt.Errorf("start app %s: it has exited: %w", req.Name, errdefs.ErrFailedPrecondition)
		}
		if a.State == supervisor.AppCreated {
			a.State, a.StartedAt = supervisor.AppRunning, time.Now().Round(0).UTC()
		}
		r.StartedAt = a.StartedAt
	case supervisor.OpStopApp:
		if a.State != supervisor.AppExited {
			err = f.exitLocked(req.Name, supervisor.Exit{Code: 128 + req.Signal, Signal: req.Signal})
		}
		r.Exit = a.Exit
	case supervisor.OpRemoveApp:
		if a.State == supervisor.AppRunning {
			return r, fmt.Errorf("remove app %s: it is running: %w", req.Name, errdefs.ErrFailedPrecondition)
		}
		delete(f.apps, req.Name)
	}
	return r, err
}

func (f *Fake) createLocked(spec supervisor.AppSpec) (r supervisor.Reply, err error) {
	if f.apps[spec.Name] != nil {
		return r, fmt.Errorf("create app %s: the name is taken: %w", spec.Name, errdefs.ErrAlreadyExists)
	}
	r.PID = 1000 + len(f.apps)
	f.apps[spec.Name] = &fakeApp{spec: spec, AppStatus: supervisor.AppStatus{
		Name: spec.Name, State: supervisor.AppCreated, PID: r.PID, CreatedAt: time.Now().Round(0).UTC()}}
	return r, nil
}

// Launcher launches Fakes. It implements launch.Launcher.
type Launcher struct {
	// Fail, if set, is asked before each step ("launch", "kill", "list").
	Fail func(step, pod string) error
	// Prepare, if set, may script a fake before it starts.
	Prepare func(pod string, f *Fake)

	mu    sync.Mutex
	fakes map[string]*Fake // guarded by mu
}

var _ launch.Launcher = (*Launcher)(nil)

// NewLauncher returns a launcher whose fakes end with the test.
func NewLauncher(t *testing.T) *Launcher {
	l := &Launcher{fakes: map[string]*Fake{}}
	t.Cleanup(func() {
		for _, f := range l.fakes {
			f.Kill()
		}
	})
	return l
}

// Fake returns the pod's supervisor, or nil.
func (l *Launcher) Fake(pod string) *Fake {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fakes[pod]
}

// Cgroup implements launch.Launcher.
func (l *Launcher) Cgroup(parent, pod string) (string, error) {
	return filepath.Join("/", parent, "k8s_"+pod), nil
}

// Launch implements launch.Launcher.
func (l *Launcher) Launch(_ context.Context, spec launch.Spec) error {
	if err := l.fail("launch", spec.Pod); err != nil {
		return err
	}
	f := &Fake{}
	if l.Prepare != nil {
		l.Prepare(spec.Pod, f)
	}
	if err := f.Start(spec.PodDir, spec.RunDir); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fakes[spec.Pod] = f
	return nil
}

func (l *Launcher) fail(step, pod string) error {
	if l.Fail == nil {
		return nil
	}
	return l.Fail(step, pod)
}

// Kill implements launch.Launcher.
func (l *Launcher) Kill(_ context.Context, _, pod string) error {
	if err := l.fail("kill", pod); err != nil {
		return err
	}
	l.mu.Lock()
	f := l.fakes[pod]
	delete(l.fakes, pod)
	l.mu.Unlock()
	if f != nil {
		f.Kill()
	}
	return nil
}

// Find implements launch.Launcher. A fake has no cgroup.
func (l *Launcher) Find(context.Context, string) ([]string, error) { return nil, l.fail("find", "") }

// List implements launch.Launcher.
func (l *Launcher) List(context.Context, string, []string) (pods []string, err error) {
	if err := l.fail("list", ""); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for pod := range l.fakes {
		pods = append(pods, pod)
	}
	slices.Sort(pods)
	return pods, nil
}
