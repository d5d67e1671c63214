// Package transport serves CRI and dials it.
//
// An [Endpoint] is a place where CRI is served together with the way to reach
// it: in memory, for a kubelet in the same process, or on a unix socket, for
// crictl and tests. [Server] serves any number of endpoints with one set of
// services. It is also the only package that knows gRPC status codes: the
// services return classes of github.com/containerd/errdefs, and the interceptors
// here turn them into codes.
package transport

import (
	"context"
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// MaxMessageSize is the limit, in bytes, of one gRPC message in either
// direction. It is the kubelet's own limit (k8s.io/cri-client, maxMsgSize);
// lists that may exceed it have a streamed form.
const MaxMessageSize = 16 << 20

// Endpoint is a place where CRI is served and the way to dial it. Its zero value
// is not usable; [Memory] and [Unix] make one. It is safe for concurrent use.
type Endpoint struct {
	name   string
	listen func() (net.Listener, error)
	dial   func(context.Context) (net.Conn, error)
}

// String names the endpoint as a URL, for logs and errors.
func (e *Endpoint) String() string { return e.name }

// Listen opens the endpoint. The caller closes the listener, or gives it to a
// server which does. A memory endpoint can be opened once in its life.
func (e *Endpoint) Listen() (net.Listener, error) {
	l, err := e.listen()
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", e, err)
	}
	return l, nil
}

// Dial connects to the endpoint's server. On a memory endpoint that is not
// served yet it waits until it is, or until ctx ends.
func (e *Endpoint) Dial(ctx context.Context) (net.Conn, error) {
	c, err := e.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", e, err)
	}
	return c, nil
}

// Client makes a gRPC client of the endpoint, with the message limits that the
// kubelet's client has. It connects on first use. opts are added to ours.
func (e *Endpoint) Client(opts ...grpc.DialOption) (*grpc.ClientConn, error) {
	c, err := grpc.NewClient("passthrough:///"+e.name, append([]grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return e.Dial(ctx) }),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(MaxMessageSize), grpc.MaxCallSendMsgSize(MaxMessageSize)),
	}, opts...)...)
	if err != nil {
		return nil, fmt.Errorf("make client of %s: %w", e, err)
	}
	return c, nil
}
