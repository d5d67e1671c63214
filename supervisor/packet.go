package supervisor

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Conn carries packets with files over one connected SOCK_SEQPACKET socket. Send
// and Recv may run side by side. A blocked call costs no thread and no buffer.
type Conn struct {
	f *os.File
}

// NewConn takes over a connected socket in non-blocking mode.
func NewConn(fd int) *Conn { return &Conn{f: os.NewFile(uintptr(fd), "supervisor socket")} }

// packets lends out receive buffers, so that idle connections hold none.
var packets = sync.Pool{New: func() any { b := make([]byte, MaxMessage); return &b }}

// Close ends the connection and wakes up blocked calls.
func (c *Conn) Close() error { return c.f.Close() }

// Send sends one packet with files, which stay the caller's.
func (c *Conn) Send(packet []byte, files ...*os.File) error {
	if len(packet) > MaxMessage {
		return tooLarge(len(packet))
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fd, err := rawFD(f)
		if err != nil {
			return err
		}
		fds[i] = fd
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	conn, err := c.f.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = conn.Write(func(fd uintptr) bool {
		for {
			sendErr = unix.Sendmsg(int(fd), packet, oob, nil, unix.MSG_NOSIGNAL)
			if !errors.Is(sendErr, unix.EINTR) {
				return !errors.Is(sendErr, unix.EAGAIN)
			}
		}
	})
	if err = errors.Join(err, sendErr); err != nil {
		return fmt.Errorf("send to %s: %w", c.f.Name(), err)
	}
	return nil
}

// Recv receives one packet; its files become the caller's. At the end of the
// connection the error is io.EOF.
func (c *Conn) Recv() (packet []byte, files []*os.File, err error) {
	conn, err := c.f.SyscallConn()
	if err != nil {
		return nil, nil, err
	}
	var recvErr error
	err = conn.Read(func(fd uintptr) bool {
		packet, files, recvErr = recvOnce(int(fd))
		return !errors.Is(recvErr, unix.EAGAIN)
	})
	if err == nil {
		err = recvErr
	}
	if errors.Is(err, os.ErrClosed) || errors.Is(err, unix.ECONNRESET) {
		err = io.EOF
	}
	return packet, files, err
}

func recvOnce(fd int) ([]byte, []*os.File, error) {
	buf := packets.Get().(*[]byte)
	defer packets.Put(buf)
	var oob [64]byte // room for MaxFiles and a little more
	n, oobn, flags, _, err := unix.Recvmsg(fd, *buf, oob[:], unix.MSG_CMSG_CLOEXEC)
	for errors.Is(err, unix.EINTR) {
		n, oobn, flags, _, err = unix.Recvmsg(fd, *buf, oob[:], unix.MSG_CMSG_CLOEXEC)
	}
	if err != nil {
		return nil, nil, err
	}
	files, err := receivedFiles(oob[:oobn])
	switch {
	case err != nil:
	case flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(files) > MaxFiles:
		err = fmt.Errorf("packet is too large or has too many files: %w", errdefs.ErrInvalidArgument)
	case n == 0:
		err = io.EOF
	default:
		return append([]byte(nil), (*buf)[:n]...), files, nil
	}
	CloseAll(files)
	return nil, nil, err
}

func receivedFiles(oob []byte) (files []*os.File, err error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed file"))
		}
	}
	return files, nil
}

// CloseAll closes files, nil ones left out.
func CloseAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// rawFD is (*os.File).Fd without its turning the file to blocking mode.
func rawFD(f *os.File) (int, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return -1, err
	}
	var fd int
	err = conn.Control(func(n uintptr) { fd = int(n) })
	return fd, err
}

// withAddr calls f with the address of the socket at path, however long path is:
// a unix address holds 107 bytes only, so it goes through the open folder.
func withAddr(path string, f func(unix.Sockaddr) error) error {
	dir, err := unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", filepath.Dir(path), err)
	}
	defer unix.Close(dir)
	return f(&unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir, filepath.Base(path))})
}

// Listen makes the socket at path, mode 0600, in place of what lies there, and
// listens. The descriptor is non-blocking and closed on exec.
func Listen(path string) (fd int, err error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return -1, err
	}
	fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	// The mode of a unix socket is that of its inode at bind: narrow it first, so
	// that it is never wider.
	err = unix.Fchmod(fd, 0o600)
	if err == nil {
		err = withAddr(path, func(a unix.Sockaddr) error { return unix.Bind(fd, a) })
	}
	if err == nil {
		err = unix.Listen(fd, 128)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on %s: %w", path, err)
	}
	return fd, nil
}

// connect connects to the socket at path. Nobody there is class Unavailable.
func connect(path string) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make a socket: %w", err)
	}
	err = withAddr(path, func(a unix.Sockaddr) error { return unix.Connect(fd, a) })
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("dial supervisor at %s: %w: %w", path, err, errdefs.ErrUnavailable)
	}
	return NewConn(fd), nil
}
