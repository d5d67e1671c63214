package pod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/internal/span"
	"github.com/rktnetes/rktshim/internal/undo"
	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/launch"
)

// undoTime bounds the undoing of a launch: a kill and a DEL, each with its own
// deadline.
const undoTime = 5 * time.Minute

// launchMoves and execMoves are for how long processes are moved between cgroups
// after the beginning of a launch or of an app's creation, which is soon followed by
// others, and of an exec.
const launchMoves, execMoves = time.Second, 50 * time.Millisecond

// Launch launches a pod and returns once apps can be created in it. Asked again
// for the same (UID, Attempt) while the first request runs, it joins that; after
// that failed, it starts clean; while the pod runs, it returns the same id. What
// is left of one that has exited is removed first.
//
// When it fails nothing is left, or what is left is being removed by Run. A bad
// spec is InvalidArgument with nothing made, a flavor that this node cannot boot
// FailedPrecondition.
func (e *Engine) Launch(ctx context.Context, spec Spec) (ID, error) {
	if err := e.check(&spec); err != nil {
		return "", err
	}
	return e.launches.do(ctx, spec.identity(), func(ctx context.Context) (ID, error) {
		if rec, ok := e.findPod(spec.identity()); ok {
			if rec.State == Running {
				return rec.ID, nil
			}
			if err := e.Remove(ctx, rec.ID); err != nil {
				return "", fmt.Errorf("launch pod %s again: %w", spec.UID, err)
			}
		}
		return e.launch(ctx, &spec)
	})
}

func (e *Engine) launch(ctx context.Context, spec *Spec) (_ ID, err error) {
	id := newID() // not a named result: the undo below needs it after an error
	ctx = klog.NewContext(ctx, klog.LoggerWithValues(klog.FromContext(ctx), "podID", id))
	defer func() {
		if err != nil {
			err = fmt.Errorf("launch pod %s/%s: %w", spec.Namespace, spec.Name, err)
		}
	}()
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return "", err
	}
	defer e.work.Unlock(string(id))
	start := time.Now()
	e.moves.Want(launchMoves)
	undo := undo.New(undoTime)
	defer func() {
		if uerr := undo.Run(ctx); uerr != nil {
			err = fmt.Errorf("%w (undo: %v)", err, uerr)
		}
	}()
	if err := e.prepare(id, spec); err != nil {
		return "", err
	}
	undo.Push("remove what was made", func(ctx context.Context) error {
		return e.counters.undone(&e.counters.launches, passDetach(ctx, id, e.doomAndDismantle(ctx, id)))
	})
	if err := e.bringUp(ctx, id, spec); err != nil {
		return "", err
	}
	err = e.save(id, func(r *record) error {
		r.StartedAt = time.Now().Round(0)
		return r.to(Running)
	})
	if err != nil {
		return "", err
	}
	undo.Release()
	e.poke()
	klog.FromContext(ctx).Info("Pod launched", "pod", klog.KRef(spec.Namespace, spec.Name), "flavor", spec.Flavor, "took", time.Since(start))
	return id, nil
}

// prepare makes the pod's folder with all records in it: it appears whole, under
// its final name, or not at all.
func (e *Engine) prepare(id ID, spec *Spec) error {
	group, err := e.launcher.Cgroup(spec.CgroupParent, string(id))
	if err != nil {
		return err
	}
	rec := record{Version: recordVersion, ID: id, State: Prepared, CreatedAt: time.Now().Round(0), Cgroup: group, Spec: spec}
	if err := rec.to(Booting); err != nil {
		return err
	}
	tmp := filepath.Join(e.cfg.Dir, newPrefix+string(id))
	if err := e.fill(tmp, &rec); err != nil {
		_ = os.RemoveAll(tmp) // the next start removes it too
		return err
	}
	// Known before it can be seen on disk, so that Collect never takes it for garbage.
	e.mu.Lock()
	e.pods[id] = &entry{rec: rec}
	e.mu.Unlock()
	if err := os.Rename(tmp, e.podDir(id)); err != nil {
		e.forget(id)
		_ = os.RemoveAll(tmp)
		return err
	}
	return nil
}

func (e *Engine) fill(dir string, rec *record) error {
	if err := os.MkdirAll(filepath.Join(dir, "apps"), 0o700); err != nil {
		return err
	}
	if rec.Spec.ResolvConf != "" {
		if err := os.WriteFile(filepath.Join(dir, resolvConfName), []byte(rec.Spec.ResolvConf), 0o644); err != nil {
			return err
		}
	}
	err := supervisor.WriteSpec(dir, supervisor.Spec{
		Flavor:      rec.Spec.Flavor,
		Stage1:      e.stage1Spec(rec.ID, rec.Spec),
		Cgroup:      rec.Cgroup,
		Runtime:     e.cfg.Runtime,
		RuntimeArgs: e.cfg.RuntimeArgs,
	})
	if err != nil {
		return err
	}
	return rec.write(dir)
}

// bringUp attaches the pod to the network and boots it, side by side: the isolator
// needs the network namespace, but not what the plugins do in it.
func (e *Engine) bringUp(ctx context.Context, id ID, spec *Spec) error {
	if err := os.MkdirAll(e.runDir(id), 0o711); err != nil {
		return err
	}
	if spec.LogDir != "" {
		if err := os.MkdirAll(spec.LogDir, 0o755); err != nil {
			return fmt.Errorf("make log directory: %w", err)
		}
	}
	if spec.HostNetwork {
		return e.boot(ctx, id, spec)
	}
	if err := network.NewNamespace(e.netnsPath(id)); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.attach(ctx, id, spec) })
	g.Go(func() error { return e.boot(ctx, id, spec) })
	return g.Wait()
}

// boot launches the supervisor and waits until it has booted the instance.
func (e *Engine) boot(ctx context.Context, id ID, spec *Spec) (err error) {
	ctx, end := span.Start(ctx, "boot pod")
	defer func() { end(err) }()
	start := time.Now()
	err = e.launcher.Launch(ctx, launch.Spec{
		Pod:    string(id),
		Binary: e.cfg.Supervisor,
		PodDir: e.podDir(id),
		RunDir: e.runDir(id),
		Parent: spec.CgroupParent,
	})
	if err != nil {
		return err
	}
	if _, err := e.connect(ctx, id); err != nil {
		return err
	}
	klog.FromContext(ctx).V(4).Info("Pod booted", "flavor", spec.Flavor, "took", time.Since(start))
	return nil
}
