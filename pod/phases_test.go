package pod

import (
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
)

func TestPhasesOfCallsAreInTheirTrace(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	spans := tracetest.NewSpanRecorder()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	ctx, call := tp.Tracer("test").Start(t.Context(), "the kubelet's")

	h.failing("attach", errors.New("no addresses"))
	_, err := e.Launch(ctx, testSpec())
	require.Error(t, err)
	h.failing("attach", nil)
	require.Equal(t, codes.Error, spanNamed(t, spans, "attach network").Status().Code)
	spans.Reset()
	id, err := e.Launch(ctx, testSpec())
	require.NoError(t, err)
	app, err := e.CreateApp(ctx, id, testApp(), plain)
	require.NoError(t, err)
	require.NoError(t, e.StartApp(ctx, app))
	require.NoError(t, e.Remove(ctx, id))

	for _, name := range []string{"attach network", "boot pod", "make root", "create app", "start app", "shut down pod", "kill cgroup", "detach network"} {
		s := spanNamed(t, spans, name)
		require.Equal(t, call.SpanContext().SpanID(), s.Parent().SpanID(), name)
		require.Equal(t, codes.Unset, s.Status().Code, name)
	}
}

func spanNamed(t *testing.T, spans *tracetest.SpanRecorder, name string) sdktrace.ReadOnlySpan {
	t.Helper()
	ended := spans.Ended()
	i := slices.IndexFunc(ended, func(s sdktrace.ReadOnlySpan) bool { return s.Name() == name })
	require.NotEqual(t, -1, i, "no phase %q among %v", name, ended)
	return ended[i]
}
