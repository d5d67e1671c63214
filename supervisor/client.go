package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// Client is one connection to a pod's supervisor. Its methods are safe for
// concurrent use. Once the supervisor has gone, or the client was closed, each
// returns an error of class Unavailable; dial again to tell the two cases apart.
//
// A method whose ctx ends first tells the supervisor to give the request up and
// returns ctx's error; whether it took effect is then unknown.
type Client struct {
	conn  *Conn
	hello Hello
	ended chan struct{} // closed when the reading goroutine has ended

	mu      sync.Mutex
	nextID  uint64                // guarded by mu
	open    map[uint64]chan reply // guarded by mu; nil once the connection has ended
	events  []Event               // guarded by mu; not yet taken by Next
	arrived chan struct{}         // holds one token when events is not empty
}

// reply is a Reply with the file that came along, which the receiver owns.
type reply struct {
	Reply
	file *os.File
}

// Hello is what the supervisor says of itself and of its pod.
type Hello struct {
	Version int    // of the protocol, that both sides use
	Pod     string // uuid
	Flavor  string
	PID     int // of the supervisor
}

// Dial connects to the supervisor whose run folder is runDir and waits until its
// pod is booted. If the boot failed, that is the error, of the class that the
// isolator gave it, and the supervisor exits. If nobody listens, the class is
// Unavailable. name tells the supervisor's log who asks.
//
// Dial starts one goroutine, which Close ends and waits for.
func Dial(ctx context.Context, runDir, name string) (*Client, error) {
	conn, err := connect(filepath.Join(runDir, SocketName))
	if err != nil {
		return nil, err
	}
	c := &Client{
		conn:    conn,
		ended:   make(chan struct{}),
		open:    map[uint64]chan reply{},
		arrived: make(chan struct{}, 1),
	}
	go c.read()
	r, err := c.call(ctx, Request{Op: OpHello, Min: VersionMin, Max: VersionMax, Client: name})
	if err != nil {
		c.Close()
		return nil, err
	}
	if r.Version < VersionMin || r.Version > VersionMax {
		c.Close()
		return nil, fmt.Errorf("supervisor speaks protocol version %d, this program %d to %d: %w",
			r.Version, VersionMin, VersionMax, errdefs.ErrFailedPrecondition)
	}
	c.hello = Hello{Version: r.Version, Pod: r.Pod, Flavor: r.Flavor, PID: r.PID}
	return c, nil
}

// Hello returns what the supervisor said when it was dialled.
func (c *Client) Hello() Hello { return c.hello }

// Close ends the connection. The supervisor kills execs and attaches that were
// started by it; apps go on.
func (c *Client) Close() error {
	err := c.conn.Close()
	<-c.ended
	return err
}

// Gone is closed when the connection has ended, from either side.
func (c *Client) Gone() <-chan struct{} { return c.ended }

// CreateApp has the OCI runtime create the app; it does not run yet. It returns
// the pid of its first process on the host. A name in use is AlreadyExists. After
// an error nothing of the app is left.
func (c *Client) CreateApp(ctx context.Context, app AppSpec) (pid int, err error) {
	r, err := c.call(ctx, Request{Op: OpCreateApp, App: &app})
	return r.PID, err
}

// StartApp runs a created app and returns when that was, by the wall clock.
// Starting one that runs already returns the same again; one that has exited is
// FailedPrecondition.
func (c *Client) StartApp(ctx context.Context, name string) (time.Time, error) {
	r, err := c.call(ctx, Request{Op: OpStartApp, Name: name})
	return r.StartedAt, err
}

// SignalApp sends a signal to the app's first process. An exited app is NotFound.
func (c *Client) SignalApp(ctx context.Context, name string, signal int) error {
	_, err := c.call(ctx, Request{Op: OpSignalApp, Name: name, Signal: signal})
	return err
}

// StopApp sends signal to the app's first process, waits up to grace, then kills
// the app's cgroup. It returns once the exit is on disk. Stopping an exited app
// returns its exit again; a second stop with a shorter grace shortens the first.
func (c *Client) StopApp(ctx context.Context, name string, signal int, grace time.Duration) (Exit, error) {
	r, err := c.call(ctx, Request{Op: OpStopApp, Name: name, Signal: signal, Grace: grace})
	return r.exit(), err
}

// RemoveApp makes the supervisor forget an app that has exited, or kills one that
// was created and never started, and removes its cgroup and its container from the
// OCI runtime. A running app is FailedPrecondition, an unknown one no error.
func (c *Client) RemoveApp(ctx context.Context, name string) error {
	_, err := c.call(ctx, Request{Op: OpRemoveApp, Name: name})
	return err
}

// UpdateApp applies resources, the JSON of linux.resources in the OCI spec.
func (c *Client) UpdateApp(ctx context.Context, name string, resources []byte) error {
	f, err := memFile("resources", resources)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = c.call(ctx, Request{Op: OpUpdateApp, Name: name}, f)
	return err
}

// ResizeApp sets the size of the terminal of an app with TTY.
func (c *Client) ResizeApp(ctx context.Context, name string, rows, cols int) error {
	_, err := c.call(ctx, Request{Op: OpResize, Name: name, Rows: rows, Cols: cols})
	return err
}

// ReopenLog makes the supervisor open the app's log path anew and write there from
// now on; if that fails, it writes on into the old file, and nothing was created.
func (c *Client) ReopenLog(ctx context.Context, name string) error {
	_, err := c.call(ctx, Request{Op: OpReopenLog, Name: name})
	return err
}

// Attach copies the app's output to stdout and stderr, from now on, and stdin to
// the app, until the app has exited and all was written, or ctx ends. A nil file
// is left out; an app with a TTY has all its output on stdout. The files are pipe
// or socket ends and stay the caller's; the supervisor holds copies until the end.
//
// A reader that does not keep up loses output, and is told in its place how much;
// the app never waits.
func (c *Client) Attach(ctx context.Context, name string, stdin, stdout, stderr *os.File) error {
	wait, err := c.BeginAttach(name, stdin, stdout, stderr)
	if err != nil {
		return err
	}
	return wait(ctx)
}

// BeginAttach is Attach for callers who close their copies of the files once the
// supervisor has its own, which is when it returns. wait must be called.
func (c *Client) BeginAttach(name string, stdin, stdout, stderr *os.File) (wait func(context.Context) error, err error) {
	files, done, err := orNull(stdin, stdout, stderr)
	if err != nil {
		return nil, err
	}
	defer done()
	if stdin == nil {
		files = files[1:]
	}
	id, answers, err := c.send(Request{Op: OpAttach, Name: name, Stdin: stdin != nil}, files...)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		_, err := c.await(ctx, id, answers)
		return err
	}, nil
}

// Status returns a snapshot of the pod.
func (c *Client) Status(ctx context.Context) (Status, error) {
	r, err := c.call(ctx, Request{Op: OpStatus})
	if err == nil && r.Status == nil {
		err = errNoMember("status")
	}
	if err != nil {
		return Status{}, err
	}
	return *r.Status, nil
}

// Subscribe asks for events: those kept with a Seq above after, then new ones.
// Next returns them. Subscribing again moves nothing.
func (c *Client) Subscribe(ctx context.Context, after uint64) error {
	_, err := c.call(ctx, Request{Op: OpSubscribe, Seq: after})
	return err
}

// Next blocks until an event has come and returns it; in order, each once.
func (c *Client) Next(ctx context.Context) (Event, error) {
	for {
		if ev, ok := c.take(); ok {
			return ev, nil
		}
		select {
		case <-c.arrived:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		case <-c.ended:
			if ev, ok := c.take(); ok {
				return ev, nil
			}
			return Event{}, errGone
		}
	}
}

func (c *Client) take() (Event, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.events) == 0 {
		return Event{}, false
	}
	ev := c.events[0]
	c.events = c.events[1:]
	return ev, true
}

// Ack tells the supervisor that all events up to seq have been dealt with for
// good; it forgets them.
func (c *Client) Ack(ctx context.Context, seq uint64) error {
	_, err := c.call(ctx, Request{Op: OpAck, Seq: seq})
	return err
}

// Shutdown kills all apps, waits until their exits are on disk, and stops the
// instance. When it has returned nil, the supervisor exits and frees the lock on
// the pod's folder. Events not yet acknowledged are on disk as exit records.
func (c *Client) Shutdown(ctx context.Context) error {
	_, err := c.call(ctx, Request{Op: OpShutdown})
	return err
}

var errGone = fmt.Errorf("supervisor has gone: %w", errdefs.ErrUnavailable)

func errNoMember(name string) error {
	return fmt.Errorf("supervisor's answer has no %s", name)
}

func (r reply) exit() Exit {
	if r.Exit == nil {
		return Exit{}
	}
	return *r.Exit
}

// call sends one request and waits for its answer.
func (c *Client) call(ctx context.Context, req Request, files ...*os.File) (reply, error) {
	id, answers, err := c.send(req, files...)
	if err != nil {
		return reply{}, err
	}
	return c.await(ctx, id, answers)
}

// send registers and sends one request.
func (c *Client) send(req Request, files ...*os.File) (uint64, chan reply, error) {
	answers := make(chan reply, 2) // an exec is answered twice
	c.mu.Lock()
	if c.open == nil {
		c.mu.Unlock()
		return 0, nil, errGone
	}
	c.nextID++
	req.ID = c.nextID
	c.open[req.ID] = answers
	c.mu.Unlock()
	if err := c.conn.Send(req.Encode(), files...); err != nil {
		c.forget(req.ID)
		if errors.Is(err, errdefs.ErrInvalidArgument) {
			return 0, nil, err
		}
		return 0, nil, fmt.Errorf("%w: %w", err, errdefs.ErrUnavailable)
	}
	return req.ID, answers, nil
}

// await waits for one answer to a request. The request stays open if it was the
// first of an exec's two.
func (c *Client) await(ctx context.Context, id uint64, answers chan reply) (reply, error) {
	select {
	case r, ok := <-answers:
		if !ok {
			return reply{}, errGone
		}
		return r, r.Err()
	case <-ctx.Done():
		c.forget(id)
		for r := range drain(answers) {
			CloseAll([]*os.File{r.file})
		}
		_ = c.conn.Send(Request{ID: c.freshID(), Op: OpCancel, Target: id}.Encode()) // the answer finds nobody
		return reply{}, ctx.Err()
	}
}

// drain yields what lies in the channel already.
func drain(answers chan reply) func(func(reply) bool) {
	return func(yield func(reply) bool) {
		for {
			select {
			case r, ok := <-answers:
				if !ok || !yield(r) {
					return
				}
			default:
				return
			}
		}
	}
}

func (c *Client) freshID() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nextID++
	return c.nextID
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, id)
}

// read dispatches what the supervisor sends, until the connection ends.
func (c *Client) read() {
	defer close(c.ended)
	for {
		packet, files, err := c.conn.Recv()
		if err != nil {
			break // io.EOF, or a peer that does not speak the protocol
		}
		r, err := DecodeReply(packet)
		if err != nil {
			CloseAll(files)
			break
		}
		c.dispatch(r, files)
	}
	_ = c.conn.Close()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, answers := range c.open {
		close(answers)
	}
	c.open = nil
}

func (c *Client) dispatch(r Reply, files []*os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.Event != nil {
		c.events = append(c.events, *r.Event)
		select {
		case c.arrived <- struct{}{}:
		default:
		}
	}
	answers := c.open[r.ID]
	if answers == nil { // an event, or the answer to a request given up
		CloseAll(files)
		return
	}
	rep := reply{Reply: r}
	if len(files) > 0 {
		rep.file = files[0]
		CloseAll(files[1:])
	}
	started := r.Session != 0 && r.Exit == nil && r.Error == ""
	if !started {
		delete(c.open, r.ID)
	}
	select {
	case answers <- rep:
	default: // more answers than the protocol has
		CloseAll([]*os.File{rep.file})
	}
}

// orNull replaces nil files by /dev/null; done closes what it opened.
func orNull(files ...*os.File) (_ []*os.File, done func(), err error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, nil, err
	}
	for i, f := range files {
		if f == nil {
			files[i] = null
		}
	}
	return files, func() { null.Close() }, nil
}
