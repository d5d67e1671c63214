package pod

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/supervisor"
)

// Pod is a snapshot of one pod. Spec and Network are shared and must not be changed.
type Pod struct {
	ID        ID
	Spec      *Spec
	State     State
	CreatedAt time.Time
	StartedAt time.Time      // zero before it runs
	Network   network.Result // zero on the host's network
	NetNS     string         // path of its network namespace; empty on the host's network
	Cgroup    string         // the pod's own, in cgroupfs syntax
	Dir       string         // its folder
	InitPID   int            // on the host, of the init of a shared PID namespace; else 0
}

// App is a snapshot of one app. Spec and Exit are shared and must not be changed.
type App struct {
	ID        AppID
	Pod       ID
	Spec      *AppSpec
	State     State
	CreatedAt time.Time
	StartedAt time.Time        // zero before start
	PID       int              // on the host, of its first process; 0 when it does not live
	Exit      *supervisor.Exit // once State is Exited
	Cgroup    string           // in cgroupfs syntax
}

// Pods returns the pods that match, oldest first. Like every read it answers from
// memory. Pods being removed are not among them.
func (e *Engine) Pods(match func(*Pod) bool) []Pod {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]Pod, 0, len(e.pods))
	for _, p := range e.pods {
		if p.rec.Doomed {
			continue
		}
		if pod := e.podOfLocked(p); match == nil || match(&pod) {
			out = append(out, pod)
		}
	}
	slices.SortFunc(out, olderPod)
	return out
}

func olderPod(a, b Pod) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(string(a.ID), string(b.ID)))
}

func olderApp(a, b App) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), strings.Compare(string(a.ID), string(b.ID)))
}

// Pod returns one pod. An unknown one is NotFound.
func (e *Engine) Pod(id ID) (Pod, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pods[id]
	if p == nil || p.rec.Doomed {
		return Pod{}, fmt.Errorf("pod %s: %w", id, errdefs.ErrNotFound)
	}
	return e.podOfLocked(p), nil
}

func (e *Engine) podOfLocked(p *entry) Pod {
	pod := Pod{
		ID:        p.rec.ID,
		Spec:      p.rec.Spec,
		State:     p.rec.State,
		CreatedAt: p.rec.CreatedAt,
		StartedAt: p.rec.StartedAt,
		Network:   p.net,
		Cgroup:    p.rec.Cgroup,
		Dir:       e.podDir(p.rec.ID),
		InitPID:   p.initPID,
	}
	if !p.rec.Spec.HostNetwork {
		pod.NetNS = e.netnsPath(p.rec.ID)
	}
	return pod
}

// Apps returns the apps that match, oldest first. Apps that are still being
// created are not among them.
func (e *Engine) Apps(match func(*App) bool) []App {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := make([]App, 0, len(e.apps))
	for _, a := range e.apps {
		if !e.visibleLocked(a) {
			continue
		}
		if app := e.appOfLocked(a); match == nil || match(&app) {
			out = append(out, app)
		}
	}
	sortApps(out)
	return out
}

// sortApps puts the oldest first.
func sortApps(apps []App) { slices.SortFunc(apps, olderApp) }

// App returns one app. An unknown one is NotFound.
func (e *Engine) App(id AppID) (App, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.apps[id]
	if a == nil || !e.visibleLocked(a) {
		return App{}, fmt.Errorf("app %s: %w", id, errdefs.ErrNotFound)
	}
	return e.appOfLocked(a), nil
}

func (e *Engine) visibleLocked(a *appEntry) bool {
	p := e.pods[a.rec.Pod]
	return a.rec.State != Prepared && p != nil && !p.rec.Doomed
}

func (e *Engine) appOfLocked(a *appEntry) App {
	app := App{
		ID:        a.rec.ID,
		Pod:       a.rec.Pod,
		Spec:      a.rec.Spec,
		State:     a.rec.State,
		CreatedAt: a.rec.CreatedAt,
		StartedAt: a.rec.StartedAt,
		PID:       a.pid,
		Exit:      a.exit,
	}
	if p := e.pods[a.rec.Pod]; p != nil {
		app.Cgroup = appCgroup(p.rec.Cgroup, a.rec.ID)
	}
	return app
}

func appCgroup(podCgroup string, id AppID) string { return podCgroup + "/" + string(id) }

// appsOf returns the ids of all apps of a pod, also those being created.
func (e *Engine) appsOf(id ID) (ids []AppID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.apps {
		if a.rec.Pod == id {
			ids = append(ids, a.rec.ID)
		}
	}
	return ids
}

// podRecord returns a copy of a pod's record, also of one being removed.
func (e *Engine) podRecord(id ID) (record, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pods[id]
	if p == nil {
		return record{}, false
	}
	return p.rec, true
}

func (e *Engine) appRecord(id AppID) (appRecord, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.apps[id]
	if a == nil {
		return appRecord{}, false
	}
	return a.rec, true
}

// save changes a pod's record: on disk, then in the index. The caller holds the
// pod's lock.
func (e *Engine) save(id ID, change func(*record) error) error {
	rec, ok := e.podRecord(id)
	if !ok {
		return fmt.Errorf("pod %s: %w", id, errdefs.ErrNotFound)
	}
	if err := change(&rec); err != nil {
		return err
	}
	if err := rec.write(e.podDir(id)); err != nil {
		return err
	}
	e.update(id, func(p *entry) { p.rec = rec })
	return nil
}

// update changes an entry of the index, if it is there, and publishes what that
// shows.
func (e *Engine) update(id ID, change func(*entry)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p := e.pods[id]; p != nil {
		before := p.shown()
		change(p)
		e.tellPodLocked(p, before)
	}
}

func (e *Engine) updateApp(id AppID, change func(*appEntry)) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if a := e.apps[id]; a != nil {
		before := a.rec.State
		change(a)
		e.tellAppLocked(a, before)
	}
}

// forgetApp takes an app out of the index.
func (e *Engine) forgetApp(id AppID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	a := e.apps[id]
	if a == nil {
		return
	}
	shown := e.visibleLocked(a)
	delete(e.apps, id)
	if shown {
		e.publishLocked(EventRemoved, e.pods[a.rec.Pod], id)
	}
}

// findPod returns the pod of an identity that is not being removed.
func (e *Engine) findPod(key identity) (record, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.pods {
		if p.rec.Spec.identity() == key && !p.rec.Doomed {
			return p.rec, true
		}
	}
	return record{}, false
}

func (e *Engine) findApp(key appIdentity) (appRecord, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.apps {
		if (appIdentity{a.rec.Pod, a.rec.Spec.Name, a.rec.Spec.Attempt}) == key {
			return a.rec, true
		}
	}
	return appRecord{}, false
}
