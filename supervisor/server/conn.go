package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/supervisor"
)

// runtimeTime bounds one call of the OCI runtime that its asker cannot end.
const runtimeTime = 2 * time.Minute

// accept waits for one connection on a non-blocking listening socket.
func accept(l *os.File) (fd int, err error) {
	conn, err := l.SyscallConn()
	if err != nil {
		return -1, err
	}
	var aerr error
	err = conn.Read(func(lfd uintptr) bool {
		fd, _, aerr = unix.Accept4(int(lfd), unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		return !errors.Is(aerr, unix.EAGAIN)
	})
	if err == nil {
		err = aerr
	}
	return fd, err
}

// accept serves connections until the listener is closed, and waits for them.
func (s *Server) accept(ctx context.Context, l *os.File) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for {
		fd, err := accept(l)
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			continue
		case err != nil: // out of descriptors or memory: others may free some
			s.log.warn("Connection not accepted", err)
			if !pause(ctx, 100*time.Millisecond) {
				return
			}
			continue
		}
		wg.Go(func() { s.serve(ctx, fd) })
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// conn is one connection of an engine or an operator's command.
type conn struct {
	s      *Server
	sock   *supervisor.Conn
	hailed bool // hello was answered; only the reading goroutine uses it
	subbed bool // likewise

	mu     sync.Mutex
	cancel map[uint64]context.CancelFunc // guarded by mu; requests under way
	wg     sync.WaitGroup
}

// serve handles one connection until its end; requests still under way are then
// cancelled and waited for.
func (s *Server) serve(ctx context.Context, fd int) {
	cred, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil || cred.Uid != 0 {
		unix.Close(fd)
		return
	}
	c := &conn{s: s, sock: supervisor.NewConn(fd), cancel: map[uint64]context.CancelFunc{}}
	ctx, cancel := context.WithCancel(ctx)
	defer c.wg.Wait()
	defer cancel()
	defer context.AfterFunc(ctx, func() { c.sock.Close() })()
	defer c.sock.Close()
	for {
		packet, files, err := c.sock.Recv()
		if err != nil {
			return
		}
		req, err := supervisor.DecodeRequest(packet)
		if err != nil || req.ID == 0 {
			supervisor.CloseAll(files)
			s.log.warn("Connection ended: not the protocol", err)
			return
		}
		c.take(ctx, req, files)
	}
}

// take begins a request. Those that only touch memory are answered in place, so
// that their order is the order of the answers.
func (c *conn) take(ctx context.Context, req supervisor.Request, files []*os.File) {
	switch {
	case req.Op == supervisor.OpHello:
		c.hailed = true
	case !c.hailed:
		supervisor.CloseAll(files)
		c.answer(req, supervisor.Reply{}, fmt.Errorf("%s before hello: %w", req.Op, errdefs.ErrFailedPrecondition))
		return
	case req.Op == supervisor.OpCancel:
		c.mu.Lock()
		if cancel := c.cancel[req.Target]; cancel != nil {
			cancel()
		}
		c.mu.Unlock()
		supervisor.CloseAll(files)
		c.answer(req, supervisor.Reply{}, nil)
		return
	case req.Op == supervisor.OpSubscribe:
		supervisor.CloseAll(files)
		c.answer(req, supervisor.Reply{}, nil)
		if !c.subbed {
			c.subbed = true
			c.wg.Go(func() { c.deliver(ctx, req.Seq) })
		}
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	c.cancel[req.ID] = cancel
	c.mu.Unlock()
	c.wg.Go(func() {
		defer supervisor.CloseAll(files)
		r, err := c.handle(ctx, req, files)
		c.mu.Lock()
		delete(c.cancel, req.ID)
		c.mu.Unlock()
		cancel()
		c.answer(req, r, err)
		switch { // only now, so that the answer is out
		case req.Op == supervisor.OpShutdown && err == nil:
			c.s.finish()
		case req.Op == supervisor.OpHello && c.s.bootFailed():
			c.s.tellOnce.Do(func() { close(c.s.told) })
		}
		c.s.quiet.touch()
	})
}

func (c *conn) answer(req supervisor.Request, r supervisor.Reply, err error, files ...*os.File) {
	r.ID = req.ID
	if err != nil {
		r.Fail(err)
	}
	if err := c.sock.Send(r.Encode(), files...); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, unix.EPIPE) {
		c.s.log.warn("Answer not sent", err, "op", req.Op)
	}
}

// deliver sends events until the connection ends.
func (c *conn) deliver(ctx context.Context, after uint64) {
	for {
		events, changed := c.s.events.after(after)
		for _, ev := range events {
			if err := c.sock.Send(supervisor.Reply{Event: &ev}.Encode()); err != nil {
				return
			}
			after = ev.Seq
		}
		if len(events) > 0 {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// handle does one request.
func (c *conn) handle(ctx context.Context, req supervisor.Request, files []*os.File) (r supervisor.Reply, err error) {
	s := c.s
	if req.Op == supervisor.OpHello {
		return s.hello(ctx, req)
	}
	steady, cancel := context.WithTimeout(context.WithoutCancel(ctx), runtimeTime)
	defer cancel()
	switch req.Op {
	case supervisor.OpStatus:
		st := s.status()
		r.Status = &st
		return r, nil
	case supervisor.OpAck:
		s.events.ack(req.Seq)
		return r, nil
	case supervisor.OpCreateApp:
		return s.handleCreate(ctx, req)
	case supervisor.OpRemoveApp:
		return r, s.removeApp(steady, req.Name)
	case supervisor.OpShutdown:
		return r, s.shutdown(steady)
	case supervisor.OpResize:
		if req.Session != 0 {
			return r, s.resizeExec(req)
		}
	case supervisor.OpStartApp, supervisor.OpSignalApp, supervisor.OpStopApp, supervisor.OpUpdateApp,
		supervisor.OpExec, supervisor.OpAttach, supervisor.OpReopenLog:
	default:
		return r, fmt.Errorf("op %q: this supervisor does not know it: %w", req.Op, errdefs.ErrNotImplemented)
	}
	a := s.findApp(req.Name)
	if a == nil {
		return r, fmt.Errorf("app %q: %w", req.Name, errdefs.ErrNotFound)
	}
	switch req.Op {
	case supervisor.OpStartApp:
		r.StartedAt, err = s.startApp(steady, a)
	case supervisor.OpSignalApp:
		err = a.proc.Signal(syscall.Signal(req.Signal))
	case supervisor.OpStopApp:
		var exit supervisor.Exit
		if exit, err = s.stopApp(ctx, a, syscall.Signal(req.Signal), req.Grace); err == nil {
			r.Exit = &exit
		}
	case supervisor.OpUpdateApp:
		if err = wantFiles(req, files, 1); err == nil {
			err = s.updateApp(steady, a, files[0])
		}
	case supervisor.OpExec:
		return c.handleExec(ctx, req, a, files)
	case supervisor.OpAttach:
		err = s.attach(ctx, a, req, files)
	case supervisor.OpReopenLog:
		err = a.reopenLog()
	case supervisor.OpResize:
		err = a.resize(req.Rows, req.Cols)
	}
	return r, err
}

// bootFailed says whether the boot has ended with an error.
func (s *Server) bootFailed() bool {
	select {
	case <-s.booted:
		return s.bootErr != nil
	default:
		return false
	}
}

// hello waits for the boot and agrees on a version.
func (s *Server) hello(ctx context.Context, req supervisor.Request) (r supervisor.Reply, err error) {
	select {
	case <-s.booted:
	case <-ctx.Done():
		return r, ctx.Err()
	}
	if s.bootErr != nil {
		return r, s.bootErr
	}
	version := min(req.Max, supervisor.VersionMax)
	if version < max(req.Min, supervisor.VersionMin) {
		return r, fmt.Errorf("protocol versions %d to %d are asked for, this supervisor speaks %d to %d: %w",
			req.Min, req.Max, supervisor.VersionMin, supervisor.VersionMax, errdefs.ErrFailedPrecondition)
	}
	return supervisor.Reply{Version: version, Pod: s.spec.Stage1.ID, Flavor: s.spec.Flavor, PID: os.Getpid()}, nil
}

func (s *Server) handleCreate(ctx context.Context, req supervisor.Request) (r supervisor.Reply, err error) {
	if req.App == nil {
		return r, fmt.Errorf("create-app: app is missing: %w", errdefs.ErrInvalidArgument)
	}
	ctx, cancel := context.WithTimeout(ctx, runtimeTime)
	defer cancel()
	a, err := s.createApp(ctx, *req.App)
	if err != nil {
		return r, err
	}
	r.PID = a.proc.PID()
	return r, nil
}

func wantFiles(req supervisor.Request, files []*os.File, n int) error {
	if len(files) != n {
		return fmt.Errorf("%s: %d files came along, want %d: %w", req.Op, len(files), n, errdefs.ErrInvalidArgument)
	}
	return nil
}

// handleExec answers twice: when the exec has started, and by its result when it
// has ended.
func (c *conn) handleExec(ctx context.Context, req supervisor.Request, a *app, files []*os.File) (r supervisor.Reply, err error) {
	want := 4
	if req.TTY {
		want = 1
	}
	if err := wantFiles(req, files, want); err != nil {
		return r, err
	}
	sctx, cancel := context.WithTimeout(ctx, runtimeTime)
	defer cancel()
	sess, master, err := c.s.startExec(sctx, a, req.TTY, files)
	if err != nil {
		return r, err
	}
	supervisor.CloseAll(files) // else the asker would never see the ends of its streams
	c.s.addSession(sess)
	defer c.s.dropSession(sess)
	started := supervisor.Reply{Session: sess.id}
	if master != nil {
		c.answer(req, started, nil, master)
		master.Close()
	} else {
		c.answer(req, started, nil)
	}
	exit := c.s.waitExec(ctx, sess, req.Timeout)
	r.Exit = &exit
	return r, nil
}

func (s *Server) addSession(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.nextSess++
	sess.id = s.nextSess
	s.sessions[sess.id] = sess
}

func (s *Server) dropSession(sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, sess.id)
}

func (s *Server) resizeExec(req supervisor.Request) error {
	s.mu.Lock()
	sess := s.sessions[req.Session]
	s.mu.Unlock()
	if sess == nil {
		return fmt.Errorf("resize exec %d: %w", req.Session, errdefs.ErrNotFound)
	}
	if sess.tty == nil {
		return fmt.Errorf("resize exec %d: it has no terminal: %w", req.Session, errdefs.ErrFailedPrecondition)
	}
	return setSize(sess.tty, req.Rows, req.Cols)
}
