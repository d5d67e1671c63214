package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
)

// ClientConfig says which program does the work, and how.
type ClientConfig struct {
	// Command is the program and its arguments; its main calls Main.
	Command []string
	// Idle is how long the program is kept without work. Zero means 10 s.
	Idle time.Duration
	// Store and Pull are handed to the program.
	Store store.Config
	Pull  pull.Config
}

// Client does pulls in a child process. Its methods may be called at once.
type Client struct {
	cfg ClientConfig

	mu     sync.Mutex
	proc   *process // guarded by mu; nil when none runs
	starts chan struct{}
	closed bool // guarded by mu
	wg     sync.WaitGroup
}

var errClosed = fmt.Errorf("image worker is closed: %w", errdefs.ErrUnavailable)

// NewClient makes a client; it starts nothing.
func NewClient(cfg ClientConfig) (*Client, error) {
	if len(cfg.Command) == 0 {
		return nil, fmt.Errorf("image worker: the config names no command: %w", errdefs.ErrInvalidArgument)
	}
	if cfg.Idle <= 0 {
		cfg.Idle = 10 * time.Second
	}
	return &Client{cfg: cfg, starts: make(chan struct{}, 1)}, nil
}

// Pull is pull.Engine.Pull in the child.
func (c *Client) Pull(ctx context.Context, req pull.Request, progress pull.Progress) (pull.Result, error) {
	return c.call(ctx, message{Pull: &req}, progress)
}

// Import is pull.Engine.Import in the child; source is what its Parse understands.
func (c *Client) Import(ctx context.Context, source string, names []string, progress pull.Progress) (pull.Result, error) {
	return c.call(ctx, message{Import: &importRequest{Source: source, Names: names}}, progress)
}

// Close ends the child, whose pulls fail, and waits for it.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	p := c.proc
	c.mu.Unlock()
	if p != nil {
		p.hangUp()
	}
	c.wg.Wait()
	return nil
}

func (c *Client) call(ctx context.Context, m message, progress pull.Progress) (pull.Result, error) {
	p, err := c.process(ctx)
	if err != nil {
		return pull.Result{}, err
	}
	defer c.done(p)
	m.Progress = progress != nil
	return p.call(ctx, m, progress)
}

// process gives the running child, or starts it. The caller must call done.
func (c *Client) process(ctx context.Context) (*process, error) {
	for {
		if p, err := c.use(); p != nil || err != nil {
			return p, err
		}
		// Only one caller starts it; nothing is started under the mutex.
		select {
		case c.starts <- struct{}{}:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		p, err := c.use()
		if p == nil && err == nil {
			err = c.start(ctx)
		} else if p != nil {
			c.done(p)
		}
		<-c.starts
		if err != nil {
			return nil, err
		}
	}
}

// use counts one more call on the running child, nil if there is none.
func (c *Client) use() (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errClosed
	}
	if c.proc == nil {
		return nil, nil
	}
	c.proc.calls++
	if c.proc.idle != nil {
		c.proc.idle.Stop()
	}
	return c.proc, nil
}

// done ends one call; after the last one the child may go when it stays idle.
func (c *Client) done(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.calls--; p.calls > 0 || c.proc != p {
		return
	}
	p.idle = time.AfterFunc(c.cfg.Idle, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if p.calls == 0 && c.proc == p {
			c.proc = nil
			p.hangUp()
		}
	})
}

// start runs the child and shakes hands. It replaces c.proc.
func (c *Client) start(ctx context.Context) error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return errClosed
	}
	c.wg.Add(1) // so that Close waits for what is started below
	c.mu.Unlock()
	defer c.wg.Done()
	p, err := c.spawn()
	if err != nil {
		return fmt.Errorf("start image worker: %w", err)
	}
	stop := context.AfterFunc(ctx, p.hangUp)
	err = p.greet(c.cfg)
	if !stop() { // it was the caller who ended it
		err = context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil && c.closed {
		err = errClosed
	}
	if err != nil {
		p.hangUp()
		return fmt.Errorf("start image worker: %w", err)
	}
	c.proc = p
	c.wg.Go(func() {
		p.receive()
		c.mu.Lock()
		if c.proc == p {
			c.proc = nil
		}
		c.mu.Unlock()
	})
	return nil
}

// spawn starts the program with one end of a socket.
func (c *Client) spawn() (*process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "worker")
	defer near.Close()
	defer far.Close()
	conn, err := net.FileConn(near)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	p := newProcess(conn)
	cmd := exec.Command(c.cfg.Command[0], c.cfg.Command[1:]...)
	cmd.ExtraFiles = []*os.File{far} // as socketFD
	cmd.Stderr = &p.stderr
	cmd.WaitDelay = patience // should it leave its stderr to another process
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	c.wg.Go(func() {
		// The kernel takes the end of the starting thread for the parent's death.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		p.kill = cmd.Process.Kill
		started <- err
		if err == nil {
			p.exited(cmd.Wait())
		}
	})
	if err := <-started; err != nil {
		conn.Close()
		return nil, err
	}
	return p, nil
}

// process is one run of the child.
type process struct {
	conn   net.Conn
	stderr tail
	ended  chan struct{} // closed when the child has exited
	status error         // how; set before ended is closed

	kill  func() error // set before anybody but spawn sees the process
	hung  sync.Once
	calls int         // guarded by Client.mu
	idle  *time.Timer // guarded by Client.mu

	dec    *json.Decoder
	sendMu sync.Mutex
	enc    *json.Encoder // guarded by sendMu

	mu   sync.Mutex
	next uint64              // guarded by mu
	open map[uint64]*request // guarded by mu; nil when nothing more will come
}

type request struct {
	progress pull.Progress
	answer   chan message // takes one
}

func newProcess(conn net.Conn) *process {
	return &process{conn: conn, ended: make(chan struct{}), dec: json.NewDecoder(conn), enc: json.NewEncoder(conn), open: map[uint64]*request{}}
}

// patience is how long a child may take to end after the socket is closed.
const patience = 10 * time.Second

// hangUp tells the child to end, and sees to it.
func (p *process) hangUp() {
	p.hung.Do(func() {
		p.conn.Close()
		time.AfterFunc(patience, func() {
			p.kill() //nolint:errcheck // it has ended already, most of the time
		})
	})
}

func (p *process) exited(err error) {
	p.status = err
	close(p.ended)
	p.hangUp()
}

func (p *process) greet(cfg ClientConfig) error {
	var m message
	err := p.send(message{Hello: &hello{Version: version, Store: cfg.Store, Pull: cfg.Pull}})
	if err == nil {
		err = p.dec.Decode(&m)
	}
	switch {
	case err != nil:
		return p.died()
	case m.Error != nil:
		return m.Error
	case m.Hello == nil || m.Hello.Version != version:
		return fmt.Errorf("the program is of another version: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

func (p *process) send(m message) error {
	p.sendMu.Lock()
	defer p.sendMu.Unlock()
	return p.enc.Encode(m)
}

// receive hands answers out until the child ends; then all open calls fail.
func (p *process) receive() {
	for {
		var m message
		if err := p.dec.Decode(&m); err != nil {
			break
		}
		p.mu.Lock()
		r := p.open[m.ID]
		p.mu.Unlock()
		switch {
		case r == nil: // given up
		case m.Event != nil:
			if r.progress != nil {
				r.progress(*m.Event)
			}
		default:
			r.answer <- m
			p.forget(m.ID)
		}
	}
	p.hangUp()
	p.mu.Lock()
	open := p.open
	p.open = nil
	p.mu.Unlock()
	for _, r := range open {
		close(r.answer)
	}
}

func (p *process) forget(id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.open, id)
}

func (p *process) call(ctx context.Context, m message, progress pull.Progress) (pull.Result, error) {
	r := &request{progress: progress, answer: make(chan message, 1)}
	p.mu.Lock()
	if p.open == nil {
		p.mu.Unlock()
		return pull.Result{}, p.died()
	}
	p.next++
	m.ID = p.next
	p.open[m.ID] = r
	p.mu.Unlock()
	if err := p.send(m); err != nil {
		p.hangUp() // receive ends, and answers
	}
	select {
	case answer, ok := <-r.answer:
		switch {
		case !ok:
			return pull.Result{}, p.died()
		case answer.Error != nil:
			return pull.Result{}, answer.Error
		case answer.Result == nil:
			return pull.Result{}, errors.New("image worker: an answer without a result")
		}
		return *answer.Result, nil
	case <-ctx.Done():
		p.forget(m.ID)
		p.send(message{ID: m.ID, Cancel: true}) //nolint:errcheck // if it is gone, so is the pull
		return pull.Result{}, context.Cause(ctx)
	}
}

// died says how the child ended, waiting for it: its socket is closed.
func (p *process) died() error {
	p.hangUp()
	<-p.ended
	how := "it exited"
	if p.status != nil {
		how = p.status.Error()
	}
	if last := p.stderr.String(); last != "" {
		how += ": " + last
	}
	return fmt.Errorf("image worker ended: %s", how)
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

const tailSize = 2048

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = t.buf[over:]
	}
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
