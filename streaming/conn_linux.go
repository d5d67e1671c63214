package streaming

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// drainTime is how long an ended session waits for its client to close its side.
const drainTime = time.Second

// listener accepts connections on loopback and knows of each whether its client is
// still there.
type listener struct {
	*net.TCPListener
	alive  net.KeepAliveConfig
	hangup *hangups
	conns  sync.WaitGroup // those that are open

	mu   sync.Mutex
	open map[*conn]bool // guarded by mu
}

func newListener(alive net.KeepAliveConfig) (*listener, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, err
	}
	h, err := newHangups()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &listener{TCPListener: l, alive: alive, hangup: h, open: map[*conn]bool{}}, nil
}

// watch reports clients that have gone until the listener is closed.
func (l *listener) watch() error { return l.hangup.run() }

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	t, err := l.AcceptTCP()
	if err != nil {
		return nil, err
	}
	c := &conn{TCPConn: t, l: l, gone: make(chan struct{}), frames: frames{to: t}}
	l.conns.Add(1)
	l.mu.Lock()
	l.open[c] = true
	l.mu.Unlock()
	if err := errors.Join(t.SetKeepAliveConfig(l.alive), l.hangup.add(c)); err != nil {
		c.abort() // the server finds it closed
	}
	return c, nil
}

// Close implements net.Listener. It may be called again.
func (l *listener) Close() error {
	err := l.TCPListener.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	return errors.Join(err, l.hangup.close())
}

// abortAll ends all connections at once.
func (l *listener) abortAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.open {
		c.abort()
	}
}

// conn is one connection of a client.
type conn struct {
	*net.TCPConn
	l  *listener
	fd int32 // hangups' own

	lost sync.Once
	gone chan struct{} // closed when the client has gone

	hijacked atomic.Bool
	spdy     atomic.Bool // it speaks SPDY once it is hijacked
	frames   frames      // of whoever writes SPDY; that is one at a time
	closing  sync.Once
}

// spdyUpgrade is what a client that wants SPDY asks for.
const spdyUpgrade = "SPDY/3.1"

type connKey struct{}

// withConn and noteHijack are for http.Server.
func withConn(ctx context.Context, nc net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, nc)
}

func noteHijack(nc net.Conn, state http.ConnState) {
	if c, ok := nc.(*conn); ok && state == http.StateHijacked {
		c.hijacked.Store(true)
	}
}

// lose says that the client has gone.
func (c *conn) lose() { c.lost.Do(func() { close(c.gone) }) }

// Read implements net.Conn, and notices the end of what the client sends: one that
// has closed its side has no more to say in any of the protocols.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if err != nil && c.hijacked.Load() { // before that it may be http.Server's own deadline
		c.lose()
	}
	return n, err
}

// Write implements net.Conn. SPDY goes out in whole frames.
func (c *conn) Write(b []byte) (int, error) {
	if c.hijacked.Load() && c.spdy.Load() {
		return c.frames.Write(b)
	}
	return c.TCPConn.Write(b)
}

// abort closes the connection at once and so wakes up all who read or write. Close
// is still to be called.
func (c *conn) abort() {
	c.lose()
	c.l.hangup.remove(c)
	_ = c.TCPConn.Close() // it may be closed
}

// Close implements net.Conn. A session's connection is closed for writing, then what
// the client has sent meanwhile is taken until it has closed its side too: to close
// with something unread would reset the connection, and the kubelet's proxy then
// drops what it still has for the client, be it an exit code.
func (c *conn) Close() error {
	c.closing.Do(func() {
		if c.hijacked.Load() {
			c.drain()
		}
		c.abort()
		c.l.mu.Lock()
		delete(c.l.open, c)
		c.l.mu.Unlock()
		c.l.conns.Done()
	})
	return nil
}

func (c *conn) drain() {
	select {
	case <-c.gone:
		return
	default:
	}
	if c.CloseWrite() != nil {
		return
	}
	_ = c.SetReadDeadline(time.Now().Add(drainTime))
	_, _ = io.Copy(io.Discard, onlyReader{c.TCPConn}) // the end, the deadline, or a reset: all the same
}

// onlyReader hides WriteTo, which would splice.
type onlyReader struct{ io.Reader }
