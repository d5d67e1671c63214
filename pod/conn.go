package pod

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/supervisor"
)

// clientName tells supervisors' logs who asks.
const clientName = "rktshim"

// Connection returns the connection to a pod's supervisor that the engine keeps,
// for exec, attach and resize; the caller must not close it. It dials if there is
// none. A pod that does not run is FailedPrecondition, an unknown one NotFound, a
// supervisor that has gone Unavailable.
func (e *Engine) Connection(ctx context.Context, id ID) (*supervisor.Client, error) {
	p, err := e.Pod(id)
	if err != nil {
		return nil, err
	}
	if p.State != Running {
		return nil, fmt.Errorf("pod %s is %s: %w", id, p.State, errdefs.ErrFailedPrecondition)
	}
	return e.connect(ctx, id)
}

func (e *Engine) connect(ctx context.Context, id ID) (*supervisor.Client, error) {
	if c := e.connected(id); c != nil {
		return c, nil
	}
	if err := e.dials.Lock(ctx, id); err != nil {
		return nil, err
	}
	defer e.dials.Unlock(id)
	if c := e.connected(id); c != nil {
		return c, nil
	}
	c, err := supervisor.Dial(ctx, e.runDir(id), clientName)
	if err != nil {
		return nil, err
	}
	if !e.keep(id, c) {
		c.Close()
		return nil, fmt.Errorf("pod %s has ended: %w", id, errdefs.ErrUnavailable)
	}
	return c, nil
}

func (e *Engine) connected(id ID) *supervisor.Client {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pods[id]
	if p == nil || p.client == nil {
		return nil
	}
	select {
	case <-p.client.Gone():
		return nil
	default:
		return p.client
	}
}

// keep puts a connection into the index, unless the pod is over.
func (e *Engine) keep(id ID, c *supervisor.Client) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pods[id]
	if p == nil || p.rec.State == Exited || p.rec.Doomed {
		return false
	}
	p.client = c
	return true
}

func (e *Engine) disconnect(id ID) {
	var c *supervisor.Client
	e.update(id, func(p *entry) { c, p.client = p.client, nil })
	if c != nil {
		_ = c.Close() // the supervisor may have gone
	}
}

// supervisorGone says whether nobody holds the lock on the pod's folder, which
// its supervisor holds for life.
//
// The test takes a shared lock, so that two who test do not mislead each other.
func (e *Engine) supervisorGone(id ID) (bool, error) { return lockIsFree(e.podDir(id)) }

// lockIsFree says whether nobody holds the lock on a folder, or the folder is gone.
func lockIsFree(dir string) (bool, error) {
	f, err := os.Open(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", dir, err)
	}
	return true, nil
}
