package rktshim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/container"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/rundir"
	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/sandbox"
	"github.com/rktnetes/rktshim/stage1/flavors"
	"github.com/rktnetes/rktshim/supervisor/launch"
)

// rktTime is how long an rkt command that removes pods may keep the node's engine
// from starting: two plugins that hang. Another runtime is refused before, by
// rktshim.lock.
const rktTime = 4 * time.Minute

// pods is the part of the runtime that runs pods.
type pods struct {
	cni        *network.CNI
	engine     *pod.Engine
	sandboxes  *sandbox.Service
	containers *container.Service

	ociRuntime string // path
	node       container.Node
	close      func()
}

// openPods builds the part and takes up the pods that there are. It must be
// closed.
func openPods(ctx context.Context, cfg *Config, folders rundir.Folders, systemd bool, images *store.Store, metrics *metrics) (_ *pods, err error) {
	p := &pods{close: func() {}}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.ociRuntime, err = findRuntime(ctx); err != nil {
		return nil, err
	}
	if p.node, err = container.LocalNode(); err != nil {
		return nil, err
	}
	p.node.CompiledSeccomp = filepath.Base(p.ociRuntime) == "crun"
	if p.cni, err = network.New(network.Config{ConfDir: cfg.CNIConfDir, BinDirs: []string{cfg.CNIBinDir}, RunDir: folders.CNI(), Timeout: network.DefaultTimeout, Observe: metrics.attached}); err != nil {
		return nil, err
	}
	launcher, closeLauncher, err := launch.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the init system: %w", err)
	}
	p.close = closeLauncher
	if p.engine, err = pod.New(cfg.engine(folders, p.ociRuntime), launcher, p.cni, appRoots{images}); err != nil {
		return nil, err
	}
	if err := metrics.registry.Register(engineMetrics{p.engine}); err != nil {
		return nil, err
	}
	p.containers = container.New(p.node, p.engine, appImages{images})
	if p.sandboxes, err = sandbox.New(sandbox.Config{Stage1: cfg.Stage1, Systemd: systemd}, p.engine, container.StatusOf, p.containers); err != nil {
		return nil, err
	}
	return p, p.engine.Recover(ctx)
}

func (c *Config) engine(f rundir.Folders, ociRuntime string) pod.Config {
	checks := map[string]pod.Flavor{}
	for name, f := range flavors.All() {
		checks[name] = f
	}
	return pod.Config{
		Dir:        f.Pods(),
		RunDir:     f.PodsRun(),
		NetNSDir:   f.NetNS(),
		Supervisor: c.Supervisor,
		Runtime:    ociRuntime,
		Flavors:    checks,
		Socket:     f.EngineSocket(),
		LockWait:   rktTime,
	}
}

// run does what nobody asks for until ctx ends.
func (p *pods) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.cni.Run(ctx) })
	g.Go(func() error {
		if _, err := p.engine.Collect(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Not all garbage could be removed")
		}
		return p.engine.Run(ctx)
	})
	return g.Wait()
}

// handlers are the flavors that this node can boot, in a fixed order.
func handlers() (names []string) {
	isolators := flavors.All()
	for _, name := range []string{"nspawn", "lean", "fly"} {
		if isolators[name].Check() == nil {
			names = append(names, name)
		}
	}
	return names
}

// findRuntime prefers crun, which starts an app in less than half the time, where
// crun works.
func findRuntime(ctx context.Context) (string, error) {
	for _, name := range []string{"crun", "runc"} {
		path, err := exec.LookPath(name)
		if errors.Is(err, exec.ErrNotFound) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("find the OCI runtime %s: %w", name, err)
		}
		if name == "crun" && controllersInUnified() {
			klog.FromContext(ctx).Info("Passing over crun: it refuses cgroup v1 with controllers in the unified hierarchy", "controllersIn", unifiedControllers)
			continue
		}
		return filepath.Abs(path)
	}
	return "", fmt.Errorf("no usable OCI runtime in PATH (%s): install crun or, for cgroup v1 with controllers in the unified hierarchy, runc", os.Getenv("PATH"))
}

// unifiedControllers lists the controllers of the v2 hierarchy beside those of v1.
const unifiedControllers = "/sys/fs/cgroup/unified/cgroup.controllers"

// controllersInUnified: crun ends with "cgroups in hybrid mode not supported" if
// there are any.
func controllersInUnified() bool {
	b, err := os.ReadFile(unifiedControllers)
	return err == nil && len(bytes.TrimSpace(b)) > 0
}

// appRoots are the root filesystems of apps, in the image store.
type appRoots struct{ *store.Store }

func (r appRoots) CreateRoot(ctx context.Context, id, imageID string) error {
	_, err := r.Store.CreateRoot(ctx, id, imageID, store.RootOptions{})
	return err
}

func (r appRoots) RootIDs(context.Context) ([]string, error) {
	roots, err := r.Store.Roots()
	ids := make([]string, 0, len(roots))
	for _, root := range roots {
		ids = append(ids, root.ID)
	}
	return ids, err
}

// appImages are the images of containers. CRI wants one id everywhere, so an
// image's reference is its id.
type appImages struct{ *store.Store }

func (i appImages) Layer(id pod.AppID) (container.Layer, bool) {
	u, ok := i.Store.RootUsage(string(id))
	return container.Layer{Mountpoint: i.Store.Root(), Bytes: u.Bytes, Inodes: u.Inodes, Measured: u.Measured}, ok
}

func (i appImages) ContainerImage(_ context.Context, ref string) (container.Image, error) {
	img, err := i.Store.Get(ref)
	if err != nil {
		return container.Image{}, err
	}
	c := img.Config.Config
	return container.Image{
		ID: img.ID, Ref: img.ID,
		Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir, User: c.User, StopSignal: c.StopSignal,
		Volumes: slices.Sorted(maps.Keys(c.Volumes)),
	}, nil
}
