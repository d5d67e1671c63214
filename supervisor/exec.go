package supervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ExecSpec asks for one process in a running app's namespaces and cgroup.
type ExecSpec struct {
	App     string
	Process []byte        // the JSON of process in the OCI spec
	TTY     bool          // Process has terminal set
	Timeout time.Duration // then the whole process tree is killed; 0 means none
}

// Session is one exec under way.
type Session struct {
	// Terminal is the master side of the exec's terminal if it has one, else nil.
	// It is the caller's to close.
	Terminal *os.File

	c       *Client
	id      uint64 // of the request
	session uint64
	answers chan reply
}

// Exec starts a process in an app. Without TTY it gets the three files, nil ones
// as /dev/null; they stay the caller's, who closes its copies to see their ends.
// It belongs to the connection: Close kills it. An app that does not run is
// FailedPrecondition, a command that cannot be started is NotFound or what the OCI
// runtime said.
func (c *Client) Exec(ctx context.Context, spec ExecSpec, stdin, stdout, stderr *os.File) (*Session, error) {
	process, err := memFile("process", spec.Process)
	if err != nil {
		return nil, err
	}
	defer process.Close()
	files := []*os.File{process}
	if !spec.TTY {
		stdio, done, err := orNull(stdin, stdout, stderr)
		if err != nil {
			return nil, err
		}
		defer done()
		files = append(files, stdio...)
	}
	id, answers, err := c.send(Request{Op: OpExec, Name: spec.App, TTY: spec.TTY, Timeout: spec.Timeout}, files...)
	if err != nil {
		return nil, err
	}
	r, err := c.await(ctx, id, answers)
	if err != nil {
		CloseAll([]*os.File{r.file})
		return nil, err
	}
	return &Session{Terminal: r.file, c: c, id: id, session: r.Session, answers: answers}, nil
}

// Wait blocks until the process has ended and returns how; call it once. When ctx
// ends first, the whole process tree is killed. An exec that was killed at its
// Timeout has Exit.TimedOut set; that is no error here.
func (s *Session) Wait(ctx context.Context) (Exit, error) {
	r, err := s.c.await(ctx, s.id, s.answers)
	return r.exit(), err
}

// Resize sets the size of the exec's terminal.
func (s *Session) Resize(ctx context.Context, rows, cols int) error {
	_, err := s.c.call(ctx, Request{Op: OpResize, Session: s.session, Rows: rows, Cols: cols})
	return err
}

// ExecOutput is what ExecSync gives back.
type ExecOutput struct {
	Stdout, Stderr []byte
	Exit           Exit
}

// ExecSync runs a process in an app to its end and returns its output, at most
// limit bytes per stream, the rest is read and dropped. At the timeout the whole
// process tree is killed and the error is context.DeadlineExceeded, with the
// output so far. A process that the command leaves behind in the background is not
// waited for and not killed: postStart hooks start such.
func (c *Client) ExecSync(ctx context.Context, spec ExecSpec, limit int) (out ExecOutput, err error) {
	if spec.TTY {
		return out, fmt.Errorf("exec in app %s: a terminal is for interactive sessions: %w", spec.App, errdefs.ErrInvalidArgument)
	}
	stdout, outEnd, err := newCapture(limit)
	if err != nil {
		return out, err
	}
	stderr, errEnd, err := newCapture(limit)
	if err != nil {
		outEnd.Close()
		stdout.finish()
		return out, err
	}
	s, err := c.Exec(ctx, spec, nil, outEnd, errEnd)
	outEnd.Close()
	errEnd.Close()
	if err == nil {
		out.Exit, err = s.Wait(ctx)
	}
	out.Stdout, out.Stderr = stdout.finish(), stderr.finish()
	if err == nil && out.Exit.TimedOut {
		err = fmt.Errorf("exec in app %s: timed out after %v: %w", spec.App, spec.Timeout, context.DeadlineExceeded)
	}
	return out, err
}

// capture reads one stream of an exec into memory while the exec runs.
type capture struct {
	f     *os.File
	limit int
	done  sync.WaitGroup
	buf   []byte // the reading goroutine's until done
}

func newCapture(limit int) (*capture, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	c := &capture{f: r, limit: limit}
	c.done.Go(func() { c.read() })
	return c, w, nil
}

// read ends at the end of the stream or at the deadline set by finish.
func (c *capture) read() {
	chunk := make([]byte, 4096)
	for {
		n, err := c.f.Read(chunk)
		c.keep(chunk[:n])
		if err != nil {
			return
		}
		if n == len(chunk) && n < 64<<10 {
			chunk = make([]byte, 4*n)
		}
	}
}

func (c *capture) keep(b []byte) {
	c.buf = append(c.buf, b[:min(len(b), c.limit-len(c.buf))]...)
}

// finish returns what was read. The process has ended, so what it wrote lies in
// the pipe: whatever is still open is held by something it left behind.
func (c *capture) finish() []byte {
	_ = c.f.SetReadDeadline(time.Unix(1, 0)) // wakes up read at once
	c.done.Wait()
	c.rest()
	c.f.Close()
	return c.buf
}

// rest takes what lies in the pipe without waiting for more.
func (c *capture) rest() {
	conn, err := c.f.SyscallConn()
	if err != nil {
		return
	}
	chunk := make([]byte, 64<<10)
	_ = conn.Control(func(fd uintptr) {
		// A pipe holds at most 1 MiB by default; a writer in the background may
		// fill it for ever.
		for range 64 {
			n, err := unix.Read(int(fd), chunk)
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if n <= 0 {
				return
			}
			c.keep(chunk[:n])
		}
	})
}

// memFile returns a file in memory that holds data, read from its start.
func memFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, fmt.Errorf("write %s: %w", name, err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("rewind %s: %w", name, err)
	}
	return f, nil
}
