// Package span marks the phases of a call in the trace that the call belongs to.
//
// It takes the tracer from the context, where the server of the call has put it, so
// that nobody is handed one, and knows only the interfaces of OpenTelemetry: what
// exports spans is the business of the program.
package span

import (
	"context"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// scope names the code that the spans are from.
const scope = "github.com/rktnetes/rktshim"

// Start begins a phase. It returns the context for the phase's own parts, and end,
// which must be called once with what the phase ended with. Outside of a trace that
// is recorded both do nothing.
func Start(ctx context.Context, name string) (_ context.Context, end func(error)) {
	parent := trace.SpanFromContext(ctx)
	if !parent.IsRecording() {
		return ctx, nothing
	}
	ctx, s := parent.TracerProvider().Tracer(scope).Start(ctx, name)
	return ctx, func(err error) {
		if err != nil {
			s.SetStatus(codes.Error, err.Error())
		}
		s.End()
	}
}

func nothing(error) {}
