package kubelet

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/component-base/metrics/legacyregistry"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cri "k8s.io/cri-client/pkg"
	"k8s.io/cri-client/pkg/util"

	"github.com/rktnetes/rktshim/rktshim"
	"github.com/rktnetes/rktshim/transport"
)

// fakeShim serves Version in memory until it is told to fail.
type fakeShim struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	endpoint  *transport.Endpoint
	metrics   *prometheus.Registry
	ready     chan struct{}
	failStart func()        // run instead of becoming ready
	fail      chan func()   // run once it serves
	answer    chan struct{} // Version waits for it, if not nil
}

func newFakeShim() *fakeShim {
	return &fakeShim{endpoint: transport.Memory("fake"), metrics: prometheus.NewRegistry(), ready: make(chan struct{}), fail: make(chan func())}
}

func (f *fakeShim) Endpoint() *transport.Endpoint { return f.endpoint }
func (f *fakeShim) Ready() <-chan struct{}        { return f.ready }
func (f *fakeShim) Cgroups() *rktshim.Cgroups     { return nil }
func (f *fakeShim) Metrics() *prometheus.Registry { return f.metrics }

func (f *fakeShim) Version(ctx context.Context, _ *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	if f.answer != nil {
		select {
		case <-f.answer:
		case <-ctx.Done():
		}
	}
	return &runtimeapi.VersionResponse{RuntimeName: "fake"}, ctx.Err()
}

var errDied = errors.New("the disk is on fire")

func (f *fakeShim) Run(ctx context.Context) error {
	if f.failStart != nil {
		f.failStart()
		return errDied
	}
	listeners, err := transport.Listen(f.endpoint)
	if err != nil {
		return err
	}
	srv := transport.NewServer(transport.ServerConfig{Grace: time.Second}, func(r grpc.ServiceRegistrar) {
		runtimeapi.RegisterRuntimeServiceServer(r, f)
	})
	served := make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { served <- srv.Serve(ctx, listeners...) }()
	close(f.ready)
	select {
	case fail := <-f.fail:
		cancel()
		<-served
		fail()
		return errDied
	case err := <-served:
		return err
	}
}

// newTestRuntime has the gate on; asked tells whether the kubelet was asked to
// end.
func newTestRuntime(t *testing.T, f *fakeShim, args ...string) (rt *runtime, asked chan struct{}) {
	t.Helper()
	ping, leaks := healthz.PingHealthz, goleak.IgnoreCurrent()
	t.Cleanup(func() {
		healthz.PingHealthz = ping
		goleak.VerifyNone(t, leaks)
	})
	flags := newFlags()
	_, err := flags.take(args)
	require.NoError(t, err)
	asked = make(chan struct{}, 1)
	rt = newRuntime(flags)
	rt.enabled = func() bool { return true }
	rt.newShim = func(rktshim.Config) (shim, error) { return f, nil }
	rt.shutdown = func() bool { asked <- struct{}{}; return true }
	return rt, asked
}

func ping() error { return healthz.PingHealthz.Check(httptest.NewRequest("GET", "/healthz", nil)) }

func TestHealthzFollowsTheRuntime(t *testing.T) {
	f := newFakeShim()
	rt, asked := newTestRuntime(t, f)
	dial, err := rt.intercept(MemoryEndpoint)
	require.NoError(t, err)
	require.NotNil(t, dial)
	require.NoError(t, ping())

	f.fail <- func() {}
	<-rt.ended

	require.ErrorContains(t, ping(), "the runtime in this process has died: the disk is on fire")
	require.Empty(t, asked, "a dead server is told by /healthz, it does not end the kubelet")
	require.ErrorIs(t, rt.stop(), errDied, "and the kubelet's exit tells it again")
}

func TestHealthzTellsOfARuntimeThatDoesNotAnswer(t *testing.T) {
	f := newFakeShim()
	f.answer = make(chan struct{})
	rt, _ := newTestRuntime(t, f)
	_, err := rt.intercept(MemoryEndpoint)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()

	err = healthz.PingHealthz.Check(httptest.NewRequest("GET", "/healthz", nil).WithContext(ctx))

	require.ErrorContains(t, err, "does not answer")
	require.NoError(t, rt.stop())
}

// The kubelet's systemd watchdog asks the same check, but has no request.
func TestWatchdogFollowsTheRuntime(t *testing.T) {
	f := newFakeShim()
	rt, _ := newTestRuntime(t, f)
	_, err := rt.intercept(MemoryEndpoint)
	require.NoError(t, err)
	require.NoError(t, healthz.PingHealthz.Check(nil))

	f.fail <- func() {}
	<-rt.ended

	require.ErrorContains(t, healthz.PingHealthz.Check(nil), "the runtime in this process has died")
}

func TestPanicOfTheRuntimeEndsTheKubelet(t *testing.T) {
	f := newFakeShim()
	rt, asked := newTestRuntime(t, f)
	_, err := rt.intercept(MemoryEndpoint)
	require.NoError(t, err)

	f.fail <- func() { panic("boom") }

	<-asked
	require.ErrorContains(t, rt.stop(), "the runtime in this process: panic: boom; the stack is in the log")
}

func TestStartThatFailsFailsTheDial(t *testing.T) {
	for name, c := range map[string]struct {
		fail func()
		says string
	}{
		"by an error": {func() {}, "start the runtime in this process: the disk is on fire"},
		"by a panic":  {func() { panic("boom") }, "start the runtime in this process: panic: boom"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeShim()
			f.failStart = c.fail
			rt, asked := newTestRuntime(t, f)

			_, err := rt.intercept(MemoryEndpoint)
			require.ErrorContains(t, err, c.says)
			_, again := rt.intercept(MemoryEndpoint)
			require.Equal(t, err.Error(), again.Error(), "it is not started twice")
			require.Empty(t, asked)
			require.NoError(t, rt.stop(), "the start has told it")
		})
	}
}

func TestRuntimeStartsOnceForBothClients(t *testing.T) {
	rt, _ := newTestRuntime(t, newFakeShim())

	for range 2 {
		_, err := rt.intercept(MemoryEndpoint)
		require.NoError(t, err)
	}

	require.NoError(t, rt.stop())
}

func TestGateDecidesWhoDials(t *testing.T) {
	const stock = "" // upstream dials
	const memory = "memory"
	for _, c := range []struct {
		name     string
		on       bool
		args     []string
		endpoint string
		want     string // stock, memory, or a part of the error
	}{
		{"off", false, nil, "unix:///run/crio/crio.sock", stock},
		{"off, remote", false, []string{"--container-runtime=remote"}, "unix:///run/crio/crio.sock", stock},
		{"off, but memory", false, nil, MemoryEndpoint, "needs --container-runtime=rkt"},
		{"off, with a flag of ours", false, []string{"--cni-bin-dir=/x"}, "unix:///x", "--cni-bin-dir given, but"},
		{"off, though asked for by flag", false, []string{"--container-runtime=rkt"}, "unix:///x", "contradicts the feature gate RktShim=false"},
		{"on", true, nil, MemoryEndpoint, memory},
		{"on, endpoint unset", true, nil, "unix:///run/containerd/containerd.sock", memory},
		{"on, but containerd's typed", true, []string{"--container-runtime-endpoint=unix:///run/containerd/containerd.sock"}, "unix:///run/containerd/containerd.sock", "containerd.sock: unset it"},
		{"on, its own socket", true, []string{"--rkt-cri-socket=/run/x.sock"}, "unix:///run/x.sock", memory},
		{"on, but another's socket", true, nil, "unix:///run/crio/crio.sock", "is unix:///run/crio/crio.sock: unset it"},
		{"on, but remote", true, []string{"--container-runtime=remote"}, MemoryEndpoint, "contradicts the feature gate RktShim=true"},
	} {
		t.Run(c.name, func(t *testing.T) {
			rt, _ := newTestRuntime(t, newFakeShim(), c.args...)
			rt.enabled = func() bool { return c.on }

			dial, err := rt.intercept(c.endpoint)

			switch c.want {
			case stock:
				require.NoError(t, err)
				require.Nil(t, dial)
			case memory:
				require.NoError(t, err)
				require.NotNil(t, dial)
			default:
				require.ErrorContains(t, err, c.want)
			}
			require.NoError(t, rt.stop())
		})
	}
}

// A series that was there twice would fail the whole of /metrics.
func TestMetricsOfTheRuntimeAreTheKubeletsOnce(t *testing.T) {
	s, err := rktshim.New(rktshim.DefaultConfig())
	require.NoError(t, err)
	f := newFakeShim()
	f.metrics = s.Metrics()
	rt, _ := newTestRuntime(t, f)
	t.Cleanup(func() { legacyregistry.Registerer().Unregister(f.metrics) })
	_, err = rt.intercept("memory://rktshim")
	require.NoError(t, err)
	defer func() { require.NoError(t, rt.stop()) }()

	families, err := legacyregistry.DefaultGatherer.Gather()

	require.NoError(t, err)
	seen := map[string]bool{}
	for _, family := range families {
		require.False(t, seen[family.GetName()], family.GetName())
		seen[family.GetName()] = true
	}
	require.True(t, seen["rktshim_info"])
	require.True(t, seen["process_start_time_seconds"], "the kubelet's own are there too")
}

// The kubelet makes its CRI clients with its tracer provider before they dial.
func TestSpansGoTheKubeletsWayOrNone(t *testing.T) {
	tracing := sdktrace.NewTracerProvider()
	for name, c := range map[string]struct{ kubelets, want trace.TracerProvider }{
		"tracing":    {tracing, tracing},
		"no tracing": {noop.NewTracerProvider(), nil},
		"none given": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			rt, _ := newTestRuntime(t, newFakeShim())
			var got rktshim.Config
			rt.newShim = func(c rktshim.Config) (shim, error) { got = c; return nil, errDied }
			util.Intercept(rt.intercept)
			t.Cleanup(func() {
				util.Intercept(nil)
				util.SetTracerProvider(nil)
			})

			_, err := cri.NewRemoteRuntimeService(t.Context(), MemoryEndpoint, time.Second, c.kubelets, false)

			require.ErrorIs(t, err, errDied)
			require.Equal(t, c.want, got.TracerProvider)
		})
	}
}
