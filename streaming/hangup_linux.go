package streaming

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// hangups learns from the kernel that clients have gone, also while nobody reads
// what they have sent before. It is one epoll descriptor, itself waited for by Go's
// poller, so that it costs one goroutine and no thread, and is not woken by data.
type hangups struct {
	epoll *os.File

	mu     sync.Mutex
	closed bool            // guarded by mu
	conns  map[int32]*conn // guarded by mu; by descriptor
}

func newHangups() (*hangups, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("watch clients: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // else os.NewFile does not use the poller
		unix.Close(fd)
		return nil, fmt.Errorf("watch clients: %w", err)
	}
	return &hangups{epoll: os.NewFile(uintptr(fd), "epoll"), conns: map[int32]*conn{}}, nil
}

// close ends run.
func (h *hangups) close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil
	}
	h.closed = true
	return h.epoll.Close()
}

func (h *hangups) isClosed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// hungUp: the client has closed its side, or the connection is broken.
const hungUp = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR

// add begins to watch a connection.
func (h *hangups) add(c *conn) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	err = raw.Control(func(fd uintptr) { c.fd = int32(fd) })
	if err == nil {
		err = h.control(unix.EPOLL_CTL_ADD, c.fd, &unix.EpollEvent{Events: hungUp | unix.EPOLLONESHOT, Fd: c.fd})
	}
	if err != nil {
		return fmt.Errorf("watch a client: %w", err)
	}
	h.conns[c.fd] = c
	return nil
}

// remove ends the watch of a connection, if it has not ended.
func (h *hangups) remove(c *conn) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conns[c.fd] != c {
		return
	}
	delete(h.conns, c.fd)
	_ = h.control(unix.EPOLL_CTL_DEL, c.fd, nil) // the watch may be over
}

func (h *hangups) control(op int, fd int32, ev *unix.EpollEvent) error {
	raw, err := h.epoll.SyscallConn()
	if err != nil {
		return err
	}
	var cerr error
	err = raw.Control(func(epoll uintptr) { cerr = unix.EpollCtl(int(epoll), op, int(fd), ev) })
	if err == nil {
		err = cerr
	}
	return err
}

// run tells connections that their clients have gone, until close.
func (h *hangups) run() error {
	raw, err := h.epoll.SyscallConn()
	if err != nil {
		return fmt.Errorf("watch clients: %w", err)
	}
	events := make([]unix.EpollEvent, 64)
	for {
		var n int
		var werr error
		err := raw.Read(func(fd uintptr) bool {
			n, werr = unix.EpollWait(int(fd), events, 0) // it does not wait, so nothing interrupts it
			return n > 0 || werr != nil
		})
		if err = errors.Join(err, werr); err != nil {
			if h.isClosed() {
				return nil
			}
			return fmt.Errorf("watch clients: %w", err)
		}
		h.tell(events[:n])
	}
}

func (h *hangups) tell(events []unix.EpollEvent) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, ev := range events {
		if c := h.conns[ev.Fd]; c != nil {
			c.lose()
		}
	}
}
