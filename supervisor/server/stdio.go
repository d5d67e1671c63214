package server

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// chunks lends out read buffers, so that an idle app holds none.
var chunks = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// newPipe returns a pipe whose end for us is non-blocking and whose end for the
// app is not: an app must never meet EAGAIN. ours is the reading end if read.
func newPipe(read bool) (ours, theirs *os.File, err error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	our, their := p[1], p[0]
	if read {
		our, their = p[0], p[1]
	}
	if err := unix.SetNonblock(our, true); err != nil {
		unix.Close(our)
		unix.Close(their)
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	return os.NewFile(uintptr(our), "stdio"), os.NewFile(uintptr(their), "stdio"), nil
}

// nonBlocking replaces a passed file by one that the poller can wait for. It shares
// its mode with the copy of the peer, who gave it away for that.
func nonBlocking(f *os.File) (*os.File, error) {
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("unblock %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// stream reads one output of an app until its end: into the log, and to whoever
// is attached.
type stream struct {
	src   *os.File
	lines lineSplitter
	sinks *sinks
}

// run blocks until the end of the stream or the source's read deadline.
func (s *stream) run() {
	conn, err := s.src.SyscallConn()
	if err != nil {
		return
	}
	for s.step(conn.Read) {
	}
	s.lines.finish()
}

// step waits for output without holding a buffer, then reads once.
func (s *stream) step(wait func(func(fd uintptr) bool) error) bool {
	var buf *[]byte
	var n int
	var rerr error
	err := wait(func(fd uintptr) bool {
		b := chunks.Get().(*[]byte)
		n, rerr = unix.Read(int(fd), *b)
		for errors.Is(rerr, unix.EINTR) {
			n, rerr = unix.Read(int(fd), *b)
		}
		if errors.Is(rerr, unix.EAGAIN) {
			chunks.Put(b)
			return false
		}
		buf = b
		return true
	})
	if buf == nil {
		return false // closed, or past its deadline
	}
	defer chunks.Put(buf)
	if err != nil || rerr != nil || n <= 0 { // EIO: a terminal whose other side is gone
		return false
	}
	s.lines.feed((*buf)[:n])
	s.sinks.write(s.lines.stream, (*buf)[:n])
	return true
}

// sinkPatience is how long an attached reader may take no byte at all before it is
// dropped, so that it cannot hold up the app for ever.
const sinkPatience = 10 * time.Second

// sinks are the files of all who are attached to an app.
type sinks struct {
	mu  sync.Mutex
	all map[*sink]bool // guarded by mu
}

// sink is one attached client. gone is closed when it must end.
type sink struct {
	stdout, stderr *os.File
	once           sync.Once
	gone           chan struct{}
}

func (k *sink) drop() { k.once.Do(func() { close(k.gone) }) }

func (s *sinks) add(k *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = map[*sink]bool{}
	}
	s.all[k] = true
}

func (s *sinks) remove(k *sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.all, k)
}

func (s *sinks) list() (out []*sink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.all {
		out = append(out, k)
	}
	return out
}

// write copies output to all sinks; one that fails is dropped.
func (s *sinks) write(stream string, b []byte) {
	for _, k := range s.list() {
		f := k.stdout
		if stream == "stderr" {
			f = k.stderr
		}
		_ = f.SetWriteDeadline(time.Now().Add(sinkPatience)) // no deadline on what cannot block
		if _, err := f.Write(b); err != nil {
			k.drop()
		}
		_ = f.SetWriteDeadline(time.Time{}) // else its timer would wake us up later
	}
}
