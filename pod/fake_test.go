package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/launch"
)

// host is what a test's engines run on; it outlives them, as a node does.
type host struct {
	t   *testing.T
	dir string

	mu          sync.Mutex
	fail        map[string]error           // the step that fails, by name
	hang        map[string]chan struct{}   // the step that waits until this is closed, or its context ends
	supervisors map[string]*fakeSupervisor // by pod
	groups      map[string]string          // parent by pod
	attached    map[string]bool
	roots       map[string]bool
	calls       []string
	reached     chan string // told of each step that hangs
}

func newHost(t *testing.T) *host {
	h := &host{
		t: t, dir: t.TempDir(),
		fail: map[string]error{}, hang: map[string]chan struct{}{},
		supervisors: map[string]*fakeSupervisor{}, groups: map[string]string{},
		attached: map[string]bool{}, roots: map[string]bool{},
		reached: make(chan string, 16),
	}
	t.Cleanup(func() {
		for _, s := range h.living() {
			s.die()
		}
		require.NoError(t, unmountBelow(h.dir))
	})
	return h
}

func (h *host) config() Config {
	return Config{
		Dir: filepath.Join(h.dir, "pods"), RunDir: filepath.Join(h.dir, "run"), NetNSDir: filepath.Join(h.dir, "netns"),
		Supervisor: "/bin/rkt-supervisor", Runtime: "/usr/bin/crun",
		Flavors:       map[string]Flavor{"lean": fakeFlavor{h}},
		CgroupParents: []string{"/kubepods"},
		StopTimeout:   2 * time.Second, RetryMin: time.Millisecond, RetryMax: 5 * time.Millisecond,
	}
}

// step is called at each step; it fails or hangs as the test says.
func (h *host) step(ctx context.Context, name string) error {
	h.mu.Lock()
	err, hang := h.fail[name], h.hang[name]
	h.calls = append(h.calls, name)
	h.mu.Unlock()
	if hang != nil {
		h.reached <- name
		select {
		case <-hang:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return err
}

func (h *host) failing(name string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail[name] = err; err == nil {
		delete(h.fail, name)
	}
}

func (h *host) hanging(name string, on bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if on {
		h.hang[name] = make(chan struct{})
		return
	}
	close(h.hang[name])
	delete(h.hang, name)
}

func (h *host) called(name string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.calls {
		if c == name {
			n++
		}
	}
	return n
}

func (h *host) living() (all []*fakeSupervisor) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.supervisors {
		all = append(all, s)
	}
	return all
}

func (h *host) supervisor(id ID) *fakeSupervisor {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.supervisors[string(id)]
}

// requireNothingLeft is what a host looks like without pods.
func (h *host) requireNothingLeft() {
	h.t.Helper()
	for _, dir := range []string{"pods", "run", "netns"} {
		entries, err := os.ReadDir(filepath.Join(h.dir, dir))
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			require.NoError(h.t, err)
		}
		require.Empty(h.t, entries, dir)
	}
	h.mu.Lock()
	supervisors, groups, attached := len(h.supervisors), len(h.groups), len(h.attached)
	h.mu.Unlock()
	require.Zero(h.t, supervisors)
	require.Zero(h.t, groups)
	require.Zero(h.t, attached)
	require.Empty(h.t, h.rootIDs())
}

func (h *host) rootIDs() []string {
	ids, _ := fakeRoots{h}.RootIDs(h.t.Context())
	return ids
}

type fakeFlavor struct{ h *host }

func (f fakeFlavor) Check() error              { return f.h.step(context.Background(), "check") }
func (f fakeFlavor) Sweep(_ stage1.Spec) error { return f.h.step(context.Background(), "sweep") }

// fakeLauncher launches fake supervisors, which speak the real protocol.
type fakeLauncher struct{ h *host }

func (l fakeLauncher) Cgroup(parent, pod string) (string, error) {
	return parent + "/k8s_" + pod, l.h.step(context.Background(), "cgroup")
}

func (l fakeLauncher) Launch(ctx context.Context, spec launch.Spec) error {
	if err := l.h.step(ctx, "launch"); err != nil {
		return err
	}
	s, err := startSupervisor(l.h, spec)
	if err != nil {
		return err
	}
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	l.h.supervisors[spec.Pod], l.h.groups[spec.Pod] = s, spec.Parent
	return nil
}

func (l fakeLauncher) Kill(ctx context.Context, _, pod string) error {
	if err := l.h.step(ctx, "kill"); err != nil {
		return err
	}
	if s := l.h.supervisor(ID(pod)); s != nil {
		s.die()
	}
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	delete(l.h.supervisors, pod)
	delete(l.h.groups, pod)
	return nil
}

func (l fakeLauncher) List(_ context.Context, _ string, parents []string) (pods []string, _ error) {
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	for pod, parent := range l.h.groups {
		if slices.Contains(parents, parent) {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

func (l fakeLauncher) Find(ctx context.Context, pod string) (parents []string, _ error) {
	if err := l.h.step(ctx, "find"); err != nil {
		return nil, err
	}
	l.h.mu.Lock()
	defer l.h.mu.Unlock()
	if parent, ok := l.h.groups[pod]; ok {
		parents = []string{parent}
	}
	return parents, nil
}

type fakeNet struct{ h *host }

func (n fakeNet) Attach(ctx context.Context, pod network.Pod, save network.Save) (network.Result, error) {
	record := map[string]any{"version": 1, "pod": pod.ID, "network": "n", "cniVersion": "1.0.0"}
	doc, _ := json.Marshal(record)
	if err := save(ctx, doc); err != nil {
		return network.Result{}, err
	}
	n.h.mu.Lock()
	n.h.attached[pod.ID] = true
	n.h.mu.Unlock()
	if err := n.h.step(ctx, "attach"); err != nil {
		return network.Result{}, errors.Join(err, n.undo(ctx, pod, save))
	}
	record["result"] = json.RawMessage(`{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.1.0.2/24","interface":0}]}`)
	doc, _ = json.Marshal(record)
	if err := save(ctx, doc); err != nil {
		return network.Result{}, err
	}
	return network.ResultOf(doc)
}

// undo is what network.CNI does when an ADD has failed.
func (n fakeNet) undo(ctx context.Context, pod network.Pod, save network.Save) error {
	if err := n.h.step(context.WithoutCancel(ctx), "detach in attach"); err != nil {
		return err
	}
	n.h.mu.Lock()
	delete(n.h.attached, pod.ID)
	n.h.mu.Unlock()
	return save(ctx, nil)
}

func (n fakeNet) Detach(ctx context.Context, doc json.RawMessage) error {
	if len(doc) == 0 {
		return nil
	}
	if err := n.h.step(ctx, "detach"); err != nil {
		return err
	}
	var r struct{ Pod string }
	if err := json.Unmarshal(doc, &r); err != nil {
		return err
	}
	n.h.mu.Lock()
	defer n.h.mu.Unlock()
	delete(n.h.attached, r.Pod)
	return nil
}

type fakeRoots struct{ h *host }

func (r fakeRoots) CreateRoot(ctx context.Context, id, imageID string) error {
	if imageID == "absent" {
		return fmt.Errorf("image %s: %w", imageID, errdefs.ErrNotFound)
	}
	if err := r.h.step(ctx, "create root"); err != nil {
		return err
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	r.h.roots[id] = true
	return nil
}

func (r fakeRoots) Mount(ctx context.Context, id string) (string, error) {
	return filepath.Join(r.h.dir, "root-"+id), r.h.step(ctx, "mount root")
}

func (r fakeRoots) RemoveRoot(ctx context.Context, id string) error {
	if err := r.h.step(ctx, "remove root"); err != nil {
		return err
	}
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	delete(r.h.roots, id)
	return nil
}

func (r fakeRoots) RootIDs(context.Context) (ids []string, _ error) {
	r.h.mu.Lock()
	defer r.h.mu.Unlock()
	for id := range r.h.roots {
		ids = append(ids, id)
	}
	return ids, nil
}

// fakeSupervisor speaks the supervisor's protocol and runs nothing.
type fakeSupervisor struct {
	h        *host
	spec     launch.Spec
	lock     *os.File
	listener *os.File
	wg       sync.WaitGroup

	mu      sync.Mutex
	conns   []*supervisor.Conn
	apps    map[string]*supervisor.AppStatus
	specs   map[string]supervisor.AppSpec
	seq     uint64
	kept    []supervisor.Event
	subs    []*supervisor.Conn
	closed  bool
	updates []string // guarded by mu
}

func startSupervisor(h *host, spec launch.Spec) (*fakeSupervisor, error) {
	lock, err := os.Open(spec.PodDir)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, err
	}
	fd, err := supervisor.Listen(filepath.Join(spec.RunDir, supervisor.SocketName))
	if err != nil {
		return nil, err
	}
	s := &fakeSupervisor{h: h, spec: spec, lock: lock, listener: os.NewFile(uintptr(fd), "listener"),
		apps: map[string]*supervisor.AppStatus{}, specs: map[string]supervisor.AppSpec{}}
	s.wg.Go(s.accept)
	return s, nil
}

// die ends it at once, as SIGKILL does: no exit is written.
func (s *fakeSupervisor) die() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.closed = true
	conns := s.conns
	s.mu.Unlock()
	s.lock.Close()
	s.listener.Close()
	for _, c := range conns {
		c.Close()
	}
	s.wg.Wait()
}

func (s *fakeSupervisor) accept() {
	raw, err := s.listener.SyscallConn()
	if err != nil {
		return
	}
	for {
		var fd int
		var aerr error
		err := raw.Read(func(l uintptr) bool {
			fd, _, aerr = unix.Accept4(int(l), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
			return !errors.Is(aerr, unix.EAGAIN)
		})
		if err != nil || aerr != nil {
			return
		}
		conn := supervisor.NewConn(fd)
		s.mu.Lock()
		if s.closed {
			conn.Close()
		}
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.wg.Go(func() { s.serve(conn) })
	}
}

func (s *fakeSupervisor) serve(conn *supervisor.Conn) {
	for {
		packet, files, err := conn.Recv()
		if err != nil {
			return
		}
		req, err := supervisor.DecodeRequest(packet)
		if err == nil && req.Op == supervisor.OpUpdateApp {
			s.note(files[0])
		}
		supervisor.CloseAll(files)
		if err != nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		r, err := s.answer(ctx, conn, req)
		cancel()
		r.ID = req.ID
		if err != nil {
			r.Fail(err)
		}
		_ = conn.Send(r.Encode()) // the peer may have gone
		if req.Op == supervisor.OpSubscribe {
			s.replay(conn, req.Seq)
		}
		if req.Op == supervisor.OpShutdown && err == nil {
			go s.die()
		}
	}
}

// note keeps the limits that an update brings.
func (s *fakeSupervisor) note(f *os.File) {
	doc := make([]byte, 4096)
	n, _ := f.ReadAt(doc, 0) // it ends before the buffer does
	s.mu.Lock()
	defer s.mu.Unlock()
	s.updates = append(s.updates, string(doc[:n]))
}

// limits are those that updates have brought.
func (s *fakeSupervisor) limits() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.updates)
}

func (s *fakeSupervisor) answer(ctx context.Context, conn *supervisor.Conn, req supervisor.Request) (r supervisor.Reply, err error) {
	if err := s.h.step(ctx, req.Op); err != nil {
		return r, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	app := s.apps[req.Name]
	needsApp := slices.Contains([]string{supervisor.OpStartApp, supervisor.OpStopApp, supervisor.OpUpdateApp, supervisor.OpReopenLog}, req.Op)
	if needsApp && app == nil {
		return r, fmt.Errorf("app %s: %w", req.Name, errdefs.ErrNotFound)
	}
	switch req.Op {
	case supervisor.OpHello:
		r.Version, r.Pod, r.PID = supervisor.VersionMax, s.spec.Pod, 1
	case supervisor.OpCreateApp:
		s.apps[req.App.Name] = &supervisor.AppStatus{Name: req.App.Name, State: supervisor.AppCreated, PID: 100, CreatedAt: time.Now()}
		s.specs[req.App.Name] = *req.App
		r.PID = 100
	case supervisor.OpStartApp:
		app.State, app.StartedAt = supervisor.AppRunning, time.Now().Round(0)
		r.StartedAt = app.StartedAt
	case supervisor.OpStopApp:
		if app.Exit == nil {
			s.exitLocked(req.Name, supervisor.Exit{Code: 143, Signal: 15})
		}
		r.Exit = app.Exit
	case supervisor.OpRemoveApp:
		delete(s.apps, req.Name)
	case supervisor.OpStatus:
		r.Status = &supervisor.Status{Pod: s.spec.Pod, Seq: s.seq, Init: 77}
		for _, a := range s.apps {
			r.Status.Apps = append(r.Status.Apps, *a)
		}
	case supervisor.OpSubscribe:
		s.subs = append(s.subs, conn)
	case supervisor.OpAck:
		s.kept = slices.DeleteFunc(s.kept, func(e supervisor.Event) bool { return e.Seq <= req.Seq })
	case supervisor.OpShutdown:
		for name, a := range s.apps {
			if a.Exit == nil {
				s.exitLocked(name, supervisor.Exit{Code: 137, Signal: 9})
			}
		}
	}
	return r, nil
}

func (s *fakeSupervisor) replay(conn *supervisor.Conn, after uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ev := range s.kept {
		if ev.Seq > after {
			_ = conn.Send(supervisor.Reply{Event: &ev}.Encode())
		}
	}
}

// exit lets an app end by itself.
func (s *fakeSupervisor) exit(app AppID, exit supervisor.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.exitLocked(string(app), exit)
}

func (s *fakeSupervisor) exitLocked(name string, exit supervisor.Exit) {
	app := s.apps[name]
	exit.StartedAt, exit.FinishedAt = app.StartedAt, time.Now().Round(0)
	if err := supervisor.WriteExit(s.specs[name].Dir, exit); err != nil && !errors.Is(err, unix.EROFS) { // which the real one logs
		s.h.t.Error(err)
	}
	app.State, app.Exit, app.PID = supervisor.AppExited, &exit, 0
	s.sayLocked(supervisor.Event{Kind: supervisor.AppHasExited, App: name, Exit: &exit})
}

func (s *fakeSupervisor) sayLocked(ev supervisor.Event) {
	s.seq++
	ev.Seq = s.seq
	s.kept = append(s.kept, ev)
	for _, c := range s.subs {
		_ = c.Send(supervisor.Reply{Event: &ev}.Encode())
	}
}

func (s *fakeSupervisor) say(ev supervisor.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sayLocked(ev)
}

func (s *fakeSupervisor) unacknowledged() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kept)
}

// engine starts an engine on the host; stop ends it, as the end of its process does.
func (h *host) engine() (e *Engine, stop func()) {
	h.t.Helper()
	e, err := New(h.config(), fakeLauncher{h}, fakeNet{h}, fakeRoots{h})
	require.NoError(h.t, err)
	require.NoError(h.t, e.Recover(h.t.Context()))
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(h.t, <-done)
	})
	h.t.Cleanup(stop)
	return e, stop
}

func testSpec() Spec {
	return Spec{UID: "u1", Name: "web", Namespace: "default", Flavor: "lean", Hostname: "web", CgroupParent: "/kubepods/pod1",
		ShmBytes: 1 << 20, ResolvConf: "nameserver 10.0.0.10\n", Labels: map[string]string{"a": "b"}}
}

func testApp() AppSpec { return AppSpec{Name: "nginx", Image: "nginx", ImageID: "sha256:1"} }

// plain configures an app of no content.
func plain(context.Context, Place) (Configured, error) {
	return Configured{Config: []byte(`{"process":{"cwd":"/"}}`), Extra: json.RawMessage(`{"k":1}`), StopSignal: 2}, nil
}

// eventually waits for what goroutines of the engine do by themselves.
func eventually(t *testing.T, is func() bool, what string) {
	t.Helper()
	require.Eventually(t, is, time.Minute, time.Millisecond, what)
}
