package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/supervisor"
)

// recoverAtOnce is how many pods are looked at side by side at start.
const recoverAtOnce = 16

// Recover makes the folders, takes the lock on Config.Dir for this process until
// Run returns, and reads all records. It adopts pods whose supervisors live, takes
// those whose supervisors have gone for exited, and has Run undo what a crash left
// half done. Another engine on the same folder is FailedPrecondition.
//
// A record that cannot be read does not keep the others from being served: its pod
// is left alone and logged.
func (e *Engine) Recover(ctx context.Context) error {
	for _, dir := range []string{e.cfg.Dir, e.cfg.RunDir, e.cfg.NetNSDir} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("recover pods: %w", err)
		}
	}
	if err := e.lockDir(ctx); err != nil {
		return fmt.Errorf("recover pods: %w", err)
	}
	entries, err := os.ReadDir(e.cfg.Dir)
	if err != nil {
		return fmt.Errorf("recover pods: %w", err)
	}
	g := errgroup.Group{}
	g.SetLimit(recoverAtOnce)
	for _, entry := range entries {
		name := entry.Name()
		switch {
		case strings.HasPrefix(name, newPrefix):
			if err := os.RemoveAll(filepath.Join(e.cfg.Dir, name)); err != nil {
				return fmt.Errorf("recover pods: %w", err)
			}
		case entry.IsDir():
			g.Go(func() error { e.guard(ctx, ID(name), e.recoverPod); return nil })
		}
	}
	_ = g.Wait() // none returns an error
	e.poke()
	return ctx.Err()
}

// lockTime is, unless told otherwise, how long the lock of an engine that was killed may stay held: by a
// process that it had forked and that is about to exec.
const lockTime = 2 * time.Second

// lockDir says that this process is the engine of Config.Dir.
func (e *Engine) lockDir(ctx context.Context) error {
	f, err := os.Open(e.cfg.Dir)
	if err != nil {
		return err
	}
	if err := e.lockSoon(ctx, f); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("%s is in use by another engine: %w", e.cfg.Dir, errdefs.ErrFailedPrecondition)
		}
		return fmt.Errorf("lock %s: %w", e.cfg.Dir, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unlock = func() { f.Close() }
	return nil
}

// lockSoon tries for Config.LockWait.
func (e *Engine) lockSoon(ctx context.Context, f *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.LockWait)
	defer cancel()
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (e *Engine) recoverPod(ctx context.Context, id ID) {
	log := klog.FromContext(ctx)
	rec, err := readPod(e.podDir(id))
	if err == nil && rec.ID != id {
		err = fmt.Errorf("record in %s is of pod %s", e.podDir(id), rec.ID)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// Its removal was cut short after the record: what is left is empty folders.
		if err := removeTree(e.podDir(id)); err != nil {
			log.Error(err, "Remains of a removed pod")
		}
		return
	case err != nil:
		log.Error(err, "A pod's record cannot be read, leaving it alone")
		e.mu.Lock()
		e.foreign[id] = true
		e.mu.Unlock()
		return
	}
	for _, err := range e.load(&rec) {
		log.Error(err, "A record of a pod cannot be read")
	}
	e.settle(ctx, id, &rec)
}

// load puts a pod whose record was read into the index, with its network and apps.
// What of these cannot be read is left out.
func (e *Engine) load(rec *record) (errs []error) {
	entry := &entry{rec: *rec}
	if !rec.Spec.HostNetwork {
		var err error
		if entry.net, err = e.loadNetwork(rec.ID); err != nil && !errdefs.IsNotFound(err) { // NotFound: its ADD did not end
			errs = append(errs, err)
		}
	}
	e.mu.Lock()
	e.pods[rec.ID] = entry
	e.mu.Unlock()
	return append(errs, e.loadApps(rec.ID)...)
}

// settle brings a pod that was read from disk into a state that lasts.
func (e *Engine) settle(ctx context.Context, id ID, rec *record) {
	log := klog.FromContext(ctx)
	switch {
	case rec.Doomed, rec.State == Prepared, rec.State == Booting:
		if !rec.Doomed {
			log.Info("Undoing the launch of a pod that was cut short")
			e.counters.recovered.Add(1)
		}
		e.update(id, func(p *entry) { p.rec.Doomed = true }) // nobody was told of it
		e.retryNow(id)
	case rec.State == Running:
		e.settleRunning(ctx, id)
	case rec.State == Exited:
		e.sealApps(ctx, id)
		e.retryNow(id) // nothing to do if it is detached
	}
}

// settleRunning adopts a pod that runs, or ends one whose supervisor has gone. An
// engine that launches nothing leaves adopting to the next.
func (e *Engine) settleRunning(ctx context.Context, id ID) {
	log := klog.FromContext(ctx)
	var err error
	if e.cfg.Supervisor != "" {
		if err = e.adopt(ctx, id); err == nil {
			e.counters.adopted.Add(1)
			return
		}
	}
	gone, lerr := e.supervisorGone(id)
	switch {
	case lerr == nil && gone:
		log.Info("The pod's supervisor has gone while nobody looked")
		e.countLost(id)
		if err := e.end(ctx, id); err != nil {
			log.Error(err, "The rest of a pod cannot be killed, trying again later")
		}
		e.retryNow(id) // detaches it
	case err != nil:
		log.Error(err, "The pod's supervisor lives but does not answer, trying again later")
	}
}

// retryNow has Run take up a pod at once.
func (e *Engine) retryNow(id ID) {
	e.update(id, func(p *entry) { p.retryAt = time.Unix(1, 0) }) // long ago
	e.poke()
}

// loadApps reads the records of a pod's apps. What is half made stays Prepared.
func (e *Engine) loadApps(id ID) (errs []error) {
	entries, err := os.ReadDir(filepath.Join(e.podDir(id), "apps"))
	if err != nil {
		return []error{err}
	}
	for _, entry := range entries {
		app := AppID(entry.Name())
		rec, err := readApp(e.appDir(id, app))
		if err == nil && (rec.ID != app || rec.Pod != id) {
			err = fmt.Errorf("record in %s is of app %s", e.appDir(id, app), rec.ID)
		}
		if err != nil {
			// It had no root yet, or has none any more: a root without a record is garbage.
			if !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, err)
			}
			rec = appRecord{Version: recordVersion, ID: app, Pod: id, State: Prepared, Spec: &AppSpec{}}
		}
		a := &appEntry{rec: rec}
		if exit, err := supervisor.ReadExit(e.appDir(id, app)); err == nil && rec.State != Prepared {
			a.rec.State, a.exit = Exited, &exit
		}
		e.mu.Lock()
		e.apps[app] = a
		e.mu.Unlock()
	}
	return errs
}

// adopt connects to the supervisor and makes the index and it agree on the apps:
// what only one of them knows was cut short and is undone.
func (e *Engine) adopt(ctx context.Context, id ID) error {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	c, err := e.connect(ctx, id)
	if err != nil {
		return err
	}
	st, err := c.Status(ctx)
	if err != nil {
		return err
	}
	e.applyStatus(id, st)
	there := map[AppID]bool{}
	for _, s := range st.Apps {
		app := AppID(s.Name)
		there[app] = true
		if rec, ok := e.appRecord(app); !ok || rec.State == Prepared {
			e.undoApp(ctx, id, app, c)
		}
	}
	for _, app := range e.appsOf(id) {
		if rec, ok := e.appRecord(app); ok && !there[app] && rec.State != Exited {
			e.undoApp(ctx, id, app, c)
		}
	}
	return nil
}

// undoApp removes an app whose creation or removal was cut short.
func (e *Engine) undoApp(ctx context.Context, id ID, app AppID, c *supervisor.Client) {
	log := klog.FromContext(ctx)
	log.Info("Undoing an app that was cut short", "appID", app)
	e.counters.recovered.Add(1)
	_, err := c.StopApp(ctx, string(app), int(unix.SIGKILL), 0)
	if err != nil && !errdefs.IsNotFound(err) {
		log.Error(err, "Half an app cannot be killed", "appID", app)
		return
	}
	if err := c.RemoveApp(ctx, string(app)); err != nil {
		log.Error(err, "Half an app cannot be removed", "appID", app)
		return
	}
	if err := e.dismantleApp(ctx, id, app); err != nil {
		log.Error(err, "Half an app cannot be deleted", "appID", app)
	}
}
