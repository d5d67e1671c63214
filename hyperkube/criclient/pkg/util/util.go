// Package util stands in for k8s.io/cri-client/pkg/util, the one package of that
// module which turns an endpoint into a dialer. It forwards to upstream's, after
// asking whoever has called [Intercept]. Every other package of this module
// re-exports upstream's as it is: see the module's README.
package util

import (
	"context"
	"net"
	"sync/atomic"

	"go.opentelemetry.io/otel/trace"

	upstream "github.com/rktnetes/rktshim/hyperkube/upstream/cri-client/pkg/util"
)

// Dialer connects to a runtime.
type Dialer func(context.Context) (net.Conn, error)

// Interceptor decides how an endpoint is dialled. It returns a dialer, or nil to
// leave the endpoint to upstream, or an error, with which the client's
// construction fails.
type Interceptor func(endpoint string) (Dialer, error)

var interceptor atomic.Pointer[Interceptor]

// Intercept makes f decide for every endpoint from now on; nil ends that.
func Intercept(f Interceptor) {
	if f == nil {
		interceptor.Store(nil)
		return
	}
	interceptor.Store(&f)
}

// tracer is boxed, because the types of providers differ.
var tracer atomic.Pointer[struct{ trace.TracerProvider }]

// SetTracerProvider keeps what a client is being made with, for an interceptor to
// ask for.
func SetTracerProvider(tp trace.TracerProvider) {
	tracer.Store(&struct{ trace.TracerProvider }{tp})
}

// TracerProvider is that of the last client, nil if there is none.
func TracerProvider() trace.TracerProvider {
	if t := tracer.Load(); t != nil {
		return t.TracerProvider
	}
	return nil
}

// interceptedAddress begins with a slash, because cri-client then uses gRPC's
// passthrough resolver, which hands it to our dialer unchanged.
const interceptedAddress = "/intercepted"

// GetAddressAndDialer returns the address of an endpoint and the function that
// connects to it.
func GetAddressAndDialer(endpoint string) (string, func(ctx context.Context, addr string) (net.Conn, error), error) {
	if f := interceptor.Load(); f != nil {
		dial, err := (*f)(endpoint)
		if err != nil {
			return "", nil, err
		}
		if dial != nil {
			return interceptedAddress, func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }, nil
		}
	}
	return upstream.GetAddressAndDialer(endpoint)
}

// CreateListener opens a unix socket for a server, as upstream does.
func CreateListener(endpoint string) (net.Listener, error) { return upstream.CreateListener(endpoint) }
