package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/supervisor"
)

// Two engines on one folder would fight, so a command that wants something removed
// asks the engine that lives, over a unix stream socket at Config.Socket, mode
// 0600, for root alone. One request per connection, each message a JSON object:
//
//	engine > command  {"alive":true}                          at once
//	command > engine  {"op":"remove","pod":"<uuid>"}
//	                  {"op":"gc","gc":{"Grace":…,"MarkOnly":…}}
//	engine > command  {} or {"class":"not-found","error":"…"}, for gc with "collected"
//
// An op that the engine does not know is answered with class not-implemented. The
// work goes on when the command goes away.
const (
	opRemove = "remove"
	opGC     = "gc"
)

type request struct {
	Op  string  `json:"op"`
	Pod ID      `json:"pod,omitempty"`
	GC  *GCSpec `json:"gc,omitempty"`
}

type answer struct {
	Alive     bool       `json:"alive,omitempty"`
	Class     string     `json:"class,omitempty"`
	Error     string     `json:"error,omitempty"`
	Collected *Collected `json:"collected,omitempty"`
}

// controlTime bounds what is no work: the hello and the request.
const controlTime = 10 * time.Second

// serve answers commands until ctx ends.
func (e *Engine) serve(ctx context.Context) error {
	if e.cfg.Socket == "" {
		return nil
	}
	l, err := listen(e.cfg.Socket)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer os.Remove(e.cfg.Socket) // the folder is ours until Run has returned
	defer context.AfterFunc(ctx, func() { l.Close() })()
	defer l.Close()
	for {
		conn, err := l.AcceptUnix()
		switch {
		case err == nil:
			wg.Go(func() { e.serveOne(ctx, conn) })
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		default: // out of descriptors: others may free some
			select {
			case <-ctx.Done():
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

func (e *Engine) serveOne(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if !fromRoot(conn) {
		return
	}
	_ = conn.SetDeadline(time.Now().Add(controlTime))
	out := json.NewEncoder(conn)
	var req request
	if out.Encode(answer{Alive: true}) != nil || json.NewDecoder(conn).Decode(&req) != nil {
		return // it went away
	}
	_ = conn.SetDeadline(time.Time{})
	a := e.do(ctx, &req)
	_ = conn.SetWriteDeadline(time.Now().Add(controlTime))
	if err := out.Encode(a); err != nil {
		klog.FromContext(ctx).Info("A command did not wait for its answer", "op", req.Op, "podID", req.Pod, "reason", err.Error())
	}
}

// do does what a command asks for.
func (e *Engine) do(ctx context.Context, req *request) (a answer) {
	log := klog.FromContext(ctx)
	var err error
	defer func() {
		if p := recover(); p != nil {
			log.Error(nil, "Panic in a command", "op", req.Op, "podID", req.Pod, "panic", fmt.Sprint(p))
			err = fmt.Errorf("panic: %v", p)
		}
		if err != nil {
			a.fail(err)
		}
	}()
	log.Info("An operator's command", "op", req.Op, "podID", req.Pod)
	switch {
	case req.Op == opRemove:
		err = e.RemoveExited(ctx, req.Pod)
	case req.Op == opGC && req.GC != nil:
		var c Collected
		c, err = e.GC(ctx, *req.GC)
		a.Collected = &c
	default:
		err = fmt.Errorf("op %q: %w", req.Op, errdefs.ErrNotImplemented)
	}
	return a
}

// fail and err carry an error with its class, as the supervisor's protocol does.
func (a *answer) fail(err error) {
	var r supervisor.Reply
	r.Fail(err)
	a.Class, a.Error = r.Class, r.Error
}

func (a *answer) err() error { return supervisor.Reply{Class: a.Class, Error: a.Error}.Err() }

func fromRoot(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false
	}
	root := false
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		root = err == nil && cred.Uid == 0
	})
	return err == nil && root
}

// errNoEngine is of a socket behind which nobody listens.
var errNoEngine = fmt.Errorf("no engine listens: %w", errdefs.ErrUnavailable)

// Ask is a command's way to the engine that lives on a node.
type Ask struct {
	Socket string // its Config.Socket
}

// RemoveExited is Engine.RemoveExited of that engine. If none listens the error is
// NoEngine; one that listens and does not answer is context.DeadlineExceeded.
func (a Ask) RemoveExited(ctx context.Context, id ID) error {
	_, err := a.ask(ctx, request{Op: opRemove, Pod: id})
	return err
}

// GC is Engine.GC of that engine; errors as with RemoveExited.
func (a Ask) GC(ctx context.Context, spec GCSpec) (Collected, error) {
	ans, err := a.ask(ctx, request{Op: opGC, GC: &spec})
	if ans.Collected == nil {
		return Collected{}, err
	}
	return *ans.Collected, err
}

// NoEngine says whether an error of Ask means that no engine listens.
func NoEngine(err error) bool { return errors.Is(err, errNoEngine) }

func (a Ask) ask(ctx context.Context, req request) (ans answer, err error) {
	var conn net.Conn
	err = viaFolder(a.Socket, func(path string) (err error) {
		conn, err = (&net.Dialer{Timeout: controlTime}).DialContext(ctx, "unix", path)
		return err
	})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return ans, errNoEngine
	}
	if err != nil {
		return ans, fmt.Errorf("dial the node's engine: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	in := json.NewDecoder(conn)
	_ = conn.SetDeadline(time.Now().Add(controlTime))
	var hello answer
	if err := in.Decode(&hello); err != nil {
		return ans, lost(ctx, "it does not answer", err)
	}
	if err := json.NewEncoder(conn).Encode(req); err != nil {
		return ans, lost(ctx, "it takes no request", err)
	}
	_ = conn.SetDeadline(time.Time{})
	if err := in.Decode(&ans); err != nil {
		return ans, lost(ctx, "it went away", err)
	}
	return ans, ans.err()
}

// lost is the error of a connection on which the engine did not keep to its part.
func lost(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	class := error(errdefs.ErrUnavailable)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		class = context.DeadlineExceeded
	}
	return fmt.Errorf("the node's engine (the kubelet) holds the pods, but %s: %v: %w", what, err, class)
}

// listen makes the socket in place of what an engine that was killed has left.
func listen(socket string) (l *net.UnixListener, err error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	err = viaFolder(socket, func(path string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by a name that holds for a moment only
	return l, os.Chmod(socket, 0o600)
}

// viaFolder calls f with a short name of a socket: an address holds 107 bytes.
func viaFolder(socket string, f func(path string) error) error {
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return err
	}
	defer dir.Close()
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket)))
}
