package server_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/supervisor"
)

func TestExitIsOnDiskBeforeItIsReported(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.sh("a", "echo out; echo err >&2; exit 42")

	exit := p.wait("a")

	require.Equal(t, 42, exit.Code)
	require.Zero(t, exit.Signal)
	require.False(t, exit.OOMKilled)
	require.False(t, exit.FinishedAt.Before(exit.StartedAt))
	onDisk, err := supervisor.ReadExit(spec.Dir)
	require.NoError(t, err)
	require.Equal(t, exit, onDisk)
	require.Equal(t, "out\n", logged(t, spec.Log, "stdout"))
	require.Equal(t, "err\n", logged(t, spec.Log, "stderr"))
}

func TestAppThatExitsAtOnceIsNotMissed(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	for i := range 20 {
		name := "a" + string(rune('a'+i))
		p.run(name, appConfig{Args: []string{"/bin/false"}})
		require.Equal(t, 1, p.wait(name).Code)
		require.NoError(t, p.RemoveApp(t.Context(), name))
	}
}

func TestSignalledAppReportsItsSignal(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	require.NoError(t, p.SignalApp(t.Context(), "a", int(unix.SIGKILL)))
	exit := p.wait("a")
	require.Equal(t, supervisor.Exit{Code: 137, Signal: 9, StartedAt: exit.StartedAt, FinishedAt: exit.FinishedAt}, exit)
	require.ErrorIs(t, p.SignalApp(t.Context(), "a", 15), errdefs.ErrNotFound)
}

func TestStopSendsTheSignalThenKillsAfterGrace(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.sh("polite", "trap 'exit 7' USR1; echo up; while :; do sleep 0.05; done")
	spec := p.sh("deaf", "trap '' TERM; echo up; while :; do sleep 0.05; done")
	waitFor(t, func() bool { return fileHas(spec.Log, "up") && fileHas(filepath.Join(p.podDir, "polite.log"), "up") })

	exit, err := p.StopApp(t.Context(), "polite", int(unix.SIGUSR1), 30*time.Second)
	require.NoError(t, err)
	require.Equal(t, 7, exit.Code)

	begin := time.Now()
	exit, err = p.StopApp(t.Context(), "deaf", int(unix.SIGTERM), 300*time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, 9, exit.Signal)
	require.Greater(t, time.Since(begin), 300*time.Millisecond)

	again, err := p.StopApp(t.Context(), "deaf", int(unix.SIGTERM), time.Second)
	require.NoError(t, err)
	require.Equal(t, exit, again, "stopping twice returns the same exit")
	require.Empty(t, cgroup.Procs(spec.Cgroup))
}

// A runtime whose start returns before the app's program runs, as all do by a little.
func TestStopSignalReachesTheAppAndNotTheRuntimesInit(t *testing.T) {
	for _, runtime := range []string{"/usr/sbin/runc", "/usr/bin/crun"} {
		t.Run(filepath.Base(runtime), func(t *testing.T) {
			dir := t.TempDir()
			late, goOn := filepath.Join(dir, filepath.Base(runtime)), filepath.Join(dir, "go-on")
			require.NoError(t, os.WriteFile(late, []byte("#!/bin/sh\ncase \" $* \" in\n*' start '*) (until [ -e "+goOn+" ]; do sleep 0.05; done; exec "+runtime+" \"$@\") & ;;\n*) exec "+runtime+" \"$@\" ;;\nesac\n"), 0o755))
			p := launch(t, supervisor.Spec{Runtime: late})
			p.run("a", appConfig{Args: []string{"/bin/sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.05; done"}})
			stopped := make(chan supervisor.Exit, 1)
			go func() {
				exit, err := p.StopApp(t.Context(), "a", int(unix.SIGTERM), 3*time.Second)
				assert.NoError(t, err)
				stopped <- exit
			}()
			time.Sleep(300 * time.Millisecond) // the stop is under way; if it is not yet, the test proves less
			require.NoError(t, os.WriteFile(goOn, nil, 0o600))

			exit := <-stopped

			// The shell may be asked before it listens: then it is killed.
			require.True(t, exit.Code == 7 || exit.Signal == 9, "code %d, signal %d", exit.Code, exit.Signal)
		})
	}
}

func TestLaterStopShortensTheGrace(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.sh("a", "trap '' TERM; echo up; while :; do sleep 0.05; done")
	waitFor(t, func() bool { return fileHas(spec.Log, "up") })
	first := make(chan error, 1)
	go func() {
		_, err := p.StopApp(t.Context(), "a", int(unix.SIGTERM), time.Hour)
		first <- err
	}()
	_, err := p.StopApp(t.Context(), "a", int(unix.SIGTERM), 50*time.Millisecond)
	require.NoError(t, err)
	require.NoError(t, <-first)
}

func TestOOMKillIsReported(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.run("a", appConfig{
		Args:      []string{"/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"},
		Resources: map[string]any{"memory": map[string]any{"limit": 16 << 20}},
		Mounts:    []map[string]any{{"destination": "/dev/zero", "type": "bind", "source": "/dev/zero", "options": []string{"bind"}}},
	})
	exit := p.wait("a")
	require.True(t, exit.OOMKilled, "%+v", exit)
	require.Equal(t, 9, exit.Signal)
}

func TestOOMOfAChildIsNotReportedForACleanExit(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.run("a", appConfig{
		Args:      []string{"/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=64M count=1; exit 0"},
		Resources: map[string]any{"memory": map[string]any{"limit": 16 << 20}},
	})
	exit := p.wait("a")
	require.Zero(t, exit.Code)
	require.False(t, exit.OOMKilled)
}

func TestChildrenOfAnExitedAppAreKilled(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{ // in the host's PID namespace nothing else would end them
		Args:       []string{"/bin/sh", "-c", "setsid sleep 1000 & setsid sleep 1000 & exit 3"},
		Namespaces: []map[string]string{{"type": "mount"}},
	})
	require.Equal(t, 3, p.wait("a").Code)
	require.Empty(t, cgroup.Procs(spec.Cgroup))
}

func TestCreateOfAWrongAppLeavesNothing(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.add("a", appConfig{Args: []string{"/no/such/program"}})
	_, err := p.CreateApp(t.Context(), spec)
	require.ErrorContains(t, err, "/no/such/program")
	require.Empty(t, cgroup.Dirs(spec.Cgroup))
	entries, err := os.ReadDir(filepath.Join(p.runDir, "oci"))
	require.NoError(t, err)
	require.Empty(t, entries)
	left, err := os.ReadDir(filepath.Join(p.runDir, "tmp"))
	require.NoError(t, err)
	require.Empty(t, left)

	p.run("a", appConfig{Args: []string{"/bin/true"}}) // the name is free again
	require.Zero(t, p.wait("a").Code)
}

func TestNamesAndStatesAreChecked(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	ctx := t.Context()
	_, err := p.StartApp(ctx, "nope")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = p.StopApp(ctx, "nope", 15, 0)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.NoError(t, p.RemoveApp(ctx, "nope"))
	bad := p.add("a", appConfig{Args: []string{"/bin/true"}})
	for _, name := range []string{"", ".", "-x", "a/b", "a b"} {
		bad.Name = name
		_, err = p.CreateApp(ctx, bad)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, name)
	}

	spec := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	_, err = p.CreateApp(ctx, spec)
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	_, err = p.StartApp(ctx, "a")
	require.NoError(t, err, "starting twice is no error")
	require.ErrorIs(t, p.RemoveApp(ctx, "a"), errdefs.ErrFailedPrecondition)
	_, err = p.StopApp(ctx, "a", 15, 0)
	require.NoError(t, err)
	_, err = p.StartApp(ctx, "a")
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.NoError(t, p.RemoveApp(ctx, "a"))
	require.Empty(t, cgroup.Dirs(spec.Cgroup))
}

func TestCreatedAppThatNeverRanIsRemoved(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.add("a", appConfig{Args: []string{"/bin/true"}})
	pid, err := p.CreateApp(t.Context(), spec)
	require.NoError(t, err)
	st, err := p.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, st.Apps, 1)
	require.Equal(t, supervisor.AppCreated, st.Apps[0].State)
	require.Equal(t, pid, st.Apps[0].PID)
	require.NoError(t, p.RemoveApp(t.Context(), "a"))
	require.Empty(t, cgroup.Dirs(spec.Cgroup))
	st, err = p.Status(t.Context())
	require.NoError(t, err)
	require.Empty(t, st.Apps)
}

func TestLimitsAreUpdated(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}, Resources: map[string]any{"pids": map[string]any{"limit": 100}}})
	require.NoError(t, p.UpdateApp(t.Context(), "a", []byte(`{"pids":{"limit":55}}`)))
	text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup/pids", p.cgroup, "a/pids.max"))
	if cgroup.Unified() {
		text, err = os.ReadFile(filepath.Join("/sys/fs/cgroup", p.cgroup, "a/pids.max"))
	}
	require.NoError(t, err)
	require.Equal(t, "55", strings.TrimSpace(string(text)))
}

func TestAppWithATerminal(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{TTY: true, Args: []string{"/bin/sh", "-c",
		"[ -t 0 ] && [ -t 2 ] && echo terminal; while [ \"$(stty size)\" != '33 44' ]; do sleep 0.05; done; exit 4"}})
	require.NoError(t, p.ResizeApp(t.Context(), "a", 33, 44))
	require.Equal(t, 4, p.wait("a").Code)
	require.Contains(t, logged(t, spec.Log, "stdout"), "terminal\r\n")
	require.ErrorIs(t, p.ResizeApp(t.Context(), "b", 1, 1), errdefs.ErrNotFound)
}

func TestAppsJoinTheNamespacesOfOneAnother(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	p.run("target", appConfig{Args: []string{"/bin/sleep", "1234"}})
	debugger := p.add("debugger", appConfig{
		Args:       []string{"/bin/ps"},
		Namespaces: []map[string]string{{"type": "pid", "path": supervisor.NamespacePath(p.runDir, "pid-debugger")}, {"type": "mount"}},
	})
	debugger.PIDOf = "target"
	_, err := p.CreateApp(t.Context(), debugger)
	require.NoError(t, err)
	_, err = p.StartApp(t.Context(), "debugger")
	require.NoError(t, err)
	require.Zero(t, p.wait("debugger").Code)
	require.Contains(t, logged(t, debugger.Log, "stdout"), "sleep 1234")

	debugger.Name, debugger.PIDOf = "other", "nobody"
	_, err = p.CreateApp(t.Context(), debugger)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

// waitFor polls what nobody reports: for conditions outside the supervisor.
func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, time.Minute, 5*time.Millisecond)
}

func fileHas(path, text string) bool {
	b, err := os.ReadFile(path)
	return err == nil && strings.Contains(string(b), text)
}
