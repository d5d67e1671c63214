package streaming

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"k8s.io/client-go/tools/remotecommand"
	utilexec "k8s.io/client-go/util/exec"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestExecGivesOutputAndExactCode(t *testing.T) {
	for _, protocol := range protocols {
		for _, tty := range []bool{false, true} {
			for _, code := range []int{0, 1, 77, 126, 127, 255} {
				t.Run(fmt.Sprintf("%s/tty=%v/%d", protocol, tty, code), func(t *testing.T) {
					s, h := start(t)
					var stdout, stderr screen
					opts := remotecommand.StreamOptions{Stdout: &stdout, Tty: tty}
					if !tty {
						opts.Stderr = &stderr
					}
					err := executor(t, protocol, h.exec(s, false, tty, "sh", "-c", fmt.Sprintf("echo out; echo err >&2; exit %d", code))).StreamWithContext(within(t), opts)
					requireCode(t, code, err)
					if tty {
						require.Equal(t, "out\r\nerr\r\n", stdout.String())
						return
					}
					require.Equal(t, "out\n", stdout.String())
					require.Equal(t, "err\n", stderr.String())
				})
			}
		}
	}
}

func requireCode(t *testing.T, code int, err error) {
	t.Helper()
	if code == 0 {
		require.NoError(t, err)
		return
	}
	var exit utilexec.CodeExitError
	require.ErrorAs(t, err, &exit)
	require.Equal(t, code, exit.Code)
}

func TestExecClosesStdin(t *testing.T) {
	s, h := start(t)
	var stdout screen
	err := executor(t, "spdy", h.exec(s, true, false, "sh", "-c", "cat; echo end; exit 3")).StreamWithContext(within(t),
		remotecommand.StreamOptions{Stdin: strings.NewReader("input\n"), Stdout: &stdout, Stderr: io.Discard})
	requireCode(t, 3, err)
	require.Equal(t, "input\nend\n", stdout.String())
}

func TestExecOfWhatTakesNoInputEnds(t *testing.T) {
	for _, protocol := range protocols {
		s, h := start(t)
		err := executor(t, protocol, h.exec(s, true, false, "sh", "-c", "exec <&-; exit 4")).StreamWithContext(within(t),
			remotecommand.StreamOptions{Stdin: io.LimitReader(zeros{}, 8<<20), Stdout: io.Discard, Stderr: io.Discard})
		requireCode(t, 4, err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// sizes is a queue of terminal sizes.
type sizes chan remotecommand.TerminalSize

func (q sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-q
	if !ok {
		return nil
	}
	return &size
}

func TestTerminalIsResized(t *testing.T) {
	for _, protocol := range protocols {
		s, h := start(t)
		queue := make(sizes, 2)
		queue <- remotecommand.TerminalSize{Width: 101, Height: 31}
		err := executor(t, protocol, h.exec(s, false, true, "sh", "-c", "while [ \"$(stty size)\" != '31 101' ]; do sleep 0.02; done; exit 9")).StreamWithContext(within(t),
			remotecommand.StreamOptions{Stdout: io.Discard, Tty: true, TerminalSizeQueue: queue})
		close(queue)
		requireCode(t, 9, err)
	}
}

func TestTerminalCarriesInput(t *testing.T) {
	for _, protocol := range protocols {
		s, h := start(t)
		in, keys := io.Pipe()
		var stdout screen
		go func() { _, _ = io.WriteString(keys, "hello\n") }() // stdin stays open
		err := executor(t, protocol, h.exec(s, true, true, "sh", "-c", "read line; echo got $line; exit 6")).StreamWithContext(within(t),
			remotecommand.StreamOptions{Stdin: in, Stdout: &stdout, Tty: true})
		in.Close()
		requireCode(t, 6, err)
		require.Contains(t, stdout.String(), "got hello\r\n")
	}
}

func TestBulkGoesBothWaysUnharmedInLittleMemory(t *testing.T) {
	const size = 64 << 20
	s, h := start(t)
	sent, got := sha256.New(), sha256.New()
	src := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sent)
	before := heap()
	var peak uint64
	watch := writerFunc(func(b []byte) (int, error) {
		if rand.IntN(64) == 0 {
			peak = max(peak, heap())
		}
		return got.Write(b)
	})
	err := executor(t, "spdy", h.exec(s, true, false, "cat")).StreamWithContext(within(t),
		remotecommand.StreamOptions{Stdin: src, Stdout: watch, Stderr: io.Discard})
	require.NoError(t, err)
	require.Equal(t, sent.Sum(nil), got.Sum(nil))
	require.Less(t, peak, before+size/2, "the stream is not kept; garbage and the client's own are in this, too")
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func heap() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func TestOutputIsCompleteAlthoughTheClientIsSlow(t *testing.T) {
	s, h := start(t)
	const size = 3 << 20
	total := 0
	slow := writerFunc(func(b []byte) (int, error) {
		if total == 0 {
			h.last().waitExitOr(t, 100*time.Millisecond) // it cannot end before: the pipe holds less
		}
		total += len(b)
		return len(b), nil
	})
	err := executor(t, "spdy", h.exec(s, false, false, "sh", "-c", fmt.Sprintf("head -c %d /dev/zero; exit 5", size))).StreamWithContext(within(t),
		remotecommand.StreamOptions{Stdout: slow, Stderr: io.Discard})
	requireCode(t, 5, err)
	require.Equal(t, size, total)
}

func (p *hostProcess) waitExitOr(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(d):
	}
}

func TestWhatStaysInTheBackgroundIsNotWaitedFor(t *testing.T) {
	s, h := start(t)
	var stdout screen
	err := executor(t, "spdy", h.exec(s, false, false, "sh", "-c", "sleep 1000 & echo $!; exit 2")).StreamWithContext(within(t),
		remotecommand.StreamOptions{Stdout: &stdout, Stderr: io.Discard})
	requireCode(t, 2, err)
	var pid int
	_, err = fmt.Sscan(stdout.String(), &pid)
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
}

func TestErrorOfTheRuntimeReachesTheClient(t *testing.T) {
	for _, protocol := range protocols {
		s, h := start(t)
		var stdout screen
		err := executor(t, protocol, h.exec(s, false, false, "absent")).StreamWithContext(within(t), remotecommand.StreamOptions{Stdout: &stdout, Stderr: io.Discard})
		require.ErrorContains(t, err, "absent: not found")

		done := make(chan error, 1)
		url := h.exec(s, false, false, "sh", "-c", "echo begun; exec sleep 1000")
		go func() {
			done <- executor(t, protocol, url).StreamWithContext(within(t), remotecommand.StreamOptions{Stdout: &stdout, Stderr: io.Discard})
		}()
		require.Eventually(t, func() bool { return stdout.String() == "begun\n" }, patience, time.Millisecond)
		h.last().broken <- errBroken
		require.ErrorContains(t, <-done, errBroken.Error(), "as when the supervisor is killed")
	}
}

func TestClientThatLeavesEndsTheProcess(t *testing.T) {
	for _, protocol := range protocols {
		for _, tty := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/tty=%v", protocol, tty), func(t *testing.T) {
				s, h := start(t)
				ctx, leave := context.WithCancel(within(t))
				var stdout screen
				done := make(chan error, 1)
				url := h.exec(s, true, tty, "sh", "-c", "echo begun; exec sleep 1000")
				in, keys := io.Pipe()
				defer keys.Close()
				go func() {
					opts := remotecommand.StreamOptions{Stdin: in, Stdout: &stdout, Tty: tty}
					if !tty {
						opts.Stderr = io.Discard
					}
					done <- executor(t, protocol, url).StreamWithContext(ctx, opts)
				}()
				require.Eventually(t, func() bool { return strings.HasPrefix(stdout.String(), "begun") }, patience, time.Millisecond)
				leave()
				require.ErrorIs(t, <-done, context.Canceled)
				p := h.last()
				p.waitExit(t)
				if tty {
					require.Equal(t, syscall.SIGHUP, p.ProcessState.Sys().(syscall.WaitStatus).Signal())
				}
			})
		}
	}
}

// rawExec is an exec by WebSocket without a library, so that a test can misuse it.
func rawExec(t *testing.T, s *Service, rawURL string) *net.TCPConn {
	t.Helper()
	u, err := url.Parse(rawURL)
	require.NoError(t, err)
	nc, err := net.Dial("tcp", u.Host)
	require.NoError(t, err)
	t.Cleanup(func() { nc.Close() })
	req := "GET " + u.RequestURI() + " HTTP/1.1\r\nHost: " + u.Host + "\r\nOrigin: http://localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n"
	_, err = io.WriteString(nc, req)
	require.NoError(t, err)
	return nc.(*net.TCPConn)
}

// readUntil reads until text has come, and returns everything.
func readUntil(t *testing.T, nc net.Conn, text string) []byte {
	t.Helper()
	var got []byte
	b := make([]byte, 4096)
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(patience)))
	for !bytes.Contains(got, []byte(text)) {
		n, err := nc.Read(b)
		got = append(got, b[:n]...)
		require.NoError(t, err, "%q", got)
	}
	return got
}

// A client that disappears says nothing: only the kernel's own question, whether it
// is there, finds out.
func TestClientThatVanishesWithoutAWordEndsTheProcess(t *testing.T) {
	s, h := start(t)
	nc := rawExec(t, s, h.exec(s, false, false, "sh", "-c", "echo begun; exec sleep 1000"))
	readUntil(t, nc, "begun")
	raw, err := nc.SyscallConn()
	require.NoError(t, err)
	require.NoError(t, raw.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1) // closes without FIN
	}))
	require.NoError(t, err)
	nc.Close()
	h.last().waitExit(t)
}

// wsFrame is a message for channel 0 with n bytes of input, masked by zeros.
func wsFrame(n int) []byte {
	head := []byte{0x82, 0xfe, byte((n + 1) >> 8), byte(n + 1), 0, 0, 0, 0, 0}
	return append(head, bytes.Repeat([]byte{'\n'}, n)...)
}

// Its end is noticed behind input that the process does not take.
func TestClientThatLeavesBehindUnreadInputEndsTheProcess(t *testing.T) {
	s, h := start(t)
	nc := rawExec(t, s, h.exec(s, true, false, "sh", "-c", "echo begun; exec sleep 1000"))
	readUntil(t, nc, "begun")
	for range pipeSize / (16 << 10) {
		_, err := nc.Write(wsFrame(16 << 10))
		require.NoError(t, err)
	}
	pipe, err := os.Open(fmt.Sprintf("/proc/%d/fd/0", h.last().Process.Pid))
	require.NoError(t, err)
	defer pipe.Close()
	require.Eventually(t, func() bool { // the pipe is full, and nothing is on its way
		n, err := unix.IoctlGetInt(int(pipe.Fd()), unix.TIOCINQ) // FIONREAD
		return err == nil && n == pipeSize
	}, patience, time.Millisecond)
	for range 5 { // one for the reader to stand at, the others behind it
		_, err := nc.Write(wsFrame(4 << 10))
		require.NoError(t, err)
	}
	nc.Close()
	h.last().waitExit(t)
}

// An exit code is not lost to a reset: the connection is not closed over something
// unread.
func TestEndOfASessionDoesNotResetItsConnection(t *testing.T) {
	s, h := start(t)
	nc := rawExec(t, s, h.exec(s, true, false, "sh", "-c", "echo begun; read line; exit 7"))
	readUntil(t, nc, "begun")
	// Input that nobody will take is on its way when the session ends.
	frame := wsFrame(1 << 10)
	writing := make(chan struct{})
	go func() {
		defer close(writing)
		for range 256 {
			if _, err := nc.Write(frame); err != nil {
				return
			}
		}
	}()
	<-writing // a second's worth of patience is enough for it
	require.NoError(t, nc.SetReadDeadline(time.Now().Add(patience)))
	got, err := io.ReadAll(nc)
	require.NoError(t, err, "the connection was reset")
	require.Contains(t, string(got), `"message":"7"`)
}

func TestURLHoldsGoodOnce(t *testing.T) {
	s, h := start(t)
	url := h.exec(s, false, false, "true")
	require.True(t, strings.HasPrefix(url, "http://127.0.0.1:"), url)
	require.NoError(t, executor(t, "spdy", url).StreamWithContext(within(t), remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard}))
	require.Error(t, executor(t, "spdy", url).StreamWithContext(within(t), remotecommand.StreamOptions{Stdout: io.Discard, Stderr: io.Discard}))
	resp, err := http.Get(url)
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusNotFound, resp.StatusCode)
}

func TestShutdownEndsSessions(t *testing.T) {
	s, h := start(t)
	nc := rawExec(t, s, h.exec(s, false, false, "sh", "-c", "echo begun; exec sleep 1000"))
	readUntil(t, nc, "begun")
	h.stop()
	h.last().waitExit(t)
	_, err := io.Copy(io.Discard, nc) // to its end, or a reset
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
}

func TestCallsNameTheFieldThatIsWrong(t *testing.T) {
	s, _ := start(t)
	ctx := t.Context()
	for _, c := range []struct {
		name  string
		call  func() error
		class error
		field string
	}{
		{"exec without command", func() error {
			_, err := s.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: "app", Stdout: true})
			return err
		}, errdefs.ErrInvalidArgument, "cmd: "},
		{"exec without streams", func() error {
			_, err := s.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: "app", Cmd: []string{"x"}})
			return err
		}, errdefs.ErrInvalidArgument, "stdin, stdout, stderr: "},
		{"exec with tty and stderr", func() error {
			_, err := s.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: "app", Cmd: []string{"x"}, Stderr: true, Tty: true})
			return err
		}, errdefs.ErrInvalidArgument, "stderr: "},
		{"exec nowhere", func() error {
			_, err := s.Exec(ctx, &runtimeapi.ExecRequest{Cmd: []string{"x"}, Stdout: true})
			return err
		}, errdefs.ErrInvalidArgument, "container_id: "},
		{"exec in an unknown container", func() error {
			_, err := s.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: "nope", Cmd: []string{"x"}, Stdout: true})
			return err
		}, errdefs.ErrNotFound, "container_id: "},
		{"exec in one that has exited", func() error {
			_, err := s.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: "ended", Cmd: []string{"x"}, Stdout: true})
			return err
		}, errdefs.ErrFailedPrecondition, "container_id: "},
		{"attach to one that has exited", func() error {
			_, err := s.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: "ended", Stdout: true})
			return err
		}, errdefs.ErrFailedPrecondition, "container_id: "},
		{"attach to a stdin that is not there", func() error {
			_, err := s.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: "mute", Stdout: true, Stdin: true})
			return err
		}, errdefs.ErrFailedPrecondition, "stdin: "},
		{"attach to a terminal that is not there", func() error {
			_, err := s.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: "app", Stdout: true, Tty: true})
			return err
		}, errdefs.ErrFailedPrecondition, "tty: "},
		{"forward to an unknown pod", func() error {
			_, err := s.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: "gone", Port: []int32{80}})
			return err
		}, errdefs.ErrNotFound, "pod_sandbox_id: "},
		{"forward nowhere", func() error {
			_, err := s.PortForward(ctx, &runtimeapi.PortForwardRequest{Port: []int32{80}})
			return err
		}, errdefs.ErrInvalidArgument, "pod_sandbox_id: "},
		{"forward to no port", func() error {
			_, err := s.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: "pod", Port: []int32{80, 65536}})
			return err
		}, errdefs.ErrInvalidArgument, "port[1]: "},
	} {
		err := c.call()
		require.ErrorIs(t, err, c.class, c.name)
		require.ErrorContains(t, err, c.field, c.name)
	}
}

func TestManyExecsAtOnceLeaveNothing(t *testing.T) {
	s, h := start(t)
	const n = 100
	ended := make(chan error, n)
	for i := range n {
		protocol := protocols[i%2]
		url := h.exec(s, false, false, "sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i))
		go func() {
			var stdout screen
			err := executor(t, protocol, url).StreamWithContext(within(t), remotecommand.StreamOptions{Stdout: &stdout, Stderr: io.Discard})
			code := 0
			if exit, ok := err.(utilexec.CodeExitError); ok {
				code, err = exit.Code, nil
			}
			if err == nil && (code != i || stdout.String() != fmt.Sprintf("%d\n", i)) {
				err = fmt.Errorf("exec %d: code %d, %q", i, code, stdout.String())
			}
			ended <- err
		}()
	}
	for range n {
		require.NoError(t, <-ended)
	}
}
