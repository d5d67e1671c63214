package server

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sinks are all who are attached to an app.
type sinks struct {
	mu  sync.Mutex
	all map[*sink]bool // guarded by mu
}

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

// write gives output to all sinks, without waiting for any; one that is closed is
// dropped.
func (s *sinks) write(stream string, b []byte) {
	for _, k := range s.list() {
		o := k.stdout
		if stream == "stderr" {
			o = k.stderr
		}
		if err := o.write(b); err != nil {
			k.drop()
		}
	}
}

// sink is one attached client. gone is closed when it must end.
type sink struct {
	stdout, stderr *outlet
	once           sync.Once
	gone           chan struct{}
}

func newSink(stdout, stderr *os.File, tty bool) *sink {
	end := "\n"
	if tty {
		end = "\r\n"
	}
	return &sink{stdout: &outlet{f: stdout, end: end}, stderr: &outlet{f: stderr, end: end}, gone: make(chan struct{})}
}

func (k *sink) drop() { k.once.Do(func() { close(k.gone) }) }

// finish tells the client what it has missed up to the end; it may wait for it
// until ctx is done.
func (k *sink) finish(ctx context.Context) {
	for _, o := range []*outlet{k.stdout, k.stderr} {
		o.finish(ctx)
	}
}

// outlet is one stream to one attached client: a pipe, whose capacity is all that
// is kept for it. What does not fit is lost to this client, and it is told how much
// where that was, as soon as it has made room: the app and other clients do not
// wait.
type outlet struct {
	f   *os.File
	end string // of a line

	mu   sync.Mutex
	lost int64 // guarded by mu; bytes that it has not been told of
}

// write takes what fits. An error means that nobody reads any more.
func (o *outlet) write(b []byte) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lost > 0 {
		notice := o.noticeLocked()
		n, err := o.try(notice)
		if err != nil {
			return err
		}
		if n < len(notice) { // a pipe takes all of it or nothing, it is so short
			o.lost += int64(len(b))
			return nil
		}
		o.lost = 0
	}
	n, err := o.try(b)
	o.lost += int64(len(b) - n)
	return err
}

// try writes without waiting and returns how much was taken.
func (o *outlet) try(b []byte) (n int, err error) {
	conn, err := o.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var werr error
	err = conn.Write(func(fd uintptr) bool {
		for n < len(b) && werr == nil {
			var m int
			m, werr = unix.Write(int(fd), b[n:])
			n += max(m, 0)
			if errors.Is(werr, unix.EINTR) {
				werr = nil
			}
		}
		return true
	})
	if err == nil && !errors.Is(werr, unix.EAGAIN) {
		err = werr
	}
	return n, err
}

func (o *outlet) noticeLocked() []byte {
	return []byte(o.end + "[" + strconv.FormatInt(o.lost, 10) + " bytes of output are missing here: this client read too slowly]" + o.end)
}

func (o *outlet) finish(ctx context.Context) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.lost == 0 {
		return
	}
	defer context.AfterFunc(ctx, func() { _ = o.f.SetWriteDeadline(time.Unix(1, 0)) })()
	_, _ = o.f.Write(o.noticeLocked()) // it may have gone
	o.lost = 0
}
