package rktshim

import (
	"context"
	"fmt"
	"os"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/transport"
)

// Shim is the runtime: the parts, joined, and the server in front of them.
type Shim struct {
	cfg    Config
	server *transport.Server
	memory *transport.Endpoint
	ready  chan struct{}
}

// server is both CRI services. The parts' methods are promoted; what no part has
// falls through to unimplemented.
type server struct {
	*node
	unimplemented
}

// unimplemented answers what is not built. It holds CRI's own types one level
// deeper than the parts, so that a part's method always wins.
type unimplemented struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	runtimeapi.UnimplementedImageServiceServer
}

// New checks the configuration and builds the runtime. It starts nothing and
// touches nothing on disk.
func New(cfg Config) (*Shim, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	services := &server{node: newNode(cfg.Dir)}
	return &Shim{
		cfg: cfg,
		server: transport.NewServer(
			transport.ServerConfig{Grace: cfg.ShutdownGrace, TracerProvider: cfg.TracerProvider},
			func(r grpc.ServiceRegistrar) {
				runtimeapi.RegisterRuntimeServiceServer(r, services)
				runtimeapi.RegisterImageServiceServer(r, services)
			}),
		memory: transport.Memory(Name),
		ready:  make(chan struct{}),
	}, nil
}

// Endpoint is where the runtime is served in memory. It can be dialled before
// Run: the dial waits until the runtime is served.
func (s *Shim) Endpoint() *transport.Endpoint { return s.memory }

// Ready is closed once the runtime answers on all its endpoints. If Run fails
// before that it never is.
func (s *Shim) Ready() <-chan struct{} { return s.ready }

// Run serves CRI until ctx ends, then shuts down in order and returns nil. It
// returns an error if the runtime could not start, or broke. It can be called
// once.
func (s *Shim) Run(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.Dir, 0o711); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	endpoints := []*transport.Endpoint{s.memory}
	if s.cfg.CRISocket != "" {
		endpoints = append(endpoints, transport.Unix(s.cfg.CRISocket))
	}
	listeners, err := transport.Listen(endpoints...)
	if err != nil {
		return err
	}
	klog.FromContext(ctx).Info("Serving CRI", "runtime", Name, "version", Version, "endpoints", fmt.Sprint(endpoints))
	close(s.ready)
	return s.server.Serve(ctx, listeners...)
}
