package transport

import (
	"context"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a runtime of which a test scripts single calls; the rest is
// unimplemented, as in a real runtime that lacks them.
type fake struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	version func(context.Context) (*runtimeapi.VersionResponse, error)
	run     func(context.Context, *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error)
	status  func(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error)
	events  func(grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error
}

func (f *fake) Version(ctx context.Context, _ *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	if f.version == nil {
		return &runtimeapi.VersionResponse{RuntimeName: "fake"}, nil
	}
	return f.version(ctx)
}

func (f *fake) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	return f.run(ctx, r)
}

func (f *fake) ContainerStatus(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return f.status(ctx, r)
}

func (f *fake) GetContainerEvents(_ *runtimeapi.GetEventsRequest, s grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	return f.events(s)
}

// serving is a server that runs until stop, with a client of its first endpoint.
type serving struct {
	runtimeapi.RuntimeServiceClient
	cancel context.CancelFunc
	result chan error
}

func (s *serving) stop() error {
	s.cancel()
	return <-s.result
}

func serve(t *testing.T, cfg ServerConfig, f *fake, endpoints ...*Endpoint) *serving {
	t.Helper()
	return serveContext(t, t.Context(), cfg, f, endpoints...)
}

func serveContext(t *testing.T, ctx context.Context, cfg ServerConfig, f *fake, endpoints ...*Endpoint) *serving {
	t.Helper()
	listeners, err := Listen(endpoints...)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &serving{cancel: cancel, result: make(chan error, 1)}
	srv := NewServer(cfg, func(r grpc.ServiceRegistrar) { runtimeapi.RegisterRuntimeServiceServer(r, f) })
	go func() { s.result <- srv.Serve(ctx, listeners...); close(s.result) }()
	conn, err := endpoints[0].Client()
	require.NoError(t, err)
	s.RuntimeServiceClient = runtimeapi.NewRuntimeServiceClient(conn)
	t.Cleanup(func() {
		conn.Close()
		s.stop()
	})
	return s
}

// kinds are the two kinds of endpoint, for tests of what both must do.
func kinds(t *testing.T) map[string]*Endpoint {
	return map[string]*Endpoint{
		"memory": Memory("test"),
		"unix":   Unix(filepath.Join(t.TempDir(), "cri.sock")),
	}
}

var grace = ServerConfig{Grace: 10 * time.Second}

// dialRaw connects without gRPC, to see whether anybody listens.
func dialRaw(t *testing.T, path string) error {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return err
}
