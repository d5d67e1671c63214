package transport

import (
	"context"
	"errors"
	"net"
	"sync/atomic"

	"google.golang.org/grpc/test/bufconn"
)

// memoryBuffer is the size, in bytes, of each direction's ring buffer of one
// in-memory connection. From 32 KiB to 1 MiB no call gets faster beyond the noise
// ("go run ./bench -trials" in tools/), and a connection holds twice the size.
const memoryBuffer = 64 << 10

// Memory makes an endpoint inside this process. No file, socket or port exists;
// only who holds the Endpoint can dial it. Connections are those of
// google.golang.org/grpc/test/bufconn.
func Memory(name string) *Endpoint {
	l := bufconn.Listen(memoryBuffer)
	var opened atomic.Bool
	return &Endpoint{
		name: "memory://" + name,
		listen: func() (net.Listener, error) {
			if opened.Swap(true) {
				return nil, errors.New("it is being served already, or was closed")
			}
			return l, nil
		},
		dial: func(ctx context.Context) (net.Conn, error) { return l.DialContext(ctx) },
	}
}
