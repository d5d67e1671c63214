package server

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/supervisor"
)

// consoleSocket is where the OCI runtime hands over the master side of a terminal
// that it has made.
type consoleSocket struct {
	path string
	l    *os.File
}

func listenConsole(path string) (*consoleSocket, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make console socket: %w", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err == nil {
		err = unix.Listen(fd, 1)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen on console socket %s: %w", path, err)
	}
	return &consoleSocket{path: path, l: os.NewFile(uintptr(fd), "console socket")}, nil
}

func (c *consoleSocket) close() {
	c.l.Close()
	_ = os.Remove(c.path)
}

// receive returns the terminal. The runtime has sent it before it exited, so it
// waits for nothing but a runtime that does not follow its specification.
func (c *consoleSocket) receive(ctx context.Context) (*os.File, error) {
	stop := context.AfterFunc(ctx, func() { c.l.Close() })
	defer stop()
	fd, err := accept(c.l)
	if err != nil {
		return nil, fmt.Errorf("accept on console socket: %w", err)
	}
	conn := supervisor.NewConn(fd)
	defer conn.Close()
	stopConn := context.AfterFunc(ctx, func() { conn.Close() })
	defer stopConn()
	_, files, err := conn.Recv()
	if err != nil {
		return nil, fmt.Errorf("receive terminal: %w", err)
	}
	if len(files) != 1 {
		supervisor.CloseAll(files)
		return nil, fmt.Errorf("receive terminal: %d files came, want 1", len(files))
	}
	return nonBlocking(files[0])
}

// setSize sets the size of a terminal by its master.
func setSize(master *os.File, rows, cols int) error {
	conn, err := master.SyscallConn()
	if err != nil {
		return err
	}
	var ierr error
	err = conn.Control(func(fd uintptr) {
		ierr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
	})
	if err == nil {
		err = ierr
	}
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}
