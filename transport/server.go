package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"
)

// streamWorkers is how many goroutines stay to serve calls: without them each
// call pays for a new goroutine growing its stack. Version in memory takes 21 µs
// with them and 26 µs without, with 8 callers 83 and 99 µs ("go run ./bench
// -trials" in tools/).
const streamWorkers = 8

// ServerConfig is what a [Server] needs besides its services.
type ServerConfig struct {
	// Grace is how long running calls may go on after shutdown began, before
	// their contexts are cancelled. They then have the same time again to return.
	Grace time.Duration
	// TracerProvider makes a span for each call, joined to its caller's trace
	// (W3C trace context). Nil: no tracing, and no cost.
	TracerProvider trace.TracerProvider
	// Observe is told of each call that has ended, by its method and by the name of
	// its gRPC code. Nil: nobody is told.
	Observe func(method, code string, took time.Duration)
}

// Server is a gRPC server of CRI over any number of endpoints. It logs a line per
// call, survives panics of the services, and turns their error classes into
// codes: see [Server.Serve].
type Server struct {
	cfg      ServerConfig
	register func(grpc.ServiceRegistrar)
	calls    calls
}

// NewServer makes a server of the services that register adds. It starts nothing.
func NewServer(cfg ServerConfig, register func(grpc.ServiceRegistrar)) *Server {
	return &Server{cfg: cfg, register: register}
}

// newGRPC starts the workers, so it must be followed by a stop.
func (s *Server) newGRPC() *grpc.Server {
	opts := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(MaxMessageSize),
		grpc.MaxSendMsgSize(MaxMessageSize),
		grpc.NumStreamWorkers(streamWorkers),
		// Fixed windows of a whole message spare the pings that estimate bandwidth:
		// StreamContainers with 1,000 items took 1.10 of the one-process socket
		// before, 0.68 after, ListContainers with 10 took 0.98 and 0.90.
		grpc.InitialWindowSize(MaxMessageSize),
		grpc.InitialConnWindowSize(MaxMessageSize),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	}
	if s.cfg.TracerProvider != nil {
		opts = append(opts, grpc.StatsHandler(otelgrpc.NewServerHandler(
			otelgrpc.WithTracerProvider(s.cfg.TracerProvider),
			otelgrpc.WithPropagators(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})),
		)))
	}
	g := grpc.NewServer(opts...)
	s.register(g)
	return g
}

// Listen opens all endpoints, or none.
func Listen(endpoints ...*Endpoint) (_ []net.Listener, err error) {
	var opened []net.Listener
	for _, e := range endpoints {
		l, err := e.Listen()
		if err != nil {
			for _, o := range opened {
				err = errors.Join(err, o.Close())
			}
			return nil, err
		}
		opened = append(opened, l)
	}
	return opened, nil
}

// Serve answers calls on the listeners until ctx ends, then shuts down in order:
// no new calls, running ones may finish within the grace, then their contexts are
// cancelled. It owns the listeners and closes them. It returns nil after an
// orderly shutdown, and an error if a listener broke, which ends all of them, or
// if calls ignored their cancellation: the error names them. It can be called
// once.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	s.calls.logger = klog.FromContext(ctx)
	server := s.newGRPC()
	ended := make(chan error, len(listeners))
	for _, l := range listeners {
		go func() { ended <- serveOne(server, l) }()
	}
	var broken error
	running := len(listeners)
	select {
	case <-ctx.Done():
	case broken = <-ended:
		running--
	}
	if err := s.shutdown(server); err != nil {
		return errors.Join(broken, err) // gRPC's Serve waits for its calls too
	}
	for range running {
		broken = errors.Join(broken, <-ended)
	}
	return broken
}

func serveOne(server *grpc.Server, l net.Listener) error {
	err := server.Serve(l)
	if err == nil || errors.Is(err, grpc.ErrServerStopped) { // the latter: stopped before it began
		return nil
	}
	return fmt.Errorf("serve CRI on %s: %w", l.Addr(), err)
}

// shutdown stops the server. It returns an error, and leaves goroutines behind,
// only if calls ignore their cancellation.
func (s *Server) shutdown(server *grpc.Server) error {
	stopped := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(stopped)
	}()
	patience := time.NewTimer(s.cfg.Grace)
	defer patience.Stop()
	select {
	case <-stopped:
		return nil
	case <-patience.C:
	}
	// Cancel what still runs. Both stops return when the last call does, so
	// neither may be waited for before that.
	go server.Stop()
	if err := s.calls.wait(s.cfg.Grace); err != nil {
		return err
	}
	<-stopped
	return nil
}
