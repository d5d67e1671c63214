// Package server is the supervisor: one process per pod that boots the pod's
// instance, starts apps by the OCI runtime, owns their stdio, writes their logs,
// runs execs, collects every exit and puts it on disk before it tells anybody.
//
// It stays resident for the pod's life, so it links nothing that costs memory: no
// net, no encoding/json, no log/slog, no grpc, nothing of k8s.io. A test of its
// binary holds the figures.
package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/reap"
	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
)

// Config is what one supervisor is started with.
type Config struct {
	PodDir string // the pod's folder, with supervisor.json; locked for life
	RunDir string // the pod's run folder, for the socket and all that may vanish

	// Flavors are the isolators by name.
	Flavors map[string]stage1.Isolator

	// Init is the command of the init that a shared PID namespace gets.
	Init []string

	// Listener is a listening socket that the launcher has made at the socket's
	// path, or nil to make one.
	Listener *os.File

	// Log gets one line per event.
	Log *os.File
}

// Server is one pod's supervisor.
type Server struct {
	cfg    Config
	spec   supervisor.Spec
	log    *logger
	reaper *reap.Reaper
	oci    *ociRuntime
	events *eventLog
	quiet  quieter

	instance stage1.Instance // valid once booted is closed with bootErr nil
	bootErr  error
	booted   chan struct{}
	told     chan struct{} // closed when somebody has been told bootErr
	tellOnce sync.Once

	tasks sync.WaitGroup // watches of apps and of the instance
	over  chan struct{}  // closed when shutdown is done and Run may return

	mu       sync.Mutex
	apps     map[string]*appEntry // guarded by mu, as is what follows
	closing  bool
	down     chan struct{} // not nil once a shutdown has begun; closed at its end
	downErr  error
	nextSess uint64
	sessions map[uint64]*session
	creating sync.WaitGroup
}

// appEntry is a name taken by an app, from the moment its creation begins.
type appEntry struct {
	app   *app
	ready bool // creation is complete
}

// New reads the pod's spec; nothing is started before Run.
func New(cfg Config) (*Server, error) {
	spec, err := supervisor.ReadSpec(cfg.PodDir)
	if err != nil {
		return nil, fmt.Errorf("supervise pod in %s: %w", cfg.PodDir, err)
	}
	if spec.Stage1.Dir == "" {
		spec.Stage1.Dir = filepath.Join(cfg.RunDir, "stage1")
	}
	if spec.Stage1.Cgroup == "" && spec.Cgroup != "" {
		spec.Stage1.Cgroup = filepath.Join(spec.Cgroup, "stage1")
	}
	r := reap.New()
	var program *sealed
	if filepath.Base(spec.Runtime) == "crun" {
		program = newSealed(spec.Runtime)
	}
	return &Server{
		cfg:    cfg,
		spec:   spec,
		log:    &logger{out: cfg.Log, pod: spec.Stage1.ID},
		reaper: r,
		oci: &ociRuntime{
			reaper: r,
			path:   spec.Runtime,
			args:   spec.RuntimeArgs,
			root:   filepath.Join(cfg.RunDir, "oci"),
			tmp:    filepath.Join(cfg.RunDir, "tmp"),
			sealed: program,
		},
		events:   newEventLog(),
		booted:   make(chan struct{}),
		told:     make(chan struct{}),
		over:     make(chan struct{}),
		apps:     map[string]*appEntry{},
		sessions: map[uint64]*session{},
	}, nil
}

// Run boots the pod and serves until it has been shut down by request, or until ctx
// is done: then apps get SIGTERM and termGrace, and the pod is shut down. An error
// means that the pod could not be booted or that something of it may be left.
func (s *Server) Run(ctx context.Context) error {
	unlock, err := lockFolder(ctx, s.cfg.PodDir)
	if err != nil {
		return err
	}
	defer unlock()
	listener, err := s.listen()
	if err != nil {
		return err
	}
	defer os.Remove(filepath.Join(s.cfg.RunDir, supervisor.SocketName))
	s.becomeSupervisor()

	bg, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.reaper.Run(bg) })
	wg.Go(func() { s.accept(bg, listener) })
	defer wg.Wait()
	defer stop()
	defer listener.Close()
	defer s.quiet.stop()

	s.bootErr = s.boot(ctx)
	close(s.booted)
	if s.bootErr != nil {
		s.log.warn("Pod not booted", s.bootErr)
		s.waitTold()
		return s.bootErr
	}
	s.log.info("Pod booted", "flavor", s.spec.Flavor)
	s.quiet.touch()
	select {
	case <-s.over:
	case <-ctx.Done():
		s.terminate()
	}
	s.tasks.Wait()
	return s.downErr
}

// bootTime bounds the boot of an instance.
const bootTime = time.Minute

func (s *Server) boot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	isolator, ok := s.cfg.Flavors[s.spec.Flavor]
	if !ok {
		return fmt.Errorf("boot pod: flavor %q is not built in: %w", s.spec.Flavor, errdefs.ErrInvalidArgument)
	}
	if err := s.enterCgroup(); err != nil {
		return fmt.Errorf("boot pod: %w", err)
	}
	for _, dir := range []string{s.oci.root, s.oci.tmp, s.spec.Stage1.Dir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("boot pod: %w", err)
		}
	}
	inst, err := isolator.Boot(ctx, s.spec.Stage1, stage1.Host{Reaper: s.reaper, Init: s.cfg.Init})
	if err != nil {
		return fmt.Errorf("boot pod under %s: %w", s.spec.Flavor, err)
	}
	s.instance = inst
	if err := s.publish(); err != nil {
		return fmt.Errorf("boot pod: %w", errors.Join(err, inst.Stop(ctx)))
	}
	s.tasks.Go(s.watchInstance)
	return nil
}

// enterCgroup moves the supervisor into a group below the pod's, because on v2 a
// group with limits for groups below holds no process itself, unless it was born
// there: a move waits for every CPU, a birth does not.
func (s *Server) enterCgroup() error {
	if s.spec.Cgroup == "" {
		return nil
	}
	for _, path := range []string{s.supervisorCgroup(), s.spec.Stage1.Cgroup} {
		if err := cgroup.Make(path); err != nil {
			return err
		}
	}
	return cgroup.Join(s.supervisorCgroup(), os.Getpid())
}

// supervisorCgroup bears the pod's id: cAdvisor and the kubelet look for a pod's own
// share, and for its network, in a group of that name.
func (s *Server) supervisorCgroup() string { return filepath.Join(s.spec.Cgroup, s.spec.Stage1.ID) }

// watchInstance ends the pod when its instance has ended.
func (s *Server) watchInstance() {
	select {
	case <-s.over:
		return
	case <-s.instance.Done():
	}
	s.mu.Lock()
	asked := s.closing
	s.closing = true
	s.mu.Unlock()
	if asked {
		return
	}
	s.log.warn("The pod's instance has ended by itself", nil)
	s.creating.Wait()
	s.killApps()
	s.events.add(supervisor.Event{Kind: supervisor.PodHasEnded})
}

// waitTold gives the launcher time to learn why the boot failed.
func (s *Server) waitTold() {
	timer := time.NewTimer(10 * time.Second)
	defer timer.Stop()
	select {
	case <-s.told:
	case <-timer.C:
	}
}

// becomeSupervisor asks the kernel for what a supervisor needs of it.
func (s *Server) becomeSupervisor() {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		s.log.warn("Orphans will not come to the supervisor", err)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("-999"), 0); err != nil {
		s.log.warn("The supervisor is not protected from the OOM killer", err)
	}
}

func (s *Server) listen() (*os.File, error) {
	if s.cfg.Listener != nil {
		return nonBlocking(s.cfg.Listener)
	}
	fd, err := supervisor.Listen(filepath.Join(s.cfg.RunDir, supervisor.SocketName))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "supervisor socket"), nil
}

// lockTime is how long the lock may be held by somebody who only looks whether the
// pod has a supervisor, as rkt list does.
const lockTime = 10 * time.Second

// lockFolder takes the lock that says that the pod has a supervisor. Apps do not
// inherit it: the descriptor closes on exec.
func lockFolder(ctx context.Context, dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lockTime)
	defer cancel()
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if errors.Is(err, unix.EWOULDBLOCK) && pause(ctx, wait) {
			continue
		}
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: the pod has a supervisor: %w", dir, errdefs.ErrAlreadyExists)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
}

// addApp takes the app's name. The caller must call appReady or dropApp, and then
// creating.Done.
func (s *Server) addApp(a *app) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return fmt.Errorf("create app %s: the pod is ending: %w", a.spec.Name, errdefs.ErrFailedPrecondition)
	}
	if s.apps[a.spec.Name] != nil {
		return fmt.Errorf("create app %s: the name is taken: %w", a.spec.Name, errdefs.ErrAlreadyExists)
	}
	s.apps[a.spec.Name] = &appEntry{app: a}
	s.creating.Add(1)
	return nil
}

func (s *Server) appReady(a *app) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps[a.spec.Name].ready = true
}

func (s *Server) dropApp(a *app) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.apps, a.spec.Name)
}

// findApp returns an app whose creation is complete, or nil.
func (s *Server) findApp(name string) *app {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.apps[name]; e != nil && e.ready {
		return e.app
	}
	return nil
}

func (s *Server) allApps() (out []*app) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.apps {
		if e.ready {
			out = append(out, e.app)
		}
	}
	return out
}

// status returns a snapshot that includes every event up to its Seq.
func (s *Server) status() supervisor.Status {
	st := supervisor.Status{Pod: s.spec.Stage1.ID, Flavor: s.spec.Flavor, PID: os.Getpid(), Seq: s.events.seq()}
	if p, ok := s.instance.(stage1.InitHolder); ok {
		st.Init = p.InitPID()
	}
	for _, a := range s.allApps() {
		st.Apps = append(st.Apps, a.status())
	}
	return st
}

func itoa(n int) string { return strconv.Itoa(n) }
