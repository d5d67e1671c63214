package pod

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/supervisor"
)

// Run follows the events of all supervisors and repeats what must succeed in the
// end, until ctx ends; then it ends all watches, closes all connections and returns
// nil. Pods run on.
// Recover comes before it.
func (e *Engine) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer e.Close()
	defer wg.Wait()
	defer e.endWatches() // first: calls that only watch must not hold up a shutdown
	wg.Go(func() { e.measure(ctx) })
	wg.Go(func() {
		if err := e.serve(ctx); err != nil {
			klog.FromContext(ctx).Error(err, "Operators' commands cannot reach this engine", "socket", e.cfg.Socket)
		}
	})
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		for _, id := range e.takeUnfollowed() {
			wg.Go(func() { e.guard(ctx, id, e.follow) })
		}
		due, next := e.takeDue(time.Now())
		for _, id := range due {
			wg.Go(func() { e.guard(ctx, id, e.retry) })
		}
		timer.Reset(next)
		select {
		case <-ctx.Done():
			return nil
		case <-e.wake:
		case <-timer.C:
		}
	}
}

// guard keeps a panic in work on one pod from taking the process with it.
func (e *Engine) guard(ctx context.Context, id ID, work func(context.Context, ID)) {
	defer func() {
		if p := recover(); p != nil {
			klog.FromContext(ctx).Error(nil, "Panic in work on a pod", "podID", id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	work(klog.NewContext(ctx, klog.LoggerWithValues(klog.FromContext(ctx), "podID", id)), id)
}

// takeUnfollowed returns the running pods that nobody follows, and marks them.
func (e *Engine) takeUnfollowed() (ids []ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, p := range e.pods {
		if p.rec.State == Running && !p.rec.Doomed && !p.following {
			p.following = true
			ids = append(ids, id)
		}
	}
	return ids
}

// takeDue returns the pods whose retry is due, and how long until the next is.
func (e *Engine) takeDue(now time.Time) (due []ID, next time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	next = time.Hour
	for id, p := range e.pods {
		switch {
		case p.retryAt.IsZero():
		case p.retryAt.After(now):
			next = min(next, p.retryAt.Sub(now))
		default:
			p.retryAt = time.Time{}
			due = append(due, id)
		}
	}
	return due, next
}

// follow keeps a running pod's events flowing into the index until the pod is over.
func (e *Engine) follow(ctx context.Context, id ID) {
	defer e.update(id, func(p *entry) { p.following = false })
	log := klog.FromContext(ctx)
	pause := time.Duration(0)
	for e.isRunning(id) {
		if pause > 0 {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
		err := e.pump(ctx, id, func() { pause = 0 })
		if e.settled(ctx, id) {
			return
		}
		if gone, lerr := e.supervisorGone(id); lerr == nil && gone {
			log.Info("The supervisor has gone, ending its pod")
			e.countLost(id)
			if err = e.Stop(ctx, id, 0); err == nil {
				return
			}
		}
		log.Error(err, "Lost a supervisor, trying again")
		e.counters.reconnected.Add(1)
		pause = min(max(2*pause, e.cfg.RetryMin), e.cfg.RetryMax)
	}
}

// settled waits for whoever may just be ending the pod, and says whether there is
// nothing more to follow.
func (e *Engine) settled(ctx context.Context, id ID) bool {
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return true
	}
	defer e.work.Unlock(string(id))
	return !e.isRunning(id)
}

func (e *Engine) isRunning(id ID) bool {
	p, ok := e.podRecord(id)
	return ok && p.State == Running && !p.Doomed
}

// pump reads events from one connection until it ends.
func (e *Engine) pump(ctx context.Context, id ID, connected func()) error {
	c, err := e.connect(ctx, id)
	if err != nil {
		return err
	}
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	e.applyStatus(id, st)
	if err := c.Subscribe(ctx, 0); err != nil {
		return err
	}
	connected()
	for {
		ev, err := c.Next(ctx)
		if err != nil {
			return err
		}
		if err := e.apply(ctx, id, ev); err != nil {
			return err
		}
		// What an event says is on disk already, by the supervisor.
		if err := c.Ack(ctx, ev.Seq); err != nil {
			return err
		}
	}
}

// apply takes one event into the index.
func (e *Engine) apply(ctx context.Context, id ID, ev supervisor.Event) error {
	switch ev.Kind {
	case supervisor.AppHasExited:
		if ev.Exit == nil {
			return fmt.Errorf("event %d of app %s has no exit: %w", ev.Seq, ev.App, errdefs.ErrInvalidArgument)
		}
		e.setExit(AppID(ev.App), *ev.Exit)
		klog.FromContext(ctx).Info("App exited", "appID", ev.App, "code", ev.Exit.Code, "oomKilled", ev.Exit.OOMKilled)
	case supervisor.PodHasEnded:
		klog.FromContext(ctx).Info("The pod's instance has ended by itself, ending the pod")
		return e.Stop(ctx, id, 0)
	}
	return nil
}

// applyStatus takes a snapshot into the index.
func (e *Engine) applyStatus(id ID, st supervisor.Status) {
	e.update(id, func(p *entry) { p.initPID = st.Init })
	for _, s := range st.Apps {
		switch {
		case s.State == supervisor.AppExited && s.Exit != nil:
			e.setExit(AppID(s.Name), *s.Exit)
		case s.State == supervisor.AppRunning:
			e.updateApp(AppID(s.Name), func(a *appEntry) {
				if a.rec.State == Running || a.rec.to(Running) == nil {
					a.pid, a.rec.StartedAt = s.PID, s.StartedAt
				}
			})
		default:
			e.updateApp(AppID(s.Name), func(a *appEntry) { a.pid = s.PID })
		}
	}
}

// Close closes all connections and gives Config.Dir free. Pods run on. It is for
// an engine on which Run was not called, which does it by itself.
func (e *Engine) Close() {
	for _, p := range e.Pods(nil) {
		e.disconnect(p.ID)
	}
	e.meters.keep(nil, nil)
	e.mu.Lock()
	unlock := e.unlock
	e.unlock = nil
	e.mu.Unlock()
	if unlock != nil {
		unlock()
	}
}
