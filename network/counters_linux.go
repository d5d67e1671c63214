package network

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Traffic is what one network interface has carried since it was made.
type Traffic struct {
	Name                                    string
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

// Counters reads the interfaces of one network namespace, from a file that is
// opened once. It is safe for concurrent use.
type Counters struct {
	mu  sync.Mutex
	fd  int // guarded by mu; negative once closed
	buf []byte
}

// OpenCounters opens the counters of the namespace that is pinned at path. They
// keep the namespace alive, pinned or not, until they are closed.
func OpenCounters(path string) (*Counters, error) {
	c := &Counters{fd: -1, buf: make([]byte, 2<<10)}
	err := onThrowawayThread(func() error {
		ns, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(ns)
		if err := unix.Setns(ns, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter it: %w", err)
		}
		// An open file of /proc/net belongs to the namespace in which it was opened.
		c.fd, err = unix.Open("/proc/thread-self/net/dev", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open counters of network namespace %s: %w", path, err)
	}
	return c, nil
}

// Close gives the namespace free.
func (c *Counters) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd >= 0 {
		_ = unix.Close(c.fd) // opened for reading
		c.fd = -1
	}
}

// Read returns all interfaces but loopback, in the kernel's order.
func (c *Counters) Read() ([]Traffic, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, err := c.textLocked()
	if err != nil {
		return nil, fmt.Errorf("read network counters: %w", err)
	}
	var all []Traffic
	for line := range bytes.Lines(text) {
		name, numbers, ok := bytes.Cut(line, []byte(":"))
		name = bytes.TrimSpace(name)
		if !ok || string(name) == "lo" { // the two lines of the heading have no colon
			continue
		}
		i, err := parseTraffic(string(name), bytes.Fields(numbers))
		if err != nil {
			return nil, fmt.Errorf("read network counters: %w", err)
		}
		all = append(all, i)
	}
	return all, nil
}

// textLocked reads the file whole. The kernel gives out whole lines only, so a read
// that does not fill the buffer may not be the last.
func (c *Counters) textLocked() ([]byte, error) {
	if c.fd < 0 {
		return nil, unix.EBADF
	}
	for end := 0; ; {
		if end == len(c.buf) {
			c.buf = append(c.buf, make([]byte, len(c.buf))...)
		}
		n, err := unix.Pread(c.fd, c.buf[end:], int64(end))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, err
		case n == 0:
			return c.buf[:end], nil
		default:
			end += n
		}
	}
}

// parseTraffic takes the 16 columns of /proc/net/dev, 8 received and 8 sent.
func parseTraffic(name string, columns [][]byte) (Traffic, error) {
	if len(columns) < 16 {
		return Traffic{}, fmt.Errorf("interface %s has %d columns, want 16", name, len(columns))
	}
	var n [16]uint64
	for i := range n {
		var err error
		if n[i], err = strconv.ParseUint(string(columns[i]), 10, 64); err != nil {
			return Traffic{}, fmt.Errorf("interface %s: %w", name, err)
		}
	}
	return Traffic{
		Name:    name,
		RxBytes: n[0], RxPackets: n[1], RxErrors: n[2], RxDropped: n[3],
		TxBytes: n[8], TxPackets: n[9], TxErrors: n[10], TxDropped: n[11],
	}, nil
}
