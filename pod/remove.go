package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

// Remove ends a pod if it still lives, and deletes all there is of it: its apps
// with their roots, its network, its folders, its record last. From then on no read
// shows it. Removing an unknown pod returns nil.
//
// What cannot be deleted now is deleted by Run, which tries until it succeeds; only
// then is the record gone. A network plugin that fails is no error of Remove.
func (e *Engine) Remove(ctx context.Context, id ID) error {
	if _, ok := e.podRecord(id); !ok {
		return nil
	}
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	defer e.work.Unlock(string(id))
	if err := passDetach(ctx, id, e.doomAndDismantle(ctx, id)); err != nil {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	return nil
}

// RemoveExited is Remove for an operator: one that has not exited is
// FailedPrecondition, an unknown one NotFound, and a network plugin that fails is
// an error, after which Run tries again.
func (e *Engine) RemoveExited(ctx context.Context, id ID) error {
	if err := e.work.Lock(ctx, string(id)); err != nil {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	defer e.work.Unlock(string(id))
	rec, ok := e.podRecord(id)
	switch {
	case !ok:
		return fmt.Errorf("pod %s: %w", id, errdefs.ErrNotFound)
	case rec.State != Exited && !rec.Doomed:
		return fmt.Errorf("pod %q is currently %s: %w", id, rec.State, errdefs.ErrFailedPrecondition)
	}
	if err := e.doomAndDismantle(ctx, id); err != nil {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	return nil
}

// passDetach lets a network that could not be taken back yet pass with a log line.
func passDetach(ctx context.Context, id ID, err error) error {
	var pending *detachError
	if !errors.As(err, &pending) {
		return err
	}
	klog.FromContext(ctx).Error(err, "Pod not detached, trying again later", "podID", id)
	return nil
}

// doomAndDismantle hides the pod from all reads and takes it apart; what fails Run
// tries again. A network that could not be taken back is a *detachError. The caller
// holds the pod's lock.
func (e *Engine) doomAndDismantle(ctx context.Context, id ID) error {
	rec, ok := e.podRecord(id)
	if !ok {
		return nil
	}
	if !rec.Doomed {
		if err := e.save(id, func(r *record) error { r.Doomed = true; return nil }); err != nil {
			// On a full disk deleting is what helps. A crash on the way leaves a record
			// of a pod that lacks parts, and may be removed again.
			klog.FromContext(ctx).Error(err, "The removal of a pod is not announced on disk", "podID", id)
			e.update(id, func(p *entry) { p.rec.Doomed = true })
		}
	}
	err := e.dismantle(ctx, id)
	if err != nil {
		e.retryLater(id)
	}
	return err
}

// detachError is a network that could not be taken back yet.
type detachError struct{ err error }

func (e *detachError) Error() string { return e.err.Error() }
func (e *detachError) Unwrap() error { return e.err }

// dismantle takes a doomed pod apart. It may be called again after an error, also
// by another process: it needs the record only, and each step passes over what is
// gone already.
func (e *Engine) dismantle(ctx context.Context, id ID) error {
	rec, ok := e.podRecord(id)
	if !ok {
		return nil
	}
	if rec.State == Running {
		e.shutdown(ctx, id)
	}
	if err := e.kill(ctx, &rec); err != nil {
		return err
	}
	e.disconnect(id)
	for _, app := range e.appsOf(id) {
		if err := e.dismantleApp(ctx, id, app); err != nil {
			return err
		}
	}
	if err := e.detach(ctx, id); err != nil {
		return &detachError{err}
	}
	if err := removeTree(e.runDir(id)); err != nil {
		return err
	}
	if err := removeFolder(e.podDir(id), podRecordName); err != nil {
		return err
	}
	e.forget(id)
	klog.FromContext(ctx).Info("Pod removed", "podID", id)
	return nil
}

// dismantleApp deletes an app that is dead and that no supervisor knows.
func (e *Engine) dismantleApp(ctx context.Context, pod ID, app AppID) error {
	if err := e.work.Lock(ctx, string(app)); err != nil {
		return err
	}
	defer e.work.Unlock(string(app))
	return e.dismantleAppLocked(ctx, pod, app)
}

func (e *Engine) dismantleAppLocked(ctx context.Context, pod ID, app AppID) error {
	if err := e.roots.RemoveRoot(ctx, string(app)); err != nil {
		return err
	}
	if err := removeFolder(e.appDir(pod, app), appRecordName); err != nil {
		return err
	}
	e.meters.dropApp(app)
	e.forgetApp(app)
	return nil
}

func (e *Engine) forget(id ID) {
	e.meters.dropPod(id)
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.pods, id)
}

// removeTree deletes a folder and whatever is mounted below it, innermost first.
// It never deletes through a mount that it could not take away.
func removeTree(dir string) error {
	if err := unmountBelow(dir); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil && !errors.Is(err, unix.ENOTDIR) { // ENOTDIR: there is no such folder
		return err
	}
	return nil
}

func unmountBelow(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return m.Mountpoint != real && !strings.HasPrefix(m.Mountpoint, real+"/"), false
	})
	if err != nil {
		return fmt.Errorf("list mounts below %s: %w", dir, err)
	}
	for _, m := range slices.Backward(mounts) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount %s: %w", m.Mountpoint, err)
		}
	}
	return nil
}
