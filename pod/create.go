package pod

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/internal/span"
	"github.com/rktnetes/rktshim/internal/undo"
	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
)

// Place is where an app is being created: what its OCI config has to name.
type Place struct {
	Pod    Pod
	App    AppID
	Root   string // the app's root filesystem, mounted
	Cgroup string // for linux.cgroupsPath

	// Namespace returns the path of a namespace of the pod's instance, by kind;
	// empty where the pod has none of its own.
	Namespace func(kind stage1.Kind) string
	// TargetPID is the path of the PID namespace of AppSpec.PIDOf; empty without.
	TargetPID string

	// RuntimeState is the folder in which the OCI runtime keeps what it knows of the
	// app, once it is created; only root can write there.
	RuntimeState string

	ResolvConf string // path of the pod's resolv.conf on the host; empty: none
	Shm        string // path of the pod's shared memory on the host; empty: none
}

// Configured is what a Configure makes of a place.
type Configured struct {
	Config     []byte          // config.json of the OCI bundle
	Extra      json.RawMessage // replaces AppSpec.Extra
	StopSignal int             // replaces AppSpec.StopSignal
}

// Configure translates an app for the OCI runtime. It may read the root, but must
// leave nothing outside of it.
type Configure func(ctx context.Context, place Place) (Configured, error)

// CreateApp creates an app in a running pod; it does not run yet. Asked again for
// the same (pod, Name, Attempt) while the first request runs, it joins that; after
// that failed, it starts clean; while the app is created or running, it returns the
// same id. What is left of one that has exited is removed first. When it fails
// nothing of the app is left.
//
// A pod that does not run is FailedPrecondition, an unknown one NotFound. Errors of
// configure keep their class.
func (e *Engine) CreateApp(ctx context.Context, pod ID, spec AppSpec, configure Configure) (AppID, error) {
	if spec.Name == "" {
		return "", fmt.Errorf("create app: name is empty: %w", errdefs.ErrInvalidArgument)
	}
	key := appIdentity{pod, spec.Name, spec.Attempt}
	return e.creates.do(ctx, key, func(ctx context.Context) (AppID, error) {
		if rec, ok := e.findApp(key); ok {
			if rec.State == Created || rec.State == Running {
				return rec.ID, nil
			}
			if err := e.RemoveApp(ctx, rec.ID); err != nil {
				return "", fmt.Errorf("create app %s again: %w", spec.Name, err)
			}
		}
		return e.createApp(ctx, pod, &spec, configure)
	})
}

func (e *Engine) createApp(ctx context.Context, pod ID, spec *AppSpec, configure Configure) (_ AppID, err error) {
	id := newAppID() // not a named result: the undo below needs it after an error
	start := time.Now()
	defer func() {
		if err != nil {
			err = fmt.Errorf("create app %s in pod %s: %w", spec.Name, pod, err)
		}
	}()
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return "", err
	}
	defer e.work.Unlock(string(id))
	e.moves.Want(launchMoves)
	rec := appRecord{Version: recordVersion, ID: id, Pod: pod, State: Prepared, CreatedAt: time.Now().Round(0), Spec: spec}
	if err := e.enter(&rec); err != nil {
		return "", err
	}
	undo := undo.New(undoTime)
	defer func() {
		if uerr := undo.Run(ctx); uerr != nil {
			err = fmt.Errorf("%w (undo: %v)", err, uerr)
		}
	}()
	undo.Push("remove what was made", func(ctx context.Context) error {
		return e.counters.undone(&e.counters.creates, e.dismantleAppLocked(ctx, pod, id))
	})
	// The folder's name announces the root: a folder without a record is one half made.
	bundle := filepath.Join(e.appDir(pod, id), "bundle")
	if err := os.MkdirAll(bundle, 0o700); err != nil {
		return "", err
	}
	if err := e.configure(ctx, &rec, bundle, configure); err != nil {
		return "", err
	}
	pid, err := e.hand(ctx, &rec, bundle)
	if err != nil {
		return "", err
	}
	undo.Release()
	e.updateApp(id, func(a *appEntry) {
		if a.rec.State == Prepared { // else it has exited already
			a.rec = rec
			a.pid = pid
		}
	})
	klog.FromContext(ctx).Info("App created", "podID", pod, "appID", id, "app", spec.Name, "took", time.Since(start))
	return id, nil
}

// enter puts the app into the index if its pod can take it: from then on the
// removal of the pod knows of it.
func (e *Engine) enter(rec *appRecord) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pods[rec.Pod]
	switch {
	case p == nil || p.rec.Doomed:
		return fmt.Errorf("pod %s: %w", rec.Pod, errdefs.ErrNotFound)
	case p.rec.State != Running:
		return fmt.Errorf("pod %s is %s: %w", rec.Pod, p.rec.State, errdefs.ErrFailedPrecondition)
	}
	e.apps[rec.ID] = &appEntry{rec: *rec}
	return nil
}

// configure makes the app's root and bundle.
func (e *Engine) configure(ctx context.Context, rec *appRecord, bundle string, configure Configure) error {
	root, err := e.makeRoot(ctx, rec)
	if err != nil {
		return err
	}
	place, err := e.place(rec, root)
	if err != nil {
		return err
	}
	done, err := configure(ctx, place)
	if err != nil {
		return err
	}
	// No fsync: after a power loss nobody reads it again.
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), done.Config, 0o600); err != nil {
		return err
	}
	spec := *rec.Spec
	spec.Extra, spec.StopSignal = done.Extra, done.StopSignal
	rec.Spec = &spec
	return nil
}

// makeRoot makes the app's root filesystem and mounts it.
func (e *Engine) makeRoot(ctx context.Context, rec *appRecord) (path string, err error) {
	ctx, end := span.Start(ctx, "make root")
	defer func() { end(err) }()
	if err := e.roots.CreateRoot(ctx, string(rec.ID), rec.Spec.ImageID); err != nil {
		return "", err
	}
	return e.roots.Mount(ctx, string(rec.ID))
}

func (e *Engine) place(rec *appRecord, root string) (Place, error) {
	p, err := e.Pod(rec.Pod)
	if err != nil {
		return Place{}, err
	}
	s1 := e.stage1Spec(p.ID, p.Spec)
	place := Place{
		Pod:    p,
		App:    rec.ID,
		Root:   root,
		Cgroup: appCgroup(p.Cgroup, rec.ID),
		// supervisor/server keeps the runtime's state in "oci" of the run folder.
		RuntimeState: filepath.Join(e.runDir(p.ID), "oci", string(rec.ID)),
		Namespace: func(kind stage1.Kind) string {
			own := map[stage1.Kind]bool{stage1.Network: s1.Network != "", stage1.IPC: s1.OwnIPC, stage1.UTS: s1.OwnUTS, stage1.PID: s1.SharedPID}
			if !own[kind] {
				return ""
			}
			return supervisor.NamespacePath(e.runDir(p.ID), string(kind))
		},
	}
	if rec.Spec.PIDOf != "" {
		place.TargetPID = supervisor.NamespacePath(e.runDir(p.ID), "pid-"+string(rec.ID))
	}
	if p.Spec.ResolvConf != "" {
		place.ResolvConf = filepath.Join(p.Dir, resolvConfName)
	}
	if p.Spec.ShmBytes > 0 {
		place.Shm = s1.ShmPath()
	}
	return place, nil
}

// hand has the supervisor create the app, announced by its record.
func (e *Engine) hand(ctx context.Context, rec *appRecord, bundle string) (pid int, err error) {
	ctx, end := span.Start(ctx, "create app")
	defer func() { end(err) }()
	if err := rec.to(Created); err != nil {
		return 0, err
	}
	if err := rec.write(e.appDir(rec.Pod, rec.ID)); err != nil {
		return 0, err
	}
	if rec.Spec.Log != "" {
		if err := os.MkdirAll(filepath.Dir(rec.Spec.Log), 0o755); err != nil {
			return 0, fmt.Errorf("make the log's folder: %w", err)
		}
	}
	p, ok := e.podRecord(rec.Pod)
	if !ok {
		return 0, fmt.Errorf("pod %s: %w", rec.Pod, errdefs.ErrNotFound)
	}
	c, err := e.connect(ctx, rec.Pod)
	if err != nil {
		return 0, err
	}
	pid, err = c.CreateApp(ctx, supervisor.AppSpec{
		Name:      string(rec.ID),
		Bundle:    bundle,
		Dir:       e.appDir(rec.Pod, rec.ID),
		Cgroup:    appCgroup(p.Cgroup, rec.ID),
		Log:       rec.Spec.Log,
		TTY:       rec.Spec.TTY,
		Stdin:     rec.Spec.Stdin,
		StdinOnce: rec.Spec.StdinOnce,
		PIDOf:     string(rec.Spec.PIDOf),
	})
	if err != nil && ctx.Err() != nil {
		// It may have taken effect all the same: take it back where that can be.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killTime)
		defer cancel()
		_ = c.RemoveApp(ctx, string(rec.ID)) // a supervisor that cannot do this is ended by the pod's end
	}
	return pid, err
}
