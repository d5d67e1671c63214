package e2e

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// collector takes spans by OTLP.
type collector struct {
	mu    sync.Mutex
	spans []*tracev1.Span // guarded by mu
}

// collect serves OTLP on the machine until the test ends.
func (n *podNode) collect(addr string) *collector {
	n.t.Helper()
	c := &collector{}
	var l net.Listener
	var err error
	require.NoError(n.t, n.inNetwork(func() { l, err = net.Listen("tcp", addr) }))
	require.NoError(n.t, err)
	srv := grpc.NewServer()
	srv.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.trace.v1.TraceService",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Export", Handler: c.export}},
	}, c)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	n.t.Cleanup(func() {
		srv.Stop()
		<-served
	})
	return c
}

// export is one request. On the wire it is what a file of spans is, its answer is
// empty.
func (c *collector) export(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
	var req tracev1.TracesData
	if err := decode(&req); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range req.ResourceSpans {
		for _, s := range r.ScopeSpans {
			c.spans = append(c.spans, s.Spans...)
		}
	}
	return &emptypb.Empty{}, nil
}

// find returns a span by its name, of a trace, below a parent; nil if it has not come.
func (c *collector) find(name string, kind tracev1.Span_SpanKind, trace, parent []byte) *tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Name == name && s.Kind == kind && string(s.TraceId) == string(trace) && string(s.ParentSpanId) == string(parent) {
			return s
		}
	}
	return nil
}

// trace returns the id of a trace that has a span of that name; nil if there is none.
func (c *collector) trace(name string, kind tracev1.Span_SpanKind) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Name == name && s.Kind == kind {
			return s.TraceId
		}
	}
	return nil
}

// call returns the runtime's span of a call, if its parent is the kubelet's span of
// the same call.
func (c *collector) call(trace []byte, method string) *tracev1.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	byID := map[string]*tracev1.Span{}
	for _, s := range c.spans {
		byID[string(s.SpanId)] = s
	}
	for _, s := range c.spans {
		parent := byID[string(s.ParentSpanId)]
		if s.Name == method && s.Kind == tracev1.Span_SPAN_KIND_SERVER && string(s.TraceId) == string(trace) &&
			parent != nil && parent.Kind == tracev1.Span_SPAN_KIND_CLIENT && parent.Name == method {
			return s
		}
	}
	return nil
}

// phases are what a pod's start is made of, by call.
var phases = map[string][]string{
	"runtime.v1.RuntimeService/RunPodSandbox":   {"attach network", "boot pod"},
	"runtime.v1.RuntimeService/CreateContainer": {"make root", "create app"},
	"runtime.v1.RuntimeService/StartContainer":  {"start app"},
}

// missing says what a trace of the kubelet's lacks of the runtime's; empty: nothing.
func (c *collector) missing() string {
	const internal = tracev1.Span_SPAN_KIND_INTERNAL
	trace := c.trace("runtime.v1.RuntimeService/RunPodSandbox", tracev1.Span_SPAN_KIND_SERVER)
	if trace == nil {
		return "a span of RunPodSandbox"
	}
	if c.find("syncPod", internal, trace, nil) == nil {
		return "the kubelet's syncPod"
	}
	for method, names := range phases {
		call := c.call(trace, method)
		if call == nil {
			return method + " below the kubelet's call"
		}
		for _, name := range names {
			phase := c.find(name, internal, trace, call.SpanId)
			if phase == nil {
				return name + " below " + method
			}
			if name == "attach network" && c.find("ADD by bridge", internal, trace, phase.SpanId) == nil {
				return "the plugin below " + name
			}
		}
	}
	return ""
}

func TestTraceOfAPodHasTheKubeletsSpansAndTheRuntimes(t *testing.T) {
	t.Parallel()
	n := newPodNode(t, "lean", `tracing: {endpoint: "127.0.0.1:4317", samplingRatePerMillion: 1000000}`)
	c := n.collect("127.0.0.1:4317")
	n.kubelet()
	n.apply("sleep", sleepPod)
	n.waitPod("sleep", running)

	missing := c.missing()
	for deadline := time.Now().Add(2 * time.Minute); missing != "" && time.Now().Before(deadline); missing = c.missing() {
		time.Sleep(50 * time.Millisecond) // spans are sent every five seconds
	}

	require.Empty(t, missing, "is not in the trace")
	n.withdraw("sleep")
	n.waitNothingLeft()
}
