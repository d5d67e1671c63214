package server_test

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/supervisor"
)

// runWithStdin runs a shell script as app "a", with its stdin open.
func (p *testPod) runWithStdin(once bool, script string) supervisor.AppSpec {
	p.t.Helper()
	spec := p.add("a", appConfig{Args: []string{"/bin/sh", "-c", script}})
	spec.Stdin, spec.StdinOnce = true, once
	_, err := p.CreateApp(p.t.Context(), spec)
	require.NoError(p.t, err)
	_, err = p.StartApp(p.t.Context(), "a")
	require.NoError(p.t, err)
	return spec
}

// attached is one client of an app.
type attached struct {
	t      *testing.T
	stdin  *os.File // nil without
	stdout *os.File
	cancel context.CancelFunc
	ended  chan error

	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu; what read has taken
}

func (p *testPod) attach(withStdin bool) *attached {
	p.t.Helper()
	outR, outW, err := os.Pipe()
	require.NoError(p.t, err)
	c := &attached{t: p.t, stdout: outR, ended: make(chan error, 1)}
	var in *os.File
	if withStdin {
		in, c.stdin, err = os.Pipe()
		require.NoError(p.t, err)
		defer in.Close()
		p.t.Cleanup(func() { c.stdin.Close() })
	}
	wait, err := p.BeginAttach("a", in, outW, nil)
	require.NoError(p.t, err)
	outW.Close()
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.t.Context()))
	c.cancel = cancel
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.ended <- wait(ctx)
	}()
	p.t.Cleanup(func() {
		cancel()
		<-done
		outR.Close()
	})
	return c
}

func (c *attached) say(text string) {
	c.t.Helper()
	_, err := io.WriteString(c.stdin, text)
	require.NoError(c.t, err)
}

// read takes output, to its end, in the background.
func (c *attached) read() {
	done := make(chan struct{})
	go func() {
		defer close(done)
		b := make([]byte, 64<<10)
		for {
			n, err := c.stdout.Read(b)
			c.mu.Lock()
			c.buf.Write(b[:n])
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	c.t.Cleanup(func() { c.stdout.Close(); <-done })
}

func (c *attached) got() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.buf.String()
}

func (c *attached) waitFor(text string) {
	c.t.Helper()
	long(c.t, func() bool { return strings.Contains(c.got(), text) })
}

// wait waits for the end of the attach.
func (c *attached) wait() error {
	c.t.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(time.Minute):
		require.FailNow(c.t, "the attach did not end")
		return nil
	}
}

// long is waitFor with the patience that a busy machine may need.
func long(t *testing.T, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, time.Minute, 5*time.Millisecond)
}

var missing = regexp.MustCompile(`\[(\d+) bytes of output are missing here: this client read too slowly\]`)

// shown and lost count what a client has seen of output of 'x' alone.
func shownAndLost(t *testing.T, got string) (shown, lost int) {
	t.Helper()
	for _, m := range missing.FindAllStringSubmatch(got, -1) {
		n, err := strconv.Atoi(m[1])
		require.NoError(t, err)
		lost += n
	}
	return strings.Count(missing.ReplaceAllString(got, ""), "x"), lost
}

const muchOutput = 3 << 20

func TestSlowClientHoldsUpNobodyAndIsToldWhatItMissed(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.runWithStdin(false, "read go; head -c "+itoa(muchOutput)+" /dev/zero | tr '\\0' x; read go; echo end")
	slow, quick := p.attach(false), p.attach(true)
	quick.read()
	quick.say("go\n")
	// The app gets rid of everything while slow takes nothing: it is in the log.
	long(t, func() bool {
		st, err := os.Stat(spec.Log)
		return err == nil && st.Size() > muchOutput-16<<10 // the last part of a line waits for its end
	})
	quick.say("go\n")
	require.Zero(t, p.wait("a").Code)
	require.Equal(t, muchOutput, strings.Count(logged(t, spec.Log, "stdout"), "x"))
	require.NoError(t, quick.wait())

	slow.read()
	require.NoError(t, slow.wait())
	for name, c := range map[string]*attached{"slow": slow, "quick": quick} {
		long(t, func() bool {
			shown, lost := shownAndLost(t, c.got())
			return shown+lost >= muchOutput
		})
		shown, lost := shownAndLost(t, c.got())
		rest := lost + shown - muchOutput // the line at the end, if it was lost too
		require.Contains(t, []int{0, len("end\n")}, rest, name)
		if name == "slow" {
			require.Positive(t, lost, "a pipe does not hold so much")
		}
	}
}

func TestLateClientSeesOutputFromThenOn(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.runWithStdin(false, "while read line; do echo got $line; done")
	first := p.attach(true)
	first.read()
	first.say("one\n")
	first.waitFor("got one\n")
	late := p.attach(true)
	late.read()
	late.say("two\n")
	late.waitFor("got two\n")
	first.waitFor("got one\ngot two\n")
	require.NotContains(t, late.got(), "one")
}

func TestDetachingLeavesTheAppAlone(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.runWithStdin(false, "while read line; do echo got $line; done; exit 3")
	for _, line := range []string{"one", "two"} {
		c := p.attach(true)
		c.read()
		c.say(line + "\n")
		c.waitFor("got " + line + "\n")
		c.stdin.Close()
		c.cancel()
		require.ErrorIs(t, c.wait(), context.Canceled)
	}
	require.NoError(t, p.SignalApp(t.Context(), "a", 0), "it runs on")
	c := p.attach(true)
	c.read()
	c.say("three\n")
	c.waitFor("got three\n")
	require.Equal(t, "got one\ngot two\ngot three\n", logged(t, spec.Log, "stdout"))
}

func TestClientWithAFullStdinCanDetach(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.runWithStdin(false, "echo ready; sleep 1000")
	fds := p.fds()
	c := p.attach(true)
	// More than the two pipes on the way hold: the supervisor is in the middle of a
	// write that the app does not take.
	require.NoError(t, c.stdin.SetWriteDeadline(time.Now().Add(time.Second)))
	n, err := c.stdin.Write(make([]byte, 4<<20))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, n, 4<<20)
	c.cancel()
	require.ErrorIs(t, c.wait(), context.Canceled)
	long(t, func() bool { return p.fds() <= fds })
}

func TestStdinOnceEndsWithItsFirstClient(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.runWithStdin(true, "while read line; do echo got $line; done; echo end of input; sleep 1000")
	first, second := p.attach(true), p.attach(true)
	first.read()
	second.read()
	first.say("one\n")
	first.waitFor("got one\n")
	second.say("two\n")
	second.waitFor("got two\n")
	first.stdin.Close()
	second.waitFor("end of input\n") // although second has not closed its own
	long(t, func() bool { return strings.HasSuffix(logged(t, spec.Log, "stdout"), "end of input\n") })

	late := p.attach(true)
	require.ErrorIs(t, late.wait(), errdefs.ErrFailedPrecondition)
	watcher := p.attach(false)
	require.NoError(t, p.SignalApp(t.Context(), "a", 9))
	require.NoError(t, watcher.wait(), "one without stdin may still come")
}

func TestAttachSaysWhatItLacks(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.sh("a", "sleep 1000")
	require.ErrorIs(t, p.attach(true).wait(), errdefs.ErrFailedPrecondition, "no stdin")
	require.ErrorIs(t, p.Attach(t.Context(), "b", nil, nil, nil), errdefs.ErrNotFound)
	_, err := p.StopApp(t.Context(), "a", 9, 0)
	require.NoError(t, err)
	require.ErrorIs(t, p.attach(false).wait(), errdefs.ErrFailedPrecondition, "it has exited")
}

// A reader of the log that stalls for longer than the end of output is waited for.
func TestOutputBeforeTheEndSurvivesASlowLog(t *testing.T) {
	const output = 120_000 // fits into what is on its way: the app can end
	p := launch(t, supervisor.Spec{})
	spec := p.add("a", appConfig{Args: []string{"/bin/sh", "-c", "head -c " + itoa(output) + " /dev/zero | tr '\\0' x; echo; exit 3"}})
	require.NoError(t, syscall.Mkfifo(spec.Log, 0o600))
	log, err := os.OpenFile(spec.Log, os.O_RDWR, 0)
	require.NoError(t, err)
	defer log.Close()
	pid, err := p.CreateApp(t.Context(), spec)
	require.NoError(t, err)
	_, err = p.StartApp(t.Context(), "a")
	require.NoError(t, err)
	long(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	time.Sleep(3 * time.Second) // the fault itself: longer than drainTime
	var text bytes.Buffer
	b := make([]byte, 64<<10)
	for !strings.Contains(text.String(), " F ") {
		require.NoError(t, log.SetReadDeadline(time.Now().Add(time.Minute)))
		n, err := log.Read(b)
		require.NoError(t, err, "the end is missing after %d bytes", text.Len())
		text.Write(b[:n])
	}
	require.Equal(t, output, strings.Count(text.String(), "x"))
	require.Equal(t, 3, p.wait("a").Code)
}

// terminalExec starts a script on a terminal and waits until it says ready.
func (p *testPod) terminalExec(ctx context.Context, script string) *supervisor.Session {
	p.t.Helper()
	s, err := p.Exec(ctx, supervisor.ExecSpec{App: "a", TTY: true, Process: execProcess(p.t, true, "/bin/sh", "-c", script)}, nil, nil, nil)
	require.NoError(p.t, err)
	p.t.Cleanup(func() { s.Terminal.Close() })
	b := make([]byte, len("ready"))
	_, err = io.ReadFull(s.Terminal, b)
	require.NoError(p.t, err)
	require.Equal(p.t, "ready", string(b))
	return s
}

func TestExecOnATerminalIsHungUpWithItsAsker(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	hup := filepath.Join(p.rootfs, "tmp/hup")
	for _, ask := range []string{"cancel", "disconnect"} {
		require.NoError(t, os.RemoveAll(hup))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		s := p.terminalExec(ctx, "trap 'echo hung up >/tmp/hup; exit' HUP; (trap '' HUP; sleep 2000) & echo ready; while :; do sleep 0.05; done")
		if ask == "cancel" {
			cancel()
			_, err := s.Wait(ctx)
			require.ErrorIs(t, err, context.Canceled)
			s.Terminal.Close()
		} else { // as when the kubelet is killed: all of its descriptors go
			s.Terminal.Close()
			p.Client.Close()
			p.dial()
		}
		long(t, func() bool { return fileHas(hup, "hung up") })
		long(t, func() bool { return len(cgroup.Procs(spec.Cgroup)) == 1 })
		require.NoError(t, p.SignalApp(t.Context(), "a", 0), "the app runs on")
	}
}

func TestExecThatIgnoresItsHangupIsKilled(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	ctx, cancel := context.WithCancel(t.Context())
	s := p.terminalExec(ctx, "trap '' HUP; echo ready; while :; do sleep 0.05; done")
	cancel()
	s.Terminal.Close()
	_, err := s.Wait(ctx)
	require.ErrorIs(t, err, context.Canceled)
	long(t, func() bool { return len(cgroup.Procs(spec.Cgroup)) == 1 })
}

func TestExecOfAKilledSupervisorEndsWithAnError(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	s, err := p.Exec(t.Context(), supervisor.ExecSpec{App: "a", Process: execProcess(t, false, "/bin/sleep", "2000")}, nil, nil, nil)
	require.NoError(t, err)
	require.NoError(t, p.cmd.Process.Kill())
	_, err = s.Wait(t.Context())
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	require.ErrorContains(t, err, "supervisor has gone")
}
