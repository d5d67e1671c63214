package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/internal/span"
	"github.com/rktnetes/rktshim/supervisor"
)

// StartApp runs a created app. Starting one that runs returns nil, one that has
// exited is FailedPrecondition, an unknown one NotFound.
func (e *Engine) StartApp(ctx context.Context, id AppID) error {
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return err
	}
	defer e.work.Unlock(string(id))
	app, err := e.App(id)
	if err != nil {
		return fmt.Errorf("start: %w", err)
	}
	switch app.State {
	case Running:
		return nil
	case Exited:
		return fmt.Errorf("start app %s: it has exited: %w", id, errdefs.ErrFailedPrecondition)
	}
	c, err := e.Connection(ctx, app.Pod)
	if err != nil {
		return fmt.Errorf("start app %s: %w", id, err)
	}
	sctx, end := span.Start(ctx, "start app")
	started, err := c.StartApp(sctx, string(id))
	end(err)
	if err != nil {
		return err
	}
	var rec appRecord
	e.updateApp(id, func(a *appEntry) {
		_ = a.rec.to(Running) // it may have exited already
		a.rec.StartedAt = started
		rec = a.rec
	})
	e.meters.app(id, app.Cgroup).note()
	rec.State = Running // that it has exited since is told by exit.json
	// For the case that supervisor and engine are both killed: it runs, come what may.
	if err := rec.write(e.appDir(app.Pod, id)); err != nil {
		klog.FromContext(ctx).Error(err, "The start of an app is not on disk", "appID", id)
	}
	return nil
}

// StopApp sends the app its stop signal, waits up to grace, then kills its cgroup.
// It returns once the exit is known. Stopping an app that has exited or is unknown
// returns nil, stopping one again with a shorter grace shortens the first. If the
// supervisor is dead, the whole pod is ended.
func (e *Engine) StopApp(ctx context.Context, id AppID, grace time.Duration) error {
	app, err := e.App(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if app.State == Exited {
		return nil
	}
	signal := app.Spec.StopSignal
	if signal == 0 {
		signal = int(unix.SIGTERM)
	}
	c, err := e.Connection(ctx, app.Pod)
	if err == nil {
		var exit supervisor.Exit
		if exit, err = c.StopApp(ctx, string(id), signal, grace); err == nil {
			e.setExit(id, exit)
			return nil
		}
	}
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("stop app %s: %w", id, err)
	case c == nil && errdefs.IsFailedPrecondition(err): // its pod has ended meanwhile
		return nil
	case errdefs.IsUnavailable(err):
		return e.endIfGone(ctx, app.Pod)
	case errdefs.IsNotFound(err): // the supervisor does not know it: it cannot live
		e.setExit(id, e.exitOnDisk(&app))
		return nil
	}
	return fmt.Errorf("stop app %s: %w", id, err)
}

// exitOnDisk reads the exit of an app that is dead, or makes one up.
func (e *Engine) exitOnDisk(app *App) supervisor.Exit {
	exit, err := supervisor.ReadExit(e.appDir(app.Pod, app.ID))
	if err != nil {
		exit = lostExit(app.StartedAt)
	}
	return exit
}

// endIfGone ends a pod whose supervisor does not answer, if it has gone.
func (e *Engine) endIfGone(ctx context.Context, id ID) error {
	gone, err := e.supervisorGone(id)
	if err != nil {
		return err
	}
	if !gone {
		return fmt.Errorf("the supervisor of pod %s lives but does not answer: %w", id, errdefs.ErrUnavailable)
	}
	e.countLost(id)
	return e.Stop(ctx, id, 0)
}

// RemoveApp kills an app if it still lives, and deletes all there is of it.
// Removing an unknown one returns nil.
func (e *Engine) RemoveApp(ctx context.Context, id AppID) error {
	if err := e.StopApp(ctx, id, 0); err != nil {
		return err
	}
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return err
	}
	defer e.work.Unlock(string(id))
	rec, ok := e.appRecord(id)
	if !ok {
		return nil
	}
	if err := e.dropFromSupervisor(ctx, rec.Pod, id); err != nil {
		return fmt.Errorf("remove app %s: %w", id, err)
	}
	if err := e.dismantleAppLocked(ctx, rec.Pod, id); err != nil {
		return fmt.Errorf("remove app %s: %w", id, err)
	}
	klog.FromContext(ctx).Info("App removed", "podID", rec.Pod, "appID", id, "app", rec.Spec.Name)
	return nil
}

// dropFromSupervisor makes the pod's supervisor forget an app. A pod that is over
// has none to ask.
func (e *Engine) dropFromSupervisor(ctx context.Context, pod ID, app AppID) error {
	c, err := e.Connection(ctx, pod)
	if err == nil {
		err = c.RemoveApp(ctx, string(app))
	}
	switch {
	case err == nil, errdefs.IsFailedPrecondition(err) && c == nil, errdefs.IsNotFound(err):
		return nil
	case errdefs.IsUnavailable(err) && ctx.Err() == nil:
		return e.endIfGone(ctx, pod)
	}
	return err
}

// Change is what UpdateApp makes of an app.
type Change struct {
	// Resources are the new limits, and Before those in force, to go back to: the
	// JSON of linux.resources in the OCI spec.
	Resources, Before []byte
	// Extra replaces AppSpec.Extra.
	Extra json.RawMessage
}

// UpdateApp applies the change that is asked for of the app's spec. Either all of it
// has happened or, on an error, none; if ctx ended, or the supervisor went,
// meanwhile, the limits may be the new ones, and the call should be repeated.
func (e *Engine) UpdateApp(ctx context.Context, id AppID, change func(*AppSpec) (Change, error)) error {
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return err
	}
	defer e.work.Unlock(string(id))
	app, err := e.App(id)
	if err != nil {
		return fmt.Errorf("update: %w", err)
	}
	if app.State == Exited {
		return fmt.Errorf("update app %s: it has exited: %w", id, errdefs.ErrFailedPrecondition)
	}
	spec := *app.Spec
	to, err := change(&spec)
	if err != nil {
		return fmt.Errorf("update app %s: %w", id, err)
	}
	spec.Extra = to.Extra
	rec, _ := e.appRecord(id)
	old := rec
	rec.Spec = &spec
	c, err := e.Connection(ctx, app.Pod)
	if err != nil {
		return fmt.Errorf("update app %s: %w", id, err)
	}
	dir := e.appDir(app.Pod, id)
	if err := rec.write(dir); err != nil {
		return fmt.Errorf("update app %s: %w", id, err)
	}
	if err := c.UpdateApp(ctx, string(id), to.Resources); err != nil {
		// A runtime may have got half way. What was in force can be refused only where
		// it is in force still.
		_ = c.UpdateApp(ctx, string(id), to.Before)
		if werr := old.write(dir); werr != nil {
			err = fmt.Errorf("%w (undo: %v)", err, werr)
		}
		return err
	}
	e.updateApp(id, func(a *appEntry) { a.rec.Spec = &spec })
	return nil
}

// UpdatePod keeps change's answer as the pod's Extra.
func (e *Engine) UpdatePod(ctx context.Context, id ID, change func(*Spec) (json.RawMessage, error)) error {
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return err
	}
	defer e.work.Unlock(string(id))
	if _, err := e.Pod(id); err != nil {
		return fmt.Errorf("update: %w", err)
	}
	return e.save(id, func(r *record) (err error) {
		spec := *r.Spec
		spec.Extra, err = change(&spec)
		r.Spec = &spec
		return err
	})
}

// ReopenLog makes the app write its log to a new file at the same path, after the
// old one was renamed. If it fails nothing was created. An app that does not run is
// FailedPrecondition.
func (e *Engine) ReopenLog(ctx context.Context, id AppID) error {
	c, err := e.running(ctx, id)
	if err != nil {
		return fmt.Errorf("reopen log: %w", err)
	}
	return c.ReopenLog(ctx, string(id))
}

// ExecSync runs a process, the JSON of process in the OCI spec, in a running app to
// its end and returns its output, at most limit bytes per stream. At the timeout
// its whole tree is killed and the error wraps context.DeadlineExceeded; 0 means
// none. An app that does not run is FailedPrecondition.
func (e *Engine) ExecSync(ctx context.Context, id AppID, process []byte, timeout time.Duration, limit int) (supervisor.ExecOutput, error) {
	c, err := e.running(ctx, id)
	if err != nil {
		return supervisor.ExecOutput{}, fmt.Errorf("exec: %w", err)
	}
	e.moves.Want(execMoves)
	return c.ExecSync(ctx, supervisor.ExecSpec{App: string(id), Process: process, Timeout: timeout}, limit)
}

// running returns the connection to the supervisor of an app that runs.
func (e *Engine) running(ctx context.Context, id AppID) (*supervisor.Client, error) {
	app, err := e.App(id)
	if err != nil {
		return nil, err
	}
	if app.State != Running {
		return nil, fmt.Errorf("app %s is %s, it must be running: %w", id, app.State, errdefs.ErrFailedPrecondition)
	}
	return e.Connection(ctx, app.Pod)
}

// AppProcess returns the process of the app's config.json, for an exec to start
// from: the JSON of process in the OCI spec.
func (e *Engine) AppProcess(id AppID) (json.RawMessage, error) {
	rec, ok := e.appRecord(id)
	if !ok {
		return nil, fmt.Errorf("app %s: %w", id, errdefs.ErrNotFound)
	}
	var config struct {
		Process json.RawMessage `json:"process"`
	}
	if err := readConfig(e.appDir(rec.Pod, id), &config); err != nil {
		return nil, fmt.Errorf("app %s: %w", id, err)
	}
	if config.Process == nil {
		return nil, fmt.Errorf("app %s: %w", id, errors.New("config.json has no process"))
	}
	return config.Process, nil
}
