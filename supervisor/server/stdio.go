package server

import (
	"errors"
	"fmt"
	"os"
	"sync"

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

// maxPipe is the most that a pipe holds, unless its owner may raise the limit.
const maxPipe = 1 << 20

// run blocks until the end of the stream. Past the source's read deadline it still
// takes what lies in the pipe, however long the reader was held up by the log: only
// what is written by somebody else, later, is left.
func (s *stream) run() {
	conn, err := s.src.SyscallConn()
	if err != nil {
		return
	}
	for s.step(conn.Read) > 0 {
	}
	atOnce := func(read func(fd uintptr) bool) error {
		return conn.Control(func(fd uintptr) { read(fd) })
	}
	for left := maxPipe; left > 0; {
		n := s.step(atOnce)
		if n <= 0 {
			break
		}
		left -= n
	}
	s.lines.finish()
}

// step waits for output without holding a buffer, then reads once. It returns how
// much it read, 0 at the end.
func (s *stream) step(wait func(func(fd uintptr) bool) error) int {
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
		return 0 // closed, past its deadline, or nothing there
	}
	defer chunks.Put(buf)
	if err != nil || rerr != nil || n <= 0 { // EIO: a terminal whose other side is gone
		return 0
	}
	s.lines.feed((*buf)[:n])
	s.sinks.write(s.lines.stream, (*buf)[:n])
	return n
}
