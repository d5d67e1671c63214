package streaming

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// patience is how long a test waits for what comes in milliseconds on a quiet
// machine.
const patience = time.Minute

// host is a Runtime whose containers are this machine: execs are processes of the
// test's. Container "app" is an echo of its stdin, written by the test.
type host struct {
	t *testing.T

	mu      sync.Mutex
	procs   []*hostProcess // guarded by mu, as is what follows
	attach  func(ctx context.Context, stdio Stdio) error
	stop    func() // shuts the service down
	sizes   chan [2]int
	network string
}

// Container implements Runtime.
func (h *host) Container(id string) (Container, error) {
	switch id {
	case "app":
		return Container{Stdin: true}, nil
	case "terminal":
		return Container{TTY: true, Stdin: true}, nil
	case "mute":
		return Container{}, nil
	case "ended":
		return Container{}, fmt.Errorf("it has exited: %w", errdefs.ErrFailedPrecondition)
	}
	return Container{}, errdefs.ErrNotFound
}

// TestMain lets the processes of tests take SIGHUP, also where the tests were started
// by nohup: what a process ignores is inherited, what it catches is not.
func TestMain(m *testing.M) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	os.Exit(m.Run())
}

// Network implements Runtime.
func (h *host) Network(pod string) (string, error) {
	if pod == "gone" {
		return "", errdefs.ErrNotFound
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.network, nil
}

// Attach implements Runtime.
func (h *host) Attach(_ context.Context, _ string, stdio Stdio) (func(context.Context) error, error) {
	own := Stdio{dup(h.t, stdio.Stdin), dup(h.t, stdio.Stdout), dup(h.t, stdio.Stderr)}
	return func(ctx context.Context) error {
		defer own.close()
		return h.attach(ctx, own)
	}, nil
}

func dup(t *testing.T, f *os.File) *os.File {
	if f == nil {
		return nil
	}
	raw, err := f.SyscallConn()
	require.NoError(t, err)
	var fd int
	require.NoError(t, raw.Control(func(n uintptr) { fd, err = unix.FcntlInt(n, unix.F_DUPFD_CLOEXEC, 3) }))
	require.NoError(t, err)
	return os.NewFile(uintptr(fd), f.Name())
}

// Resize implements Runtime.
func (h *host) Resize(_ context.Context, _ string, rows, cols int) error {
	h.sizes <- [2]int{rows, cols}
	return nil
}

// hostProcess is an exec on this machine, in a session of its own.
type hostProcess struct {
	*exec.Cmd
	master *os.File
	exited chan struct{}
	broken chan error // what a broken supervisor says
}

// Exec implements Runtime.
func (h *host) Exec(ctx context.Context, _ string, cmd []string, tty bool, stdio Stdio) (Process, error) {
	if cmd[0] == "absent" {
		return nil, fmt.Errorf("absent: %w", errdefs.ErrNotFound)
	}
	p := &hostProcess{Cmd: exec.Command(cmd[0], cmd[1:]...), exited: make(chan struct{}), broken: make(chan error, 1)}
	p.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if tty {
		master, slave, err := openTerminal()
		if err != nil {
			return nil, err
		}
		defer slave.Close()
		p.master, p.Stdin, p.Stdout, p.Stderr = master, slave, slave, slave
		p.SysProcAttr.Setctty = true
	} else {
		for dst, f := range map[any]*os.File{&p.Stdin: stdio.Stdin, &p.Stdout: stdio.Stdout, &p.Stderr: stdio.Stderr} {
			if f == nil {
				continue
			}
			switch dst := dst.(type) {
			case *io.Reader:
				*dst = f
			case *io.Writer:
				*dst = f
			}
		}
	}
	if err := p.Start(); err != nil {
		return nil, err
	}
	h.mu.Lock()
	h.procs = append(h.procs, p)
	h.mu.Unlock()
	go func() {
		_ = p.Cmd.Wait() // the code is in ProcessState
		close(p.exited)
	}()
	return p, nil
}

func openTerminal() (master, slave *os.File, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	master = os.NewFile(uintptr(fd), "ptmx")
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err == nil {
		slave, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	}
	if err != nil {
		master.Close()
	}
	return master, slave, err
}

// Terminal implements Process.
func (p *hostProcess) Terminal() *os.File { return p.master }

// Resize implements Process.
func (p *hostProcess) Resize(_ context.Context, rows, cols int) error {
	raw, err := p.master.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Control(func(fd uintptr) {
		_ = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(rows), Col: uint16(cols)})
	})
}

// Wait implements Process.
func (p *hostProcess) Wait(ctx context.Context) (int, error) {
	select {
	case <-p.exited:
		return p.ProcessState.ExitCode(), nil
	case err := <-p.broken:
		return 0, err
	case <-ctx.Done():
		if p.master == nil { // else the terminal's end is what ends it
			_ = syscall.Kill(-p.Process.Pid, syscall.SIGKILL)
		}
		return 0, ctx.Err()
	}
}

// last is the exec that was started last.
func (h *host) last() *hostProcess {
	h.t.Helper()
	var p *hostProcess
	require.Eventually(h.t, func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.procs) > 0 {
			p = h.procs[len(h.procs)-1]
		}
		return p != nil
	}, patience, time.Millisecond)
	return p
}

func (p *hostProcess) waitExit(t *testing.T) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(patience):
		require.FailNow(t, "the process lives on")
	}
}

// start serves a host until the end of the test, which finds everything closed.
func start(t *testing.T) (*Service, *host) {
	t.Helper()
	// What other tests of this process still run is theirs.
	others := goleak.IgnoreCurrent()
	fds := descriptors(t)
	h := &host{t: t, sizes: make(chan [2]int, 16)}
	s, err := listen(h, net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 2})
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	h.stop = stop
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(patience):
			require.FailNow(t, "the service did not end")
		}
		for _, p := range h.procs {
			_ = p.Process.Kill()
			<-p.exited
		}
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			require.NoError(c, goleak.Find(others))
			require.LessOrEqual(c, descriptors(t), fds)
		}, patience, 10*time.Millisecond)
	})
	return s, h
}

func descriptors(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	return len(entries)
}

// protocols are the ways to reach the service without the kubelet.
var protocols = []string{"spdy", "websocket"}

// executor makes a client of a session's URL.
func executor(t *testing.T, protocol, rawURL string) remotecommand.Executor {
	t.Helper()
	u, err := url.Parse(rawURL)
	require.NoError(t, err)
	cfg := &restclient.Config{Host: u.Host}
	var e remotecommand.Executor
	if protocol == "spdy" {
		e, err = remotecommand.NewSPDYExecutor(cfg, http.MethodPost, u)
	} else {
		e, err = remotecommand.NewWebSocketExecutorForProtocols(cfg, http.MethodGet, rawURL, "v4.channel.k8s.io")
	}
	require.NoError(t, err)
	return e
}

func (h *host) exec(s *Service, stdin, tty bool, cmd ...string) string {
	h.t.Helper()
	resp, err := s.Exec(h.t.Context(), &runtimeapi.ExecRequest{ContainerId: "app", Cmd: cmd, Stdin: stdin, Stdout: true, Stderr: !tty, Tty: tty})
	require.NoError(h.t, err)
	return resp.Url
}

// screen is a buffer that a test can look into while it is written.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (o *screen) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *screen) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	t.Cleanup(cancel)
	return ctx
}

var errBroken = errors.New("the supervisor has gone")
