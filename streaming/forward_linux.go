package streaming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/namespace"
)

// forward connects a stream of a client to a port in a pod. Either side may close
// its direction while the other goes on. It returns when both have, or the pod has
// reset the connection, or ctx ends.
func (s *Service) forward(ctx context.Context, sess *session, pod string, port int32, stream io.ReadWriteCloser) error {
	path, err := s.runtime.Network(pod)
	if err != nil {
		return err
	}
	conn, err := dial(ctx, path, int(port))
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	up := make(chan struct{})
	if !sess.begin() {
		return errEnded
	}
	go func() { // a task of the session: after an error it ends with the stream, which the library resets
		defer sess.tasks.Done()
		defer close(up)
		if copyAll(conn, stream) == nil {
			_ = conn.CloseWrite() // it may be closed
		}
	}()
	if err := download(stream, conn); err != nil {
		return fmt.Errorf("forward port %d: %w", port, err)
	}
	_ = stream.Close() // our direction only; the client may have gone
	<-up
	return ctx.Err()
}

// download copies what the pod sends to its end.
func download(dst io.Writer, src *net.TCPConn) error {
	raw, err := src.SyscallConn()
	if err != nil {
		return err
	}
	for {
		n, rerr, werr := step(dst, raw.Read)
		if rerr != nil || werr != nil {
			return errors.Join(rerr, werr)
		}
		if n == 0 {
			return nil
		}
	}
}

// loopback are the addresses at which a port is looked for, in this order.
var loopback = []string{"127.0.0.1", "::1"}

// dial connects to a port of localhost in a network namespace, or in ours if path is
// empty. It does so on a thread that is thrown away afterwards: a socket stays in
// the namespace in which it was made.
func dial(ctx context.Context, path string, port int) (conn *net.TCPConn, err error) {
	connect := func() error {
		var errs []error
		for _, host := range loopback {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
			if err == nil {
				conn = c.(*net.TCPConn)
				return nil
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	}
	if path == "" {
		err = connect()
	} else {
		err = inNamespace(path, connect)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of the pod: %w", port, err)
	}
	return conn, nil
}

func inNamespace(path string, f func() error) error {
	ns, err := namespace.Open(path, unix.CLONE_NEWNET)
	if err != nil {
		return err
	}
	defer ns.Close()
	return namespace.In([]*os.File{ns}, f)
}
