package rktshim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/util"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/container"
	"github.com/rktnetes/rktshim/image"
	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/rundir"
	"github.com/rktnetes/rktshim/sandbox"
	"github.com/rktnetes/rktshim/streaming"
	"github.com/rktnetes/rktshim/transport"
)

// Shim is the runtime: the parts, joined, and the server in front of them.
type Shim struct {
	cfg    Config
	memory *transport.Endpoint

	metrics *metrics
	ready   chan struct{}
	cgroups *Cgroups // set before ready is closed
}

// server is both CRI services. The parts' methods are promoted; what no part has
// falls through to unimplemented.
type server struct {
	*node
	*imageService
	*sandboxService
	*containerService
	*streamingService
	unimplemented
}

// Names for embedding: the parts' types are all called Service.
type (
	imageService     = image.Service
	sandboxService   = sandbox.Service
	containerService = container.Service
	streamingService = streaming.Service
)

// unimplemented answers what is not built. It holds CRI's own types one level
// deeper than the parts, so that a part's method always wins.
type unimplemented struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
}

// New checks the configuration. It starts nothing and touches nothing on disk.
func New(cfg Config) (*Shim, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if cfg.Supervisor == "" {
		self, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find rkt-supervisor: %w", err)
		}
		cfg.Supervisor = filepath.Join(filepath.Dir(self), "rkt-supervisor")
	}
	return &Shim{cfg: cfg, memory: transport.Memory(Name), ready: make(chan struct{}), metrics: newMetrics()}, nil
}

// Endpoint is where the runtime is served in memory. It can be dialled before
// Run: the dial waits until the runtime is served.
func (s *Shim) Endpoint() *transport.Endpoint { return s.memory }

// Ready is closed once the runtime answers on all its endpoints. If Run fails
// before that it never is.
func (s *Shim) Ready() <-chan struct{} { return s.ready }

// Run builds the parts and serves CRI until ctx ends, then shuts down in order
// and returns nil. It returns an error if the runtime could not start, or broke.
// It can be called once.
func (s *Shim) Run(ctx context.Context) (err error) {
	folders, err := rundir.Find(s.cfg.Dir, s.cfg.RunDir)
	if err != nil {
		return err
	}
	if err := folders.Record(); err != nil { // for rkt, which knows no more than Dir
		return err
	}
	lock, err := lockDir(folders.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	imageConfig := s.cfg.images(folders)
	imageConfig.Observe = s.metrics.pulled
	images, err := image.New(ctx, imageConfig)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, images.Close()) }()
	systemd, err := s.cfg.slices(util.IsRunningSystemd())
	if err != nil {
		return err
	}
	pods, err := openPods(ctx, &s.cfg, folders, systemd, images.Store(), s.metrics)
	if err != nil {
		return err
	}
	defer pods.close()
	streams, err := streaming.New(sessions{pods.engine, pods.containers})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, streams.Close()) }()

	endpoints := []*transport.Endpoint{s.memory}
	if s.cfg.CRISocket != "" {
		endpoints = append(endpoints, transport.Unix(s.cfg.CRISocket))
	}
	listeners, err := transport.Listen(endpoints...)
	if err != nil {
		return err
	}
	s.cgroups = &Cgroups{pods.engine, appImages{images.Store()}}
	klog.FromContext(ctx).Info("Serving CRI", "runtime", Name, "version", Version, "endpoints", fmt.Sprint(endpoints))
	close(s.ready)

	// If one part breaks, all end.
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return images.Run(ctx) })
	g.Go(func() error { return pods.run(ctx) })
	g.Go(func() error { return streams.Run(ctx) })
	g.Go(func() error {
		return s.newServer(newNode(systemd, pods), images, pods, streams).Serve(ctx, listeners...)
	})
	return g.Wait()
}

func (s *Shim) newServer(n *node, images *image.Service, pods *pods, streams *streaming.Service) *transport.Server {
	services := &server{node: n, imageService: images, sandboxService: pods.sandboxes, containerService: pods.containers, streamingService: streams}
	return transport.NewServer(
		transport.ServerConfig{Grace: s.cfg.ShutdownGrace, TracerProvider: s.cfg.TracerProvider, Observe: s.metrics.called},
		func(r grpc.ServiceRegistrar) {
			runtimeapi.RegisterRuntimeServiceServer(r, services)
			runtimeapi.RegisterImageServiceServer(r, services)
		})
}

// images is the configuration of the image part.
func (c *Config) images(f rundir.Folders) image.Config {
	worker := []string{"/proc/self/exe", "rkt", "image-worker"}
	if c.RktPath != "" {
		worker = []string{c.RktPath, "image-worker"}
	}
	return image.Config{
		Store:  store.Config{Root: f.Images(), RunRoot: f.ImagesRun(), Pinned: c.PinnedImages},
		Pull:   pull.Config{StallTimeout: c.PullStallTimeout},
		Worker: worker,
	}
}
