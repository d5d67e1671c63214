package pod

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/klog/v2"
)

// GCSpec says what GC may remove.
type GCSpec struct {
	Grace    time.Duration // since GC first saw a pod exited
	MarkOnly bool          // remove nothing
}

// Collected is what GC did, and what Collect removed for it.
type Collected struct {
	Marked  []ID // seen exited for the first time
	Removed []ID
	Waiting []ID // exited, still within the grace period
	Garbage
}

// GC removes pods that exited, a while after it first saw them so, and whatever
// Collect does. Removals and detachings that failed are tried again first. It may
// run at any time after Recover, beside all other calls, and goes on past errors.
func (e *Engine) GC(ctx context.Context, spec GCSpec) (c Collected, err error) {
	var errs []error
	if !spec.MarkOnly {
		errs = append(errs, e.retryAll(ctx))
	}
	for _, p := range e.Pods(nil) {
		if p.State != Exited {
			continue
		}
		if err := e.gcPod(ctx, p.ID, spec, &c); err != nil {
			errs = append(errs, err)
		}
	}
	if !spec.MarkOnly {
		var err error
		c.Garbage, err = e.Collect(ctx)
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

// gcPod marks one pod, or removes it.
func (e *Engine) gcPod(ctx context.Context, id ID, spec GCSpec, c *Collected) error {
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return err
	}
	defer e.work.Unlock(string(id))
	rec, ok := e.podRecord(id)
	if !ok || rec.State != Exited || rec.Doomed {
		return nil
	}
	now := time.Now().Round(0)
	if rec.MarkedAt.IsZero() || rec.MarkedAt.After(now) { // the clock was set back
		if err := e.save(id, func(r *record) error { r.MarkedAt = now; return nil }); err != nil {
			return fmt.Errorf("mark pod %s: %w", id, err)
		}
		rec.MarkedAt = now
		c.Marked = append(c.Marked, id)
	}
	switch {
	case spec.MarkOnly:
	case now.Sub(rec.MarkedAt) < spec.Grace:
		c.Waiting = append(c.Waiting, id)
	default:
		if err := e.doomAndDismantle(ctx, id); err != nil {
			return fmt.Errorf("remove pod %s: %w", id, err)
		}
		c.Removed = append(c.Removed, id)
	}
	return nil
}

// retryAll does at once what Run would try again later.
func (e *Engine) retryAll(ctx context.Context) error {
	var errs []error
	for _, id := range e.takePending() {
		rec, ok := e.podRecord(id)
		if !ok {
			continue
		}
		err := e.retryPod(ctx, id, &rec)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// takePending takes all that Run would try again, whenever it is due.
func (e *Engine) takePending() (ids []ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, p := range e.pods {
		if !p.retryAt.IsZero() {
			p.retryAt = time.Time{}
			ids = append(ids, id)
		}
	}
	return ids
}

// retryPod takes up what could not be done for a pod: its dismantling if it is
// doomed, else its detaching. What fails again Run tries later.
func (e *Engine) retryPod(ctx context.Context, id ID, rec *record) error {
	switch {
	case rec.Doomed:
		if err := e.work.Lock(ctx, string(id)); err != nil {
			return err
		}
		defer e.work.Unlock(string(id))
		if err := e.doomAndDismantle(ctx, id); err != nil {
			return fmt.Errorf("remove pod %s: %w", id, err)
		}
	case rec.State == Exited:
		if err := e.detach(ctx, id); err != nil {
			e.retryLater(id)
			return err
		}
	}
	return nil
}

// retry is retryPod for Run.
func (e *Engine) retry(ctx context.Context, id ID) {
	rec, ok := e.podRecord(id)
	if !ok {
		return
	}
	if err := e.retryPod(ctx, id, &rec); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Something of a pod is left, trying again later")
	}
}
