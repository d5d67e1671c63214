package pod

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// EventKind says what has happened to a pod or an app.
type EventKind string

// The kinds of events. Those of one pod or app come in this order, each once; one
// that ends before it was started lacks EventStarted, and one that is removed while
// it lives lacks EventExited.
const (
	EventCreated EventKind = "created"
	EventStarted EventKind = "started"
	EventExited  EventKind = "exited"
	EventRemoved EventKind = "removed" // no read shows it any more
)

// Event is a change that the reads of the engine show.
type Event struct {
	Kind EventKind
	Pod  ID
	App  AppID // empty: it is about the pod

	// Snapshot is of the newest attempt that there is of the pod, which need not be
	// the one that Pod names: what happens to an earlier attempt must not be taken
	// for the pod's end. A pod is still in the event of its own removal.
	Snapshot
}

// Snapshot is a pod and its apps as they were at one moment.
type Snapshot struct {
	// At is the moment. Of two snapshots of one engine the later one has the later
	// time, even when the wall clock is set back.
	At  time.Time
	Pod Pod
	// Apps are the pod's, with those of its earlier attempts, oldest first.
	Apps []App
}

// Snapshot returns a pod with its apps. An unknown one is NotFound.
func (e *Engine) Snapshot(id ID) (Snapshot, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pods[id]
	if p == nil || p.rec.Doomed {
		return Snapshot{}, fmt.Errorf("pod %s: %w", id, errdefs.ErrNotFound)
	}
	return e.snapshotLocked(p), nil
}

// watchLimit is how many events wait for a reader before it counts as too slow.
const watchLimit = 1000

// watcher is one reader of events.
type watcher struct {
	queue []Event       // guarded by Engine.mu
	err   error         // guarded by Engine.mu; why there will be no more
	wake  chan struct{} // holds one token when there is something to take
}

// Watch calls f with each event from now on, in order, until ctx ends or f fails,
// and returns that error. It begins with one event per pod, EventStarted or
// EventExited, so that who watches again misses nothing but removals.
//
// f may block: it delays nobody. If more than watchLimit events wait for it, Watch
// returns a ResourceExhausted error rather than leave any out. When Run ends, it
// returns an Unavailable one.
func (e *Engine) Watch(ctx context.Context, f func(Event) error) error {
	w := e.watch()
	defer e.unwatch(w)
	for {
		events, err := e.take(w)
		if err != nil {
			return err
		}
		for _, ev := range events {
			if err := f(ev); err != nil {
				return err
			}
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// watch adds a watcher to whom the present state has been told.
func (e *Engine) watch() *watcher {
	w := &watcher{wake: make(chan struct{}, 1)}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.over {
		w.err = errEngineEnded
		return w
	}
	for _, p := range e.pods {
		kind := map[State]EventKind{Running: EventStarted, Exited: EventExited}[p.shown()]
		if kind != "" && e.newestLocked(p) == p {
			w.queue = append(w.queue, Event{Kind: kind, Pod: p.rec.ID, Snapshot: e.snapshotLocked(p)})
		}
	}
	e.watchers[w] = true
	return w
}

func (e *Engine) unwatch(w *watcher) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.watchers, w)
}

// take empties a watcher's queue.
func (e *Engine) take(w *watcher) ([]Event, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	events := w.queue
	w.queue = nil
	return events, w.err
}

var errEngineEnded = fmt.Errorf("watch pods: the engine has ended: %w", errdefs.ErrUnavailable)

// endWatches ends all watches, also those to come.
func (e *Engine) endWatches() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.over = true
	for w := range e.watchers {
		e.dropLocked(w, errEngineEnded)
	}
}

func (e *Engine) dropLocked(w *watcher, err error) {
	w.queue, w.err = nil, err
	delete(e.watchers, w)
	w.poke()
}

func (w *watcher) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// publishLocked tells all watchers of an event of a pod or, with app set, of one of
// its apps.
func (e *Engine) publishLocked(kind EventKind, p *entry, app AppID) {
	if len(e.watchers) == 0 {
		return
	}
	ev := Event{Kind: kind, Pod: p.rec.ID, App: app, Snapshot: e.snapshotLocked(e.newestLocked(p))}
	for w := range e.watchers {
		if len(w.queue) >= watchLimit {
			e.dropLocked(w, fmt.Errorf("watch pods: the reader is too slow, %d events wait for it: %w", watchLimit, errdefs.ErrResourceExhausted))
			continue
		}
		w.queue = append(w.queue, ev)
		w.poke()
	}
}

// shown is the state that events tell of a pod; empty while there is none.
func (p *entry) shown() State {
	if p.rec.Doomed || p.rec.State != Running && p.rec.State != Exited {
		return ""
	}
	return p.rec.State
}

// tellPodLocked publishes what has become of a pod that was shown in a state.
func (e *Engine) tellPodLocked(p *entry, before State) {
	after := p.shown()
	if after == before {
		return
	}
	if before == "" {
		e.publishLocked(EventCreated, p, "")
	}
	switch after {
	case Running:
		e.publishLocked(EventStarted, p, "")
	case Exited:
		e.publishLocked(EventExited, p, "")
	default: // its apps vanish with it
		for _, a := range e.ownAppsLocked(p) {
			e.publishLocked(EventRemoved, p, a.rec.ID)
		}
		e.publishLocked(EventRemoved, p, "")
	}
}

// tellAppLocked publishes what has become of an app that was in a state. Changes
// that came too fast to be seen one by one are told one by one all the same.
func (e *Engine) tellAppLocked(a *appEntry, before State) {
	p := e.pods[a.rec.Pod]
	if a.rec.State == before || p == nil || p.rec.Doomed {
		return
	}
	if before == Prepared {
		e.publishLocked(EventCreated, p, a.rec.ID)
	}
	started := a.rec.State == Running || a.rec.State == Exited && !a.rec.StartedAt.IsZero()
	if started && before != Running {
		e.publishLocked(EventStarted, p, a.rec.ID)
	}
	if a.rec.State == Exited {
		e.publishLocked(EventExited, p, a.rec.ID)
	}
}

// newestLocked finds the newest attempt that there is of a pod, itself included.
func (e *Engine) newestLocked(p *entry) *entry {
	newest := p
	for _, q := range e.pods {
		if q.shown() != "" && q.rec.Spec.UID == p.rec.Spec.UID && q.rec.Spec.Attempt > newest.rec.Spec.Attempt {
			newest = q
		}
	}
	return newest
}

// ownAppsLocked returns the apps of a pod that reads show, or showed until it was
// doomed, oldest first.
func (e *Engine) ownAppsLocked(p *entry) (apps []*appEntry) {
	for _, a := range e.apps {
		if a.rec.Pod == p.rec.ID && a.rec.State != Prepared {
			apps = append(apps, a)
		}
	}
	slices.SortFunc(apps, func(a, b *appEntry) int {
		if c := a.rec.CreatedAt.Compare(b.rec.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(a.rec.ID), string(b.rec.ID))
	})
	return apps
}

func (e *Engine) snapshotLocked(p *entry) Snapshot {
	s := Snapshot{At: e.stampLocked(), Pod: e.podOfLocked(p)}
	for _, a := range e.apps {
		if !e.visibleLocked(a) {
			continue
		}
		if spec := e.pods[a.rec.Pod].rec.Spec; spec.UID == p.rec.Spec.UID && spec.Attempt <= p.rec.Spec.Attempt {
			s.Apps = append(s.Apps, e.appOfLocked(a))
		}
	}
	sortApps(s.Apps)
	return s
}

// stampLocked returns the time, later than at its last call.
func (e *Engine) stampLocked() time.Time {
	now := time.Now().Round(0)
	if !now.After(e.stamp) {
		now = e.stamp.Add(1)
	}
	e.stamp = now
	return now
}
