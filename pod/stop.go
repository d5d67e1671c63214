package pod

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/internal/span"
	"github.com/rktnetes/rktshim/supervisor"
)

// killTime bounds the killing of a pod's cgroup.
const killTime = 30 * time.Second

// Stop asks every app to exit by its stop signal, waits up to grace, then ends the
// pod with all that is in its cgroup and takes it off the network. It works also
// when the supervisor is dead or does not answer. Stopping an exited or unknown pod
// returns nil.
//
// A network plugin that fails does not fail Stop: what it holds is given back by
// Run, which tries until it succeeds.
func (e *Engine) Stop(ctx context.Context, id ID, grace time.Duration) error {
	rec, ok := e.podRecord(id)
	if !ok {
		return nil
	}
	if grace > 0 && rec.State == Running {
		e.stopApps(ctx, id, grace)
	}
	// The plugins need the pod's records and namespace, not its processes: side by side
	// with their end, which takes less time.
	detached := make(chan error, 1)
	go func() { detached <- e.detach(ctx, id) }()
	err := e.end(ctx, id)
	if derr := <-detached; derr != nil {
		klog.FromContext(ctx).Error(derr, "Pod not detached, trying again later", "podID", id)
		e.retryLater(id)
	}
	if err != nil {
		return fmt.Errorf("stop pod %s: %w", id, err)
	}
	return nil
}

// stopApps gives all apps their grace, side by side. What goes wrong is no matter:
// they are killed next.
func (e *Engine) stopApps(ctx context.Context, id ID, grace time.Duration) {
	var wg sync.WaitGroup
	for _, app := range e.appsOf(id) {
		wg.Go(func() { _ = e.StopApp(ctx, app, grace) })
	}
	wg.Wait()
}

// end kills all that lives of a pod, which is Exited then.
func (e *Engine) end(ctx context.Context, id ID) error {
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return err
	}
	defer e.work.Unlock(string(id))
	return e.endLocked(ctx, id)
}

// endLocked is end for who holds the pod's lock.
func (e *Engine) endLocked(ctx context.Context, id ID) error {
	rec, ok := e.podRecord(id)
	if !ok || rec.State == Exited {
		return nil
	}
	log := klog.FromContext(ctx)
	if rec.State == Running {
		e.shutdown(ctx, id)
	}
	if err := e.kill(ctx, &rec); err != nil {
		return err
	}
	e.disconnect(id)
	e.sealApps(ctx, id)
	if err := e.save(id, func(r *record) error { return r.to(Exited) }); err != nil {
		// The pod is over whatever the disk says: after a restart its lock tells.
		log.Error(err, "The end of a pod is not on disk", "podID", id)
		e.update(id, func(p *entry) { _ = p.rec.to(Exited) })
	}
	log.Info("Pod exited", "podID", id)
	return nil
}

// shutdown asks the supervisor to end its pod in order, if it answers in time.
func (e *Engine) shutdown(ctx context.Context, id ID) {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.StopTimeout)
	defer cancel()
	ctx, end := span.Start(ctx, "shut down pod")
	c, err := e.connect(ctx, id)
	if err == nil {
		err = c.Shutdown(ctx)
	}
	end(err)
	if err != nil {
		klog.FromContext(ctx).Info("The supervisor did not end its pod, killing its cgroup", "podID", id, "reason", err.Error())
	}
}

// kill empties and removes the pod's cgroup and unit, and sweeps what the instance
// left. It goes on when the request is cancelled: a kill must not stop half way.
func (e *Engine) kill(ctx context.Context, rec *record) (err error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
	defer cancel()
	ctx, end := span.Start(ctx, "kill cgroup")
	defer func() { end(err) }()
	if err := e.launcher.Kill(ctx, rec.Spec.CgroupParent, string(rec.ID)); err != nil {
		return err
	}
	flavor, ok := e.cfg.Flavors[rec.Spec.Flavor]
	if !ok {
		return nil // one that this program does not know any more; the sweep of its run folder takes its mounts
	}
	return flavor.Sweep(e.stage1Spec(rec.ID, rec.Spec))
}

// sealApps gives every app of a pod that is over its exit: the one on disk, or,
// for one whose supervisor was killed before it could write it, that of a process
// killed with it, which is then put on disk.
func (e *Engine) sealApps(ctx context.Context, id ID) {
	for _, app := range e.appsOf(id) {
		rec, ok := e.appRecord(app)
		if !ok || rec.State == Prepared || rec.State == Exited {
			continue
		}
		exit, err := supervisor.ReadExit(e.appDir(id, app))
		if err != nil {
			exit = lostExit(rec.StartedAt)
			if err := supervisor.WriteExit(e.appDir(id, app), exit); err != nil {
				klog.FromContext(ctx).Error(err, "The exit of an app is not on disk", "appID", app)
			}
		}
		e.setExit(app, exit)
	}
}

// lostExit is the exit of an app whose own was not recorded: killed with its pod,
// now at the latest.
func lostExit(started time.Time) supervisor.Exit {
	finished := time.Now().Round(0)
	if finished.Before(started) {
		finished = started
	}
	return supervisor.Exit{Code: 128 + int(unix.SIGKILL), Signal: int(unix.SIGKILL), StartedAt: started, FinishedAt: finished}
}

// setExit notes an app's exit in the index. Told twice, it is the same.
func (e *Engine) setExit(id AppID, exit supervisor.Exit) {
	e.updateApp(id, func(a *appEntry) {
		if a.rec.to(Exited) != nil { // it was told before
			return
		}
		a.exit, a.pid = &exit, 0
		if a.rec.StartedAt.IsZero() {
			a.rec.StartedAt = exit.StartedAt
		}
	})
	e.meters.dropApp(id)
}

// retryLater has Run take up a pod again, after a growing pause.
func (e *Engine) retryLater(id ID) {
	e.update(id, func(p *entry) {
		p.retryPause = min(max(2*p.retryPause, e.cfg.RetryMin), e.cfg.RetryMax)
		p.retryAt = time.Now().Add(p.retryPause)
	})
	e.poke()
}
