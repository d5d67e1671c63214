package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
)

func TestErrorClassBecomesItsCode(t *testing.T) {
	var failure error
	s := serve(t, grace, &fake{status: func(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
		return nil, failure
	}}, Memory("test"))

	for _, c := range []struct {
		err  error
		code codes.Code
	}{
		{fmt.Errorf("container x: %w", errdefs.ErrNotFound), codes.NotFound},
		{fmt.Errorf("config.linux: %w", errdefs.ErrInvalidArgument), codes.InvalidArgument},
		{fmt.Errorf("image in use: %w", errdefs.ErrFailedPrecondition), codes.FailedPrecondition},
		{fmt.Errorf("exec: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{fmt.Errorf("exec: %w", context.Canceled), codes.Canceled},
		{fmt.Errorf("kvm: %w", errdefs.ErrNotImplemented), codes.Unimplemented},
		{errors.New("RegistryUnavailable: 503"), codes.Unknown},
		{fmt.Errorf("boot: %w (undo: %v)", errors.New("no memory"), errdefs.ErrNotFound), codes.Unknown},
	} {
		failure = c.err
		_, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "x"})
		require.Equal(t, c.code, status.Code(err), "%v", c.err)
		require.Equal(t, c.err.Error(), status.Convert(err).Message())
	}
}

func TestErrorClassOfAStreamBecomesItsCode(t *testing.T) {
	s := serve(t, grace, &fake{events: func(grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
		return fmt.Errorf("reader too slow: %w", errdefs.ErrResourceExhausted)
	}}, Memory("test"))

	events, err := s.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	require.NoError(t, err)
	_, err = events.Recv()

	require.Equal(t, codes.ResourceExhausted, status.Code(err))
}

func TestMethodThatNobodyBuiltSaysSo(t *testing.T) {
	s := serve(t, grace, &fake{}, Memory("test"))

	_, err := s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{})

	require.Equal(t, codes.Unimplemented, status.Code(err))
	require.Equal(t, "StopContainer is not built yet in rktshim", status.Convert(err).Message())
}

func TestPanicIsAnInternalErrorWithItsStackInTheLog(t *testing.T) {
	log, ctx := logTo(t, 0)
	s := serveContext(t, ctx, grace, &fake{
		version: func(context.Context) (*runtimeapi.VersionResponse, error) { panic("boom") },
		events: func(grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
			panic("stream boom")
		},
	}, Memory("test"))

	_, err := s.Version(t.Context(), &runtimeapi.VersionRequest{})
	require.Equal(t, codes.Internal, status.Code(err))
	require.ErrorContains(t, err, "Version panicked: boom")

	events, err := s.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	require.NoError(t, err)
	_, err = events.Recv()
	require.Equal(t, codes.Internal, status.Code(err))

	_, err = s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{})
	require.Equal(t, codes.Unimplemented, status.Code(err), "the server lives on")
	require.NoError(t, s.stop())
	require.Contains(t, log.String(), "server_test.go", "the stack names the line that panicked")
	require.Contains(t, log.String(), "stream boom")
}

func TestMutatingCallsAreLoggedWithTheirObjectAndReadsAreNot(t *testing.T) {
	log, ctx := logTo(t, 0)
	s := serveContext(t, ctx, grace, &fake{run: func(ctx context.Context, _ *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
		return &runtimeapi.RunPodSandboxResponse{PodSandboxId: "7f3"}, nil
	}}, Memory("test"))

	_, err := s.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Namespace: "default", Name: "web"}}})
	require.NoError(t, err)
	_, err = s.Version(t.Context(), &runtimeapi.VersionRequest{})
	require.NoError(t, err)
	_, err = s.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: "7f3"})
	require.Error(t, err)
	require.NoError(t, s.stop())

	require.Regexp(t, `"CRI call" pod="default/web" method="RunPodSandbox" took="[^"]+" podID="7f3"\n`, log.String())
	require.Regexp(t, `"CRI call" podID="7f3" method="StopPodSandbox" took="[^"]+" err="[^"]*not built`, log.String())
	require.NotContains(t, log.String(), `method="Version"`)
}

func TestReadsAreLoggedAtV5(t *testing.T) {
	log, ctx := logTo(t, 5)
	s := serveContext(t, ctx, grace, &fake{}, Memory("test"))

	_, err := s.Version(t.Context(), &runtimeapi.VersionRequest{})
	require.NoError(t, err)
	require.NoError(t, s.stop())

	require.Contains(t, log.String(), `method="Version"`)
}

func TestEveryReadIsAMethodOfCRI(t *testing.T) {
	methods := map[string]bool{}
	for _, d := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		for _, m := range d.Methods {
			methods[m.MethodName] = true
		}
		for _, m := range d.Streams {
			methods[m.StreamName] = true
		}
	}
	for m := range reads {
		require.True(t, methods[m], m)
	}
}

func TestHandlersLogCarriesThePodsID(t *testing.T) {
	log, ctx := logTo(t, 0)
	s := serveContext(t, ctx, grace, &fake{status: func(ctx context.Context, _ *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
		klog.FromContext(ctx).Info("Inside")
		return &runtimeapi.ContainerStatusResponse{}, nil
	}}, Memory("test"))

	_, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "c1"})
	require.NoError(t, err)
	require.NoError(t, s.stop())

	require.Contains(t, log.String(), `"Inside" containerID="c1"`)
}

func TestRunningCallMayFinishWithinTheGrace(t *testing.T) {
	started, finish := make(chan struct{}), make(chan struct{})
	s := serve(t, grace, &fake{version: func(ctx context.Context) (*runtimeapi.VersionResponse, error) {
		close(started)
		<-finish
		return &runtimeapi.VersionResponse{RuntimeName: "late"}, ctx.Err()
	}}, Memory("test"))
	answer := make(chan string, 1)
	go func() {
		v, err := s.Version(context.WithoutCancel(t.Context()), &runtimeapi.VersionRequest{})
		answer <- fmt.Sprint(v.GetRuntimeName(), err)
	}()
	<-started
	s.cancel()
	require.Eventually(t, func() bool { // no new calls
		_, err := s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{})
		return status.Code(err) == codes.Unavailable
	}, 10*time.Second, time.Millisecond)
	close(finish)

	require.Equal(t, "late<nil>", <-answer)
	require.NoError(t, s.stop())
}

func TestCallThatOutlivesTheGraceIsCancelled(t *testing.T) {
	started := make(chan struct{})
	s := serve(t, ServerConfig{Grace: 10 * time.Millisecond}, &fake{version: func(ctx context.Context) (*runtimeapi.VersionResponse, error) {
		close(started)
		<-ctx.Done()
		return nil, ctx.Err()
	}}, Memory("test"))
	go s.Version(context.WithoutCancel(t.Context()), &runtimeapi.VersionRequest{})
	<-started

	require.NoError(t, s.stop())
}

func TestCallThatIgnoresItsCancellationIsNamed(t *testing.T) {
	started, finish := make(chan struct{}), make(chan struct{})
	s := serve(t, ServerConfig{Grace: 10 * time.Millisecond}, &fake{version: func(context.Context) (*runtimeapi.VersionResponse, error) {
		close(started)
		<-finish
		return nil, nil
	}}, Memory("test"))
	go s.Version(context.WithoutCancel(t.Context()), &runtimeapi.VersionRequest{})
	<-started

	err := s.stop()

	require.ErrorContains(t, err, "calls ignore their cancellation: Version (")
	close(finish)
}

func TestShutdownBeforeTheFirstAcceptIsOrderly(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 100 {
		listeners, err := Listen(Memory("short"), Memory("lived"))
		require.NoError(t, err)

		require.NoError(t, NewServer(grace, func(grpc.ServiceRegistrar) {}).Serve(ctx, listeners...))
	}
}

func TestBrokenListenerEndsTheServer(t *testing.T) {
	srv := NewServer(grace, func(grpc.ServiceRegistrar) {})
	good, err := Memory("good").Listen()
	require.NoError(t, err)

	err = srv.Serve(t.Context(), good, brokenListener{good})

	require.ErrorContains(t, err, "disk on fire")
}

type brokenListener struct{ net.Listener }

func (brokenListener) Accept() (net.Conn, error) { return nil, errors.New("disk on fire") }

func TestCallIsASpanOfItsCallersTrace(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	s := serve(t, ServerConfig{Grace: time.Second, TracerProvider: tp}, &fake{}, Memory("test"))
	ctx, parent := tp.Tracer("kubelet").Start(t.Context(), "syncPod")
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)

	_, err := s.Version(metadata.NewOutgoingContext(ctx, metadata.New(carrier)), &runtimeapi.VersionRequest{})
	require.NoError(t, err)
	require.NoError(t, s.stop())

	require.Len(t, spans.Ended(), 1)
	got := spans.Ended()[0]
	require.Equal(t, "runtime.v1.RuntimeService/Version", got.Name())
	require.Equal(t, trace.SpanKindServer, got.SpanKind())
	require.Equal(t, parent.SpanContext().TraceID(), got.SpanContext().TraceID())
}

func TestMessageOver16MBIsRefusedNotTruncated(t *testing.T) {
	s := serve(t, grace, &fake{version: func(context.Context) (*runtimeapi.VersionResponse, error) {
		return &runtimeapi.VersionResponse{RuntimeName: string(bytes.Repeat([]byte("x"), MaxMessageSize+1))}, nil
	}}, Memory("test"))

	_, err := s.Version(t.Context(), &runtimeapi.VersionRequest{})

	require.Equal(t, codes.ResourceExhausted, status.Code(err))
}

func TestStreamEndsOrderly(t *testing.T) {
	s := serve(t, grace, &fake{events: func(st grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
		return st.Send(&runtimeapi.ContainerEventResponse{ContainerId: "c1"})
	}}, Memory("test"))

	events, err := s.GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{})
	require.NoError(t, err)
	ev, err := events.Recv()
	require.NoError(t, err)
	require.Equal(t, "c1", ev.ContainerId)
	_, err = events.Recv()

	require.ErrorIs(t, err, io.EOF)
}

// logTo gives a context whose logger writes to the buffer, which must not be
// read before the server has stopped.
func logTo(t *testing.T, verbosity int) (*bytes.Buffer, context.Context) {
	var buf bytes.Buffer
	l := textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(&buf), textlogger.Verbosity(verbosity)))
	return &buf, klog.NewContext(t.Context(), l)
}
