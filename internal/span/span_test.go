package span

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func TestPhasesAreSpansOfTheCall(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	ctx, call := tp.Tracer("server").Start(t.Context(), "RunPodSandbox")

	outer, endOuter := Start(ctx, "network")
	_, endInner := Start(outer, "plugin")
	endInner(errors.New("no addresses"))
	endOuter(nil)

	ended := spans.Ended()
	require.Len(t, ended, 2)
	inner, network := ended[0], ended[1]
	require.Equal(t, "plugin", inner.Name())
	require.Equal(t, codes.Error, inner.Status().Code)
	require.Equal(t, "no addresses", inner.Status().Description)
	require.Equal(t, network.SpanContext().SpanID(), inner.Parent().SpanID())
	require.Equal(t, codes.Unset, network.Status().Code)
	require.Equal(t, call.SpanContext().SpanID(), network.Parent().SpanID())
	require.Equal(t, call.SpanContext().TraceID(), network.SpanContext().TraceID())
}

func TestWithoutATracePhasesCostNothing(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	unsampled := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans), sdktrace.WithSampler(sdktrace.NeverSample()))
	sampledOut, _ := unsampled.Tracer("server").Start(t.Context(), "RunPodSandbox")
	for _, ctx := range []context.Context{t.Context(), sampledOut} {
		allocations := testing.AllocsPerRun(100, func() {
			got, end := Start(ctx, "network")
			end(nil)
			if got != ctx {
				t.Fatal("another context")
			}
		})
		require.Zero(t, allocations)
	}
	require.Empty(t, spans.Ended())
}
