// Package operator is what a command of an operator, a process that comes and goes,
// does with a node's pods: it looks at them and ends them as a pod.Observer does,
// and removes them by the engine that lives on the node or, where none lives, by
// one of its own, which holds the lock of the node's pods for as long.
package operator

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/internal/rundir"
	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/stage1/flavors"
	"github.com/rktnetes/rktshim/supervisor/launch"
)

const (
	// killPatience is how long a supervisor may take to end its pod before the
	// pod's cgroup is killed, as the kubelet's engine has it.
	killPatience = 30 * time.Second

	// enginePatience is how long an engine that holds the pods may take until it
	// listens: it starts, or it is that of another command.
	enginePatience = time.Minute

	// again is the pause between two tries to reach or to become the engine.
	again = 50 * time.Millisecond
)

// Roots are the root filesystems of apps, as the engine wants them.
type Roots interface {
	CreateRoot(ctx context.Context, id, imageID string) error
	Mount(ctx context.Context, id string) (path string, err error)
	RemoveRoot(ctx context.Context, id string) error
	RootIDs(ctx context.Context) ([]string, error)
}

// Node is the node of one data folder.
type Node struct {
	*pod.Observer

	folders   rundir.Folders
	withRoots func(ctx context.Context, work func(Roots) error) error
	patience  time.Duration // with an engine that holds the pods and does not listen
}

// New returns a Node; nothing is opened before it is needed. withRoots opens the
// image store around work.
func New(f rundir.Folders, withRoots func(ctx context.Context, work func(Roots) error) error) *Node {
	return &Node{pod.NewObserver(f.Pods(), f.PodsRun(), f.NetNS()), f, withRoots, enginePatience}
}

// Kill ends a pod at once and returns when its supervisor is gone.
func (n *Node) Kill(ctx context.Context, p pod.Pod) error {
	launcher, done, err := launch.New(ctx)
	if err != nil {
		return fmt.Errorf("connect to the init system: %w", err)
	}
	defer done()
	return n.Observer.Kill(ctx, p, launcher, killPatience)
}

// RemoveExited removes a pod that has exited, with all there is of it. One that has
// not is FailedPrecondition.
func (n *Node) RemoveExited(ctx context.Context, id pod.ID) error {
	return n.withEngine(ctx, func(e engine) error { return e.RemoveExited(ctx, id) })
}

// GC removes pods that exited, a while after it first saw them so, and whatever no
// record explains.
func (n *Node) GC(ctx context.Context, spec pod.GCSpec) (c pod.Collected, err error) {
	err = n.withEngine(ctx, func(e engine) (err error) {
		c, err = e.GC(ctx, spec)
		return err
	})
	return c, err
}

// engine is what both kinds of engine do.
type engine interface {
	RemoveExited(ctx context.Context, id pod.ID) error
	GC(ctx context.Context, spec pod.GCSpec) (pod.Collected, error)
}

// withEngine has work done by the engine that lives, else by one of our own.
func (n *Node) withEngine(ctx context.Context, work func(engine) error) error {
	deadline := time.Now().Add(n.patience)
	for {
		if err := work(pod.Ask{Socket: n.folders.EngineSocket()}); !pod.NoEngine(err) {
			return err
		}
		done, err := n.beEngine(ctx, work)
		if done || time.Now().After(deadline) {
			return err
		}
		select { // somebody holds the pods, and does not listen yet
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(again):
		}
	}
}

// beEngine does work as the node's engine. If another one holds the pods, done is
// false.
func (n *Node) beEngine(ctx context.Context, work func(engine) error) (done bool, err error) {
	if err := n.folders.Record(); err != nil {
		return true, err
	}
	launcher, closeLauncher, err := launch.New(ctx)
	if err != nil {
		return true, fmt.Errorf("connect to the init system: %w", err)
	}
	defer closeLauncher()
	done = true
	err = n.withRoots(ctx, func(roots Roots) error {
		e, err := n.newEngine(launcher, roots)
		if err != nil {
			return err
		}
		if err := e.Recover(ctx); err != nil {
			done = !errdefs.IsFailedPrecondition(err)
			return err
		}
		defer e.Close()
		return work(e)
	})
	return done, err
}

func (n *Node) newEngine(launcher launch.Launcher, roots Roots) (*pod.Engine, error) {
	cni, err := network.New(network.Config{
		ConfDir: "/etc/cni/net.d",         // nothing is attached
		BinDirs: []string{"/opt/cni/bin"}, // and those of the time of ADD, by the records
		RunDir:  n.folders.CNI(),
		Timeout: network.DefaultTimeout,
	})
	if err != nil {
		return nil, err
	}
	all := map[string]pod.Flavor{}
	for name, f := range flavors.All() {
		all[name] = f
	}
	return pod.New(pod.Config{
		Dir:      n.folders.Pods(),
		RunDir:   n.folders.PodsRun(),
		NetNSDir: n.folders.NetNS(),
		Flavors:  all,
		LockWait: again,
	}, launcher, cni, roots)
}
