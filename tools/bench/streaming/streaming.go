// Package streaming measures sessions: what an exec and a port-forward carry per
// second, and how long one byte takes there and back. The client is client-go's, by
// SPDY, connected to the runtime's own streaming server, as a kubelet is.
package streaming

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	//lint:ignore SA1019 client-go gives connections of this package
	"k8s.io/apimachinery/pkg/util/httpstream"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The figures: megabytes per second, and seconds.
const (
	ExecOut     = "exec, output"
	ExecIn      = "exec, input"
	ExecEcho    = "exec, echo of a byte"
	ForwardOut  = "port-forward, from the pod"
	ForwardIn   = "port-forward, to the pod"
	ForwardEcho = "port-forward, echo of a byte"
)

const (
	bulk   = 128 << 20 // bytes of each transfer
	echoes = 300       // of which the median is the figure
)

// Target is a running container whose pod is on the network of this process.
type Target struct {
	Runtime            runtimeapi.RuntimeServiceClient
	Sandbox, Container string
}

// Measure takes each figure once. One that cannot be taken is missing, and the error
// says why.
func (t Target) Measure(ctx context.Context) (map[string]float64, error) {
	figures := map[string]float64{}
	var errs []error
	for _, m := range []struct {
		name    string
		measure func(context.Context) (float64, error)
	}{
		{ExecOut, t.execOut}, {ExecIn, t.execIn}, {ExecEcho, t.execEcho},
		{ForwardOut, t.forwardOut}, {ForwardIn, t.forwardIn}, {ForwardEcho, t.forwardEcho},
	} {
		v, err := m.measure(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.name, err))
			continue
		}
		figures[m.name] = v
	}
	return figures, errors.Join(errs...)
}

func rate(bytes int64, since time.Time) float64 {
	return float64(bytes) / 1e6 / time.Since(since).Seconds()
}

func (t Target) exec(ctx context.Context, in io.Reader, out io.Writer, cmd ...string) error {
	r, err := t.Runtime.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: t.Container, Cmd: cmd, Stdin: in != nil, Stdout: true})
	if err != nil {
		return err
	}
	u, err := url.Parse(r.Url)
	if err != nil {
		return err
	}
	e, err := remotecommand.NewSPDYExecutor(&restclient.Config{Host: u.Host}, http.MethodPost, u)
	if err != nil {
		return err
	}
	return e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: in, Stdout: out})
}

// counter takes everything, and remembers how much and since when.
type counter struct {
	n     int64
	begin time.Time
}

func (c *counter) Write(b []byte) (int, error) {
	if c.n == 0 {
		c.begin = time.Now()
	}
	c.n += int64(len(b))
	return len(b), nil
}

func (t Target) execOut(ctx context.Context) (float64, error) {
	var c counter
	err := t.exec(ctx, nil, &c, "/bin/busybox", "dd", "if=/dev/zero", "bs=64k", fmt.Sprintf("count=%d", bulk/(64<<10)))
	if err == nil && c.n != bulk {
		err = fmt.Errorf("%d bytes came, want %d", c.n, bulk)
	}
	return rate(c.n, c.begin), err
}

func (t Target) execIn(ctx context.Context) (float64, error) {
	var got bytes.Buffer
	begin := time.Now()
	err := t.exec(ctx, io.LimitReader(zeros{}, bulk), &got, "/bin/busybox", "sh", "-c", "/bin/busybox dd of=/dev/null bs=64k iflag=fullblock 2>&1")
	if err == nil && !strings.Contains(got.String(), fmt.Sprintf("%d+0 records in", bulk/(64<<10))) {
		err = fmt.Errorf("dd did not get %d bytes: %s", bulk, got.String())
	}
	return rate(bulk, begin), err
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { return len(b), nil }

func (t Target) execEcho(ctx context.Context) (float64, error) {
	in, keys := io.Pipe()
	screen, out := io.Pipe()
	var g errgroup.Group
	g.Go(func() error {
		err := t.exec(ctx, in, out, "/bin/busybox", "cat")
		out.CloseWithError(errors.Join(err, io.ErrUnexpectedEOF))
		in.CloseWithError(io.ErrClosedPipe)
		return err
	})
	v, err := echo(screen, keys)
	keys.Close()
	go io.Copy(io.Discard, screen) //nolint:errcheck // its end
	return v, errors.Join(err, g.Wait())
}

// echo gives the median of the times that a byte takes there and back.
func echo(r io.Reader, w io.Writer) (float64, error) {
	times := make([]float64, 0, echoes)
	b := []byte{'x'}
	for i := range echoes + echoes/10 {
		begin := time.Now()
		if _, err := w.Write(b); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(r, b); err != nil {
			return 0, err
		}
		if i >= echoes/10 { // the first ones warm up
			times = append(times, time.Since(begin).Seconds())
		}
	}
	slices.Sort(times)
	return times[len(times)/2], nil
}

// forward connects to what handle serves on a port of the pod.
func (t Target) forward(ctx context.Context, handle func(*net.TCPConn), use func(data httpstream.Stream) error) error {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	defer l.Close()
	go func() {
		c, err := l.AcceptTCP()
		if err != nil {
			return
		}
		defer c.Close()
		handle(c)
	}()
	port := l.Addr().(*net.TCPAddr).Port
	r, err := t.Runtime.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: t.Sandbox, Port: []int32{int32(port)}})
	if err != nil {
		return err
	}
	u, err := url.Parse(r.Url)
	if err != nil {
		return err
	}
	transport, upgrader, err := spdy.RoundTripperFor(&restclient.Config{Host: u.Host})
	if err != nil {
		return err
	}
	conn, _, err := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u).Dial("portforward.k8s.io")
	if err != nil {
		return err
	}
	defer conn.Close()
	h := http.Header{}
	h.Set("port", fmt.Sprint(port))
	h.Set("requestID", "0")
	h.Set("streamType", "error")
	failed, err := conn.CreateStream(h)
	if err != nil {
		return err
	}
	h.Set("streamType", "data")
	data, err := conn.CreateStream(h)
	if err != nil {
		return err
	}
	if err := use(data); err != nil {
		return err
	}
	_ = data.Close() // it may be closed
	said, _ := io.ReadAll(failed)
	if len(said) > 0 {
		return errors.New(string(said))
	}
	return nil
}

func (t Target) forwardOut(ctx context.Context) (float64, error) {
	var c counter
	err := t.forward(ctx, func(pod *net.TCPConn) {
		_, _ = io.Copy(pod, io.LimitReader(zeros{}, bulk))
	}, func(data httpstream.Stream) error {
		_, err := io.Copy(&c, data)
		return err
	})
	if err == nil && c.n != bulk {
		err = fmt.Errorf("%d bytes came, want %d", c.n, bulk)
	}
	return rate(c.n, c.begin), err
}

func (t Target) forwardIn(ctx context.Context) (float64, error) {
	begin := time.Now()
	err := t.forward(ctx, func(pod *net.TCPConn) {
		n, _ := io.CopyN(io.Discard, pod, bulk) // not to its end: containerd does not pass a half-close on
		fmt.Fprint(pod, n)
	}, func(data httpstream.Stream) error {
		if _, err := io.Copy(data, io.LimitReader(zeros{}, bulk)); err != nil {
			return err
		}
		got, err := io.ReadAll(data)
		if err == nil && string(got) != fmt.Sprint(bulk) {
			err = fmt.Errorf("%s bytes arrived, want %d", got, bulk)
		}
		return err
	})
	return rate(bulk, begin), err
}

func (t Target) forwardEcho(ctx context.Context) (v float64, err error) {
	err = t.forward(ctx, func(pod *net.TCPConn) {
		b := make([]byte, 1)
		for {
			if _, err := pod.Read(b); err != nil {
				return
			}
			if _, err := pod.Write(b); err != nil {
				return
			}
		}
	}, func(data httpstream.Stream) error {
		v, err = echo(data, data)
		return err
	})
	return v, err
}
