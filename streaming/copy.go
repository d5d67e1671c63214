package streaming

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// chunk is how much is carried at once.
const chunk = 64 << 10

// chunks lends out buffers, so that a stream on which nothing moves holds none.
var chunks = sync.Pool{New: func() any { b := make([]byte, chunk); return &b }}

// pipeSize is asked for each pipe of a session; a smaller one does as well.
const pipeSize = 1 << 20

// client is the far side of an exec or attach. What was not asked for is nil or, by
// WebSocket, ends at once and takes anything.
type client struct {
	in     io.Reader
	out    io.WriteCloser
	errOut io.WriteCloser
	resize <-chan remotecommand.TerminalSize
}

// pipes are our ends of a process's stdio; nil ones were not asked for.
type pipes struct {
	stdin          *os.File
	stdout, stderr *os.File
	terminal       *os.File // in place of all three
}

// newPipes makes a pipe for each stream of the client.
func newPipes(c client) (ours pipes, theirs Stdio, err error) {
	defer func() {
		if err != nil {
			ours.close()
			theirs.close()
		}
	}()
	if c.in != nil {
		if theirs.Stdin, ours.stdin, err = newPipe(); err != nil {
			return ours, theirs, err
		}
	}
	if c.out != nil {
		if ours.stdout, theirs.Stdout, err = newPipe(); err != nil {
			return ours, theirs, err
		}
	}
	if c.errOut != nil {
		ours.stderr, theirs.Stderr, err = newPipe()
	}
	return ours, theirs, err
}

func newPipe() (r, w *os.File, err error) {
	if r, w, err = os.Pipe(); err != nil {
		return nil, nil, fmt.Errorf("make a pipe: %w", err)
	}
	if raw, err := r.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	}
	return r, w, nil
}

func (p pipes) close() { closeAll(p.stdin, p.stdout, p.stderr, p.terminal) }
func (s Stdio) close() { closeAll(s.Stdin, s.Stdout, s.Stderr) }

func closeAll(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// output copies a process's output to the client until it ends, or the client takes
// no more: then src is closed, so that the process learns of it.
func output(dst io.Writer, src *os.File) {
	defer src.Close()
	raw, err := src.SyscallConn()
	if err != nil {
		return
	}
	for {
		n, _, werr := step(dst, raw.Read)
		if werr != nil {
			return
		}
		if n == 0 { // the end, or an error: EIO is how a terminal ends
			break
		}
	}
	// At the end, or past the deadline that ended sets: what lies in the pipe still
	// belongs to the client, but no more, for who writes now may do so for ever.
	atOnce := func(read func(fd uintptr) bool) error {
		return raw.Control(func(fd uintptr) { read(fd) })
	}
	for left := pipeSize; left > 0; {
		n, _, werr := step(dst, atOnce)
		if werr != nil || n == 0 {
			return
		}
		left -= n
	}
}

// ended tells output that the process has ended, so that it waits no longer.
func ended(src *os.File) { _ = src.SetReadDeadline(time.Unix(1, 0)) }

// step waits for data without holding a buffer, reads once, and writes that. It
// returns how much it read, 0 at the end, past a deadline, or if there is nothing.
func step(dst io.Writer, wait func(func(fd uintptr) bool) error) (n int, rerr, werr error) {
	var buf *[]byte
	werr = wait(func(fd uintptr) bool {
		b := chunks.Get().(*[]byte)
		n, rerr = unix.Read(int(fd), *b)
		for errors.Is(rerr, unix.EINTR) {
			n, rerr = unix.Read(int(fd), *b)
		}
		if errors.Is(rerr, unix.EAGAIN) {
			n, rerr = 0, nil
			chunks.Put(b)
			return false
		}
		buf = b
		return true
	})
	if buf == nil {
		return 0, werr, nil
	}
	defer chunks.Put(buf)
	if rerr != nil || n <= 0 {
		return 0, rerr, nil
	}
	_, werr = dst.Write((*buf)[:n])
	return n, nil, werr
}

// framed is a stream that hands out what it has received, so that it need not be
// copied and no buffer waits for it.
type framed interface{ ReadData() ([]byte, error) }

// input copies what the client sends until it ends. When the process takes no more,
// the rest is dropped: that the client has gone is learnt by reading.
func input(dst io.Writer, src io.Reader) {
	if copyAll(dst, src) != nil {
		_ = copyAll(io.Discard, src)
	}
}

// copyAll copies to the end of src; the error is dst's.
func copyAll(dst io.Writer, src io.Reader) error {
	var next func() ([]byte, error)
	if f, ok := src.(framed); ok {
		next = f.ReadData
	} else {
		buf := chunks.Get().(*[]byte)
		defer chunks.Put(buf)
		next = func() ([]byte, error) {
			n, err := src.Read(*buf)
			return (*buf)[:n], err
		}
	}
	for {
		b, rerr := next()
		if len(b) > 0 {
			if _, err := dst.Write(b); err != nil {
				return err
			}
		}
		if rerr != nil {
			return nil
		}
	}
}
