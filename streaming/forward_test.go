package streaming

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	//lint:ignore SA1019 client-go gives connections of this package
	"k8s.io/apimachinery/pkg/util/httpstream"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/namespace"
)

// forwarding is a client's connection for any number of streams.
type forwarding struct {
	t    *testing.T
	conn httpstream.Connection

	mu   sync.Mutex
	next int // guarded by mu
}

func forwardTo(t *testing.T, s *Service, pod string) *forwarding {
	t.Helper()
	resp, err := s.PortForward(t.Context(), &runtimeapi.PortForwardRequest{PodSandboxId: pod})
	require.NoError(t, err)
	u, err := url.Parse(resp.Url)
	require.NoError(t, err)
	transport, upgrader, err := spdy.RoundTripperFor(&restclient.Config{Host: u.Host})
	require.NoError(t, err)
	conn, protocol, err := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u).Dial("portforward.k8s.io")
	require.NoError(t, err)
	require.Equal(t, "portforward.k8s.io", protocol)
	t.Cleanup(func() { conn.Close() })
	return &forwarding{t: t, conn: conn}
}

// dial opens a stream to a port; what goes wrong there can be read from errs.
func (f *forwarding) dial(port int) (data, errs httpstream.Stream, err error) {
	f.mu.Lock()
	f.next++
	id := f.next
	f.mu.Unlock()
	h := http.Header{}
	h.Set("requestID", fmt.Sprint(id))
	h.Set("port", fmt.Sprint(port))
	h.Set("streamType", "error")
	if errs, err = f.conn.CreateStream(h); err != nil {
		return nil, nil, err
	}
	_ = errs.Close() // we send nothing
	h.Set("streamType", "data")
	data, err = f.conn.CreateStream(h)
	return data, errs, err
}

// echo serves an echo on localhost, in the network namespace open as ns if there is
// one, and returns its port. Each connection is echoed to its end, then closed.
func echo(t *testing.T, ns *os.File, addr string) int {
	t.Helper()
	return serveTCP(t, ns, addr, func(c *net.TCPConn) {
		_, _ = io.Copy(onlyWriter{c}, onlyReader{c})
		_ = c.CloseWrite()
	})
}

type onlyWriter struct{ io.Writer }

func serveTCP(t *testing.T, ns *os.File, addr string, handle func(*net.TCPConn)) int {
	t.Helper()
	var l net.Listener
	require.NoError(t, namespace.In([]*os.File{ns}, func() (err error) {
		l, err = net.Listen("tcp", net.JoinHostPort(addr, "0"))
		return err
	}))
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				handle(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return l.Addr().(*net.TCPAddr).Port
}

// netns makes a network namespace with loopback, and a file that pins it as pods'
// are pinned.
func netns(t *testing.T) (ns *os.File, path string) {
	t.Helper()
	files, err := namespace.New([]string{"net"}, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		lo, err := unix.NewIfreq("lo")
		if err != nil {
			return err
		}
		lo.SetUint16(unix.IFF_UP)
		return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, lo)
	})
	require.NoError(t, err)
	t.Cleanup(func() { namespace.Close(files...) })
	path = filepath.Join(t.TempDir(), "netns")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, unix.Mount(fmt.Sprintf("/proc/self/fd/%d", files[0].Fd()), path, "", unix.MS_BIND, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(path, unix.MNT_DETACH)) })
	return files[0], path
}

func TestForwardReachesThePodsLocalhost(t *testing.T) {
	ns, path := netns(t)
	ports := []int{echo(t, ns, "127.0.0.1"), echo(t, ns, "::1")}
	s, h := start(t)
	h.network = path
	f := forwardTo(t, s, "pod")
	for _, port := range ports {
		data, errs, err := f.dial(port)
		require.NoError(t, err)
		_, err = io.WriteString(data, "hello")
		require.NoError(t, err)
		require.NoError(t, data.Close(), "half-close: the answer still comes")
		got, err := io.ReadAll(data)
		require.NoError(t, err)
		require.Equal(t, "hello", string(got))
		failure, err := io.ReadAll(errs)
		require.NoError(t, err)
		require.Empty(t, failure)
	}
	f.conn.Close()
}

func TestForwardToThePodOnTheHostsNetwork(t *testing.T) {
	port := echo(t, nil, "127.0.0.1")
	s, _ := start(t)
	f := forwardTo(t, s, "pod")
	data, _, err := f.dial(port)
	require.NoError(t, err)
	_, err = io.WriteString(data, "hello")
	require.NoError(t, err)
	require.NoError(t, data.Close())
	got, err := io.ReadAll(data)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
	f.conn.Close()
}

func TestForwardLetsThePodCloseItsSideFirst(t *testing.T) {
	heard := make(chan string, 1)
	port := serveTCP(t, nil, "127.0.0.1", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "that was all")
		_ = c.CloseWrite()
		b, _ := io.ReadAll(c)
		heard <- string(b)
	})
	s, _ := start(t)
	f := forwardTo(t, s, "pod")
	data, _, err := f.dial(port)
	require.NoError(t, err)
	got, err := io.ReadAll(data)
	require.NoError(t, err)
	require.Equal(t, "that was all", string(got))
	_, err = io.WriteString(data, "but not from me")
	require.NoError(t, err)
	require.NoError(t, data.Close())
	require.Equal(t, "but not from me", <-heard)
	f.conn.Close()
}

func TestForwardSaysWhyItCannotConnect(t *testing.T) {
	_, path := netns(t)
	s, h := start(t)
	h.network = path
	f := forwardTo(t, s, "pod")
	_, errs, err := f.dial(9)
	require.NoError(t, err)
	failure, err := io.ReadAll(errs)
	require.NoError(t, err)
	require.Contains(t, string(failure), "connect to port 9 of the pod")
	require.Contains(t, string(failure), "connection refused")
	// The next one is not harmed.
	h.mu.Lock()
	h.network = path + "-removed"
	h.mu.Unlock()
	_, errs, err = f.dial(9)
	require.NoError(t, err)
	failure, err = io.ReadAll(errs)
	require.NoError(t, err)
	require.Contains(t, string(failure), "no such file")
	f.conn.Close()
}

func TestManyForwardsAtOnceOnSeveralPorts(t *testing.T) {
	ns, path := netns(t)
	ports := []int{echo(t, ns, "127.0.0.1"), echo(t, ns, "::1"), echo(t, ns, "127.0.0.1")}
	s, h := start(t)
	h.network = path
	f := forwardTo(t, s, "pod")
	const n, size = 50, 1 << 20
	ended := make(chan error, n)
	for i := range n {
		go func() {
			ended <- func() error {
				data, _, err := f.dial(ports[i%len(ports)])
				if err != nil {
					return err
				}
				sent, got := sha256.New(), sha256.New()
				var up sync.WaitGroup
				up.Go(func() {
					_, _ = io.Copy(data, io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{byte(i)}), size), sent))
					_ = data.Close()
				})
				_, err = io.Copy(got, data)
				up.Wait()
				if a, b := string(sent.Sum(nil)), string(got.Sum(nil)); err == nil && a != b {
					err = fmt.Errorf("stream %d is harmed", i)
				}
				return err
			}()
		}()
	}
	for range n {
		require.NoError(t, <-ended)
	}
	f.conn.Close()
}

// All that a session has opened is closed with its client's connection: start's
// cleanup looks for goroutines and descriptors that are left.
func TestForwardsEndWithTheirClient(t *testing.T) {
	closed := make(chan struct{}, 3)
	port := serveTCP(t, nil, "127.0.0.1", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "begun")
		_, _ = io.Copy(io.Discard, c)
		closed <- struct{}{}
	})
	s, _ := start(t)
	f := forwardTo(t, s, "pod")
	for range cap(closed) {
		data, _, err := f.dial(port)
		require.NoError(t, err)
		_, err = io.ReadFull(data, make([]byte, len("begun")))
		require.NoError(t, err)
	}
	f.conn.Close()
	for range cap(closed) {
		<-closed
	}
}

func TestForwardsEndWithTheService(t *testing.T) {
	closed := make(chan struct{})
	port := serveTCP(t, nil, "127.0.0.1", func(c *net.TCPConn) {
		_, _ = io.WriteString(c, "begun")
		_, _ = io.Copy(io.Discard, c)
		close(closed)
	})
	s, h := start(t)
	f := forwardTo(t, s, "pod")
	data, _, err := f.dial(port)
	require.NoError(t, err)
	_, err = io.ReadFull(data, make([]byte, len("begun")))
	require.NoError(t, err)
	h.stop()
	<-closed
	<-f.conn.CloseChan()
}

// A dial that is under way ends with its client, too.
func TestDialEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := dial(ctx, "", 9)
	require.ErrorContains(t, err, "operation was canceled")
}
