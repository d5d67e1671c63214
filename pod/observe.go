package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/launch"
)

// Observer is how a program that is not the engine of a node looks at its pods, and
// ends them. It reads records, which are replaced whole, and asks supervisors; it
// takes no lock that anybody waits for, and writes nothing. So it works beside an
// engine that lives, one that hangs, and without one.
type Observer struct{ cfg Config }

// observerName tells supervisors' logs who asks.
const observerName = "rkt"

// askTime bounds how long an Observer waits for a supervisor's answer.
const askTime = 5 * time.Second

// NewObserver returns one for the node whose engine has these folders.
func NewObserver(dir, runDir, netNSDir string) *Observer {
	return &Observer{Config{Dir: dir, RunDir: runDir, NetNSDir: netNSDir}}
}

// Sight is one pod as an Observer sees it.
type Sight struct {
	Pod
	Apps []App // oldest first; those being created left out

	Alive      bool  // its supervisor is there
	Supervisor int   // its pid, if it answers
	Silent     error // why a supervisor that is there was not understood
	Doomed     bool  // its removal has begun
	MarkedAt   time.Time
	Unread     []error // parts of its records that cannot be read
}

// Find returns the pod whose id begins with prefix or, of a "namespace/name", the one
// of that name that has not exited, else the last that has. None is NotFound, several
// are InvalidArgument.
func (o *Observer) Find(prefix string) (ID, error) {
	ids, err := o.ids()
	if err != nil {
		return "", err
	}
	var found []ID
	if strings.Contains(prefix, "/") {
		found = o.lastOf(ids, prefix)
	} else if prefix != "" {
		found = slices.DeleteFunc(ids, func(id ID) bool { return !strings.HasPrefix(string(id), prefix) })
	}
	switch len(found) {
	case 0:
		return "", fmt.Errorf("no matches found for %q%w", prefix, silent{errdefs.ErrNotFound})
	case 1:
		return found[0], nil
	}
	return "", fmt.Errorf("ambiguous uuid %q, %d matches%w", prefix, len(found), silent{errdefs.ErrInvalidArgument})
}

// lastOf returns the pods of a name that are not known to have exited, else the last
// one that is.
func (o *Observer) lastOf(ids []ID, name string) (found []ID) {
	var last record
	for _, id := range ids {
		rec, err := readPod(filepath.Join(o.cfg.Dir, string(id)))
		switch {
		case err != nil || rec.Spec.Namespace+"/"+rec.Spec.Name != name:
		case rec.State != Exited && !rec.Doomed:
			found = append(found, id)
		case rec.CreatedAt.After(last.CreatedAt):
			last = rec
		}
	}
	if len(found) == 0 && last.ID != "" {
		found = append(found, last.ID)
	}
	return found
}

// silent gives an error a class without a word of it in the text.
type silent struct{ class error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.class }

// ids are all pods that have a folder.
func (o *Observer) ids() (ids []ID, err error) {
	entries, err := os.ReadDir(o.cfg.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if e.IsDir() && isID(e.Name()) {
			ids = append(ids, ID(e.Name()))
		}
	}
	return ids, nil
}

// Pod looks at one pod. One that is gone is NotFound.
func (o *Observer) Pod(ctx context.Context, id ID) (Sight, error) {
	e := &Engine{cfg: o.cfg, pods: map[ID]*entry{}, apps: map[AppID]*appEntry{}}
	rec, err := readPod(e.podDir(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Sight{}, fmt.Errorf("pod %s: %w", id, errdefs.ErrNotFound)
	}
	if err == nil && rec.ID != id {
		err = fmt.Errorf("record in %s is of pod %s", e.podDir(id), rec.ID)
	}
	if err != nil {
		return Sight{}, err
	}
	s := Sight{Doomed: rec.Doomed, MarkedAt: rec.MarkedAt, Unread: e.load(&rec)}
	if rec.State == Running {
		o.ask(ctx, e, &s, id)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s.Pod = e.podOfLocked(e.pods[id])
	for _, a := range e.apps {
		if a.rec.State == Prepared {
			continue
		}
		if !s.Alive && a.rec.State != Exited { // killed with its pod; nobody has written that yet
			a.rec.State, a.pid = Exited, 0
		}
		s.Apps = append(s.Apps, e.appOfLocked(a))
	}
	if s.State == Running && !s.Alive {
		s.State = Exited
	}
	sortApps(s.Apps)
	return s, nil
}

// ask adds what the pod's supervisor knows.
func (o *Observer) ask(ctx context.Context, e *Engine, s *Sight, id ID) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := o.Dial(ctx, id)
	if err == nil {
		defer c.Close()
		var st supervisor.Status
		if st, err = c.Status(ctx); err == nil {
			e.applyStatus(id, st)
			s.Alive, s.Supervisor = true, st.PID
			return
		}
	}
	// Only a pod that has run is here: its supervisor holds the lock or is gone.
	gone, lerr := lockIsFree(e.podDir(id))
	if s.Alive = lerr != nil || !gone; s.Alive {
		s.Silent = errors.Join(err, lerr)
	}
}

// Pods looks at all pods, oldest first. The errors are of those that cannot be read.
func (o *Observer) Pods(ctx context.Context) ([]Sight, []error) {
	ids, err := o.ids()
	if err != nil {
		return nil, []error{err}
	}
	seen, errs := make([]Sight, len(ids)), make([]error, len(ids))
	g := errgroup.Group{}
	g.SetLimit(recoverAtOnce)
	for i, id := range ids {
		g.Go(func() error {
			seen[i], errs[i] = o.Pod(ctx, id)
			return nil
		})
	}
	_ = g.Wait() // none returns an error
	out := slices.DeleteFunc(seen, func(s Sight) bool { return s.ID == "" })
	slices.SortFunc(out, func(a, b Sight) int { return olderPod(a.Pod, b.Pod) })
	return out, slices.DeleteFunc(errs, func(err error) bool { return err == nil || errdefs.IsNotFound(err) })
}

// EngineLives says whether an engine holds the node's pods.
func (o *Observer) EngineLives() (bool, error) {
	free, err := lockIsFree(o.cfg.Dir)
	return !free, err
}

// AppConfig returns the app's OCI config.json.
func (o *Observer) AppConfig(app App) ([]byte, error) {
	return os.ReadFile(filepath.Join(o.cfg.Dir, string(app.Pod), "apps", string(app.ID), "bundle", "config.json"))
}

// Dial connects to a pod's supervisor, for execs and attaches: they end with the
// connection.
func (o *Observer) Dial(ctx context.Context, id ID) (*supervisor.Client, error) {
	return supervisor.Dial(ctx, filepath.Join(o.cfg.RunDir, string(id)), observerName)
}

// Terminate asks a running pod to end: its supervisor sends SIGTERM to all apps and
// kills what is left after ten seconds. It does not wait for that.
func (o *Observer) Terminate(ctx context.Context, id ID) error {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	c, err := o.Dial(ctx, id)
	if err != nil {
		return err
	}
	defer c.Close()
	fd, err := unix.PidfdOpen(c.Hello().PID, 0)
	if err != nil {
		return fmt.Errorf("open supervisor %d of pod %s: %w", c.Hello().PID, id, err)
	}
	defer unix.Close(fd)
	if !supervises(c.Hello().PID, id) {
		return fmt.Errorf("process %d is not the supervisor of pod %s, which says so: it runs in another PID namespace: %w", c.Hello().PID, id, errdefs.ErrFailedPrecondition)
	}
	// That it answers now means that the pid was still its when it was opened.
	if _, err := c.Status(ctx); err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		return fmt.Errorf("terminate supervisor %d of pod %s: %w", c.Hello().PID, id, err)
	}
	return nil
}

// supervises says whether a process was started to supervise a pod. The pid that a
// supervisor tells is of its own PID namespace, which need not be ours.
func supervises(pid int, id ID) bool {
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && slices.ContainsFunc(strings.Split(string(cmdline), "\x00"), func(arg string) bool { return filepath.Base(arg) == string(id) })
}

// Kill ends a pod at once, by its supervisor or, if that does not do it in time, by
// its cgroup. When it returns nil the supervisor has ended and, with it, all apps.
func (o *Observer) Kill(ctx context.Context, pod Pod, launcher launch.Launcher, patience time.Duration) error {
	living, err := processesOf(pod.Cgroup)
	defer living.close()
	if err != nil {
		return fmt.Errorf("kill pod %s: %w", pod.ID, err)
	}
	if err := o.shutdown(ctx, pod.ID, patience); err != nil {
		if kerr := launcher.Kill(ctx, pod.Spec.CgroupParent, string(pod.ID)); kerr != nil {
			return fmt.Errorf("kill pod %s: %w (its supervisor: %v)", pod.ID, kerr, err)
		}
	}
	if err := o.WaitGone(ctx, pod.ID); err != nil {
		return err
	}
	// A process gives its lock free a little before it ends.
	return living.wait(ctx)
}

// pidfds are processes.
type pidfds []int

// processesOf returns those in a cgroup and below.
func processesOf(group string) (fds pidfds, err error) {
	open := map[int]int{}
	for _, pid := range cgroup.Procs(group) {
		if pid <= 0 { // of another PID namespace
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return fds, fmt.Errorf("open process %d: %w", pid, err)
		}
		open[pid], fds = fd, append(fds, fd)
	}
	// One whose pid was used again between the two is not there any more.
	still := cgroup.Procs(group)
	for pid, fd := range open {
		if !slices.Contains(still, pid) {
			unix.Close(fd)
			fds = slices.DeleteFunc(fds, func(f int) bool { return f == fd })
		}
	}
	return fds, nil
}

// wait waits until all have ended.
func (p pidfds) wait(ctx context.Context) error {
	for _, fd := range p {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		for ctx.Err() == nil {
			n, err := unix.Poll(poll, int(goneEvery.Milliseconds()))
			if err != nil && !errors.Is(err, unix.EINTR) {
				return fmt.Errorf("wait for a process: %w", err)
			}
			if n > 0 {
				break
			}
		}
	}
	return ctx.Err()
}

func (p pidfds) close() {
	for _, fd := range p {
		unix.Close(fd)
	}
}

func (o *Observer) shutdown(ctx context.Context, id ID, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c, err := o.Dial(ctx, id)
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Shutdown(ctx)
}

// goneEvery is how often WaitGone looks: a lock cannot be waited for with a context.
const goneEvery = 20 * time.Millisecond

// WaitGone waits until the pod's supervisor, which has run, is gone.
func (o *Observer) WaitGone(ctx context.Context, id ID) error {
	tick := time.NewTicker(goneEvery)
	defer tick.Stop()
	for {
		gone, err := lockIsFree(filepath.Join(o.cfg.Dir, string(id)))
		if err != nil || gone {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// SupervisorSocket is where a pod's supervisor listens.
func (o *Observer) SupervisorSocket(id ID) string {
	return filepath.Join(o.cfg.RunDir, string(id), supervisor.SocketName)
}
