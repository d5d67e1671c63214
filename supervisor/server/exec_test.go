package server_test

import (
	"context"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/supervisor"
)

const outputCap = 16 << 20

func (p *testPod) exec(timeout time.Duration, args ...string) (supervisor.ExecOutput, error) {
	p.t.Helper()
	return p.ExecSync(p.t.Context(), supervisor.ExecSpec{App: "a", Process: execProcess(p.t, false, args...), Timeout: timeout}, outputCap)
}

func TestExecReturnsOutputAndExactCode(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	for _, code := range []int{0, 1, 126, 127, 255} {
		out, err := p.exec(0, "/bin/sh", "-c", "echo out; echo err >&2; exit "+itoa(code))
		require.NoError(t, err)
		require.Equal(t, code, out.Exit.Code)
		require.Equal(t, "out\n", string(out.Stdout))
		require.Equal(t, "err\n", string(out.Stderr))
	}
	out, err := p.exec(0, "/bin/sh", "-c", "kill -9 $$")
	require.NoError(t, err)
	require.Equal(t, 137, out.Exit.Code)
	require.Equal(t, 9, out.Exit.Signal)

	_, err = p.exec(0, "/no/such/program")
	require.ErrorContains(t, err, "/no/such/program")
	p.Client.Close()
	p.dial()
	_, err = p.ExecSync(t.Context(), supervisor.ExecSpec{App: "b"}, 1)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestExecRunsInTheAppsCgroupsAndNamespaces(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	out, err := p.exec(0, "/bin/ps")
	require.NoError(t, err)
	require.Contains(t, string(out.Stdout), "sleep 1000")

	s, err := p.Exec(t.Context(), supervisor.ExecSpec{App: "a", Process: execProcess(t, false, "/bin/sleep", "1000")}, nil, nil, nil)
	require.NoError(t, err)
	for _, dir := range cgroup.Dirs(spec.Cgroup) {
		require.Len(t, procsBelow(t, dir), 2, "both processes are in %s", dir)
	}
	_, err = p.StopApp(t.Context(), "a", 9, 0)
	require.NoError(t, err)
	exit, err := s.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 9, exit.Signal, "an exec ends with its app")
}

func procsBelow(t *testing.T, dir string) (pids []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "cgroup.procs" {
			text, _ := os.ReadFile(path)
			pids = append(pids, strings.Fields(string(text))...)
		}
		return nil
	}))
	return pids
}

func TestExecTimeoutKillsTheWholeTree(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	begin := time.Now()
	out, err := p.exec(3*time.Second, "/bin/sh", "-c", "echo begun; (setsid sleep 2000 &); setsid sleep 2000 & sleep 2000")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Equal(t, "begun\n", string(out.Stdout))
	require.Less(t, time.Since(begin), time.Minute)
	require.Len(t, cgroup.Procs(spec.Cgroup), 1, "only the app itself lives on")
}

func TestExecLeavesWhatItPutIntoTheBackground(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	begin := time.Now()
	out, err := p.exec(time.Hour, "/bin/sh", "-c", "sleep 2000 & echo started")
	require.NoError(t, err)
	require.Equal(t, "started\n", string(out.Stdout), "its open stdout is not waited for")
	require.Less(t, time.Since(begin), time.Minute)
	require.Len(t, cgroup.Procs(spec.Cgroup), 2)

	_, err = p.exec(300*time.Millisecond, "/bin/sleep", "2000")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, cgroup.Procs(spec.Cgroup), 2, "another exec's timeout does not end it")
	_, err = p.StopApp(t.Context(), "a", 9, 0)
	require.NoError(t, err)
	require.NoError(t, p.RemoveApp(t.Context(), "a"))
	require.Empty(t, cgroup.Dirs(spec.Cgroup))
}

func TestExecOutputIsCapped(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	out, err := p.ExecSync(t.Context(), supervisor.ExecSpec{App: "a",
		Process: execProcess(t, false, "/bin/sh", "-c", "yes | head -c 3000000; yes | head -c 10 >&2")}, 1<<20)
	require.NoError(t, err)
	require.Zero(t, out.Exit.Code, "a writer over the cap is not blocked")
	require.Len(t, out.Stdout, 1<<20)
	require.Len(t, out.Stderr, 10)
}

func TestExecWithATerminal(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	s, err := p.Exec(t.Context(), supervisor.ExecSpec{App: "a", TTY: true,
		Process: execProcess(t, true, "/bin/sh", "-c", "read line; echo got $line; stty size; exit 5")}, nil, nil, nil)
	require.NoError(t, err)
	defer s.Terminal.Close()
	require.NoError(t, s.Resize(t.Context(), 21, 43))
	_, err = io.WriteString(s.Terminal, "hello\n")
	require.NoError(t, err)
	exit, err := s.Wait(t.Context())
	require.NoError(t, err)
	require.Equal(t, 5, exit.Code)
	text, _ := io.ReadAll(s.Terminal) // EIO at the end
	require.Contains(t, string(text), "got hello")
	require.Contains(t, string(text), "21 43")
}

func TestExecEndsWithItsConnection(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	_, err := p.Exec(t.Context(), supervisor.ExecSpec{App: "a", Process: execProcess(t, false, "/bin/sleep", "2000")}, nil, nil, nil)
	require.NoError(t, err)
	require.Len(t, cgroup.Procs(spec.Cgroup), 2)
	p.Client.Close()
	waitFor(t, func() bool { return len(cgroup.Procs(spec.Cgroup)) == 1 })
}

func TestExecEndsWithItsCaller(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	ctx, cancel := context.WithCancel(t.Context())
	s, err := p.Exec(ctx, supervisor.ExecSpec{App: "a", Process: execProcess(t, false, "/bin/sleep", "2000")}, nil, nil, nil)
	require.NoError(t, err)
	cancel()
	_, err = s.Wait(ctx)
	require.ErrorIs(t, err, context.Canceled)
	waitFor(t, func() bool { return len(cgroup.Procs(spec.Cgroup)) == 1 })
	require.NoError(t, p.SignalApp(t.Context(), "a", 0), "the connection goes on")
}

func TestManyExecsLeaveNothing(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	run := func(n int) {
		for range n {
			out, err := p.exec(10*time.Second, "/bin/true")
			require.NoError(t, err)
			require.Zero(t, out.Exit.Code)
		}
	}
	run(20)
	fds, groups := p.fds(), len(cgroup.Children(spec.Cgroup))
	n := 200
	if long, err := strconv.Atoi(os.Getenv("RKTT_EXECS")); err == nil { // 10000 for the full proof
		n = long
	}
	begin := time.Now()
	run(n)
	t.Logf("%.1f ms each", float64(time.Since(begin).Microseconds())/1000/float64(n))
	require.Len(t, cgroup.Procs(spec.Cgroup), 1)
	require.Equal(t, groups, len(cgroup.Children(spec.Cgroup)))
	waitFor(t, func() bool { return p.fds() <= fds })
	left, err := os.ReadDir(filepath.Join(p.runDir, "tmp"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func (p *testPod) fds() int {
	entries, err := os.ReadDir("/proc/" + itoa(p.cmd.Process.Pid) + "/fd")
	require.NoError(p.t, err)
	return len(entries)
}

func TestAttachSeesOutputAndGivesInput(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.add("a", appConfig{Args: []string{"/bin/sh", "-c", "while read line; do echo got $line; done; echo end >&2; exit 6"}})
	spec.Stdin, spec.StdinOnce = true, true
	_, err := p.CreateApp(t.Context(), spec)
	require.NoError(t, err)
	_, err = p.StartApp(t.Context(), "a")
	require.NoError(t, err)

	inR, inW, err := os.Pipe()
	require.NoError(t, err)
	outR, outW, err := os.Pipe()
	require.NoError(t, err)
	errR, errW, err := os.Pipe()
	require.NoError(t, err)
	done := make(chan error, 1)
	go func() { done <- p.Attach(t.Context(), "a", inR, outW, errW) }()
	_, err = io.WriteString(inW, "one\n")
	require.NoError(t, err)
	buf := make([]byte, 8)
	_, err = io.ReadFull(outR, buf)
	require.NoError(t, err)
	require.Equal(t, "got one\n", string(buf))
	inW.Close()
	inR.Close()
	require.NoError(t, <-done)
	outW.Close()
	errW.Close()
	text, err := io.ReadAll(errR)
	require.NoError(t, err)
	require.Equal(t, "end\n", string(text))
	outR.Close()
	errR.Close()
	require.Equal(t, 6, p.wait("a").Code)
	require.Equal(t, "got one\n", logged(t, spec.Log, "stdout"), "the log has it too")
}
