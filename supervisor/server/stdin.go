package server

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/supervisor"
)

// stdin is our end of an app's standard input. A nil one is that of an app that has
// none.
type stdin struct {
	once bool // closes for good when the first attach that had it ends
	tty  bool // f is the terminal, which also gives output

	f *os.File

	mu      sync.Mutex
	closed  bool              // guarded by mu
	clients map[*os.File]bool // guarded by mu; copies of f in use
}

func newTTYStdin(master *os.File, spec supervisor.AppSpec) *stdin {
	if !spec.Stdin {
		return nil
	}
	return &stdin{f: master, tty: true, once: spec.StdinOnce}
}

// open returns a descriptor of the input for one client, so that its writes can be
// given up without touching another's.
func (i *stdin) open() (*os.File, error) {
	if i == nil {
		return nil, fmt.Errorf("the app has none: %w", errdefs.ErrFailedPrecondition)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return nil, fmt.Errorf("it has been closed: %w", errdefs.ErrFailedPrecondition)
	}
	dup, err := duplicate(i.f)
	if err != nil {
		return nil, err
	}
	if i.clients == nil {
		i.clients = map[*os.File]bool{}
	}
	i.clients[dup] = true
	return dup, nil
}

// duplicate returns another descriptor of f, as non-blocking as f is.
func duplicate(f *os.File) (*os.File, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var derr error
	if conn.Control(func(n uintptr) { fd, derr = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) }) != nil { // a terminal, whose app has just ended
		return nil, fmt.Errorf("it has been closed: %w", errdefs.ErrFailedPrecondition)
	}
	if derr != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), derr)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// copy hands on what src gives until it ends, nobody reads, or ctx is done, also in
// the middle of a write that the app does not take. It closes dst.
func (i *stdin) copy(ctx context.Context, dst, src *os.File) {
	stop := context.AfterFunc(ctx, func() {
		_ = src.SetReadDeadline(time.Unix(1, 0)) // a plain file has none, and does not block
		_ = dst.SetWriteDeadline(time.Unix(1, 0))
	})
	defer stop()
	_, _ = io.Copy(writerOnly{dst}, src) // either side may go at any time
	i.mu.Lock()
	delete(i.clients, dst)
	i.mu.Unlock()
	dst.Close()
	if i.once {
		i.close()
	}
}

// writerOnly hides (*os.File).ReadFrom, whose splice would hold a pipe.
type writerOnly struct{ io.Writer }

func (i *stdin) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		return
	}
	i.closed = true
	for dup := range i.clients {
		dup.Close() // ends its copy
	}
	if !i.tty { // the terminal's master is closed with the streams
		i.f.Close()
	}
}
