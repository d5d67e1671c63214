package reap_test

import (
	"context"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/reap"
)

var reaper = reap.New()

// TestMain runs the one reaper of the process; no test here may use os/exec.
func TestMain(m *testing.M) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- reaper.Run(ctx) }()
	code := m.Run()
	stop()
	<-done
	os.Exit(code)
}

func sh(script string, files ...*os.File) reap.Command {
	return reap.Command{Path: "/bin/sh", Args: []string{"sh", "-c", script}, Env: []string{"PATH=/bin:/usr/bin"}, Files: files}
}

func TestStatusIsExact(t *testing.T) {
	for script, want := range map[string]reap.Status{
		"exit 0":        {},
		"exit 255":      {Code: 255},
		"kill -9 $$":    {Code: 137, Signal: unix.SIGKILL},
		"kill -TERM $$": {Code: 143, Signal: unix.SIGTERM},
	} {
		st, err := reaper.RunCommand(t.Context(), sh(script))
		require.NoError(t, err)
		require.Equal(t, want, st, script)
	}
}

func TestManyChildrenAtOnce(t *testing.T) {
	var procs []*reap.Process
	for i := range 50 {
		p, err := reaper.Start(sh("exit " + strconv.Itoa(i)))
		require.NoError(t, err)
		procs = append(procs, p)
	}
	for i, p := range procs {
		require.Equal(t, i, p.Status().Code)
	}
}

func TestCommandIsKilledWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := reaper.RunCommand(ctx, sh("exec sleep 1000"))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Less(t, time.Since(begin), time.Minute)
}

func TestProgramThatIsNotThere(t *testing.T) {
	_, err := reaper.Start(reap.Command{Path: "/no/such", Args: []string{"x"}})
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestEndedProcessIsNeverSignalled(t *testing.T) {
	p, err := reaper.Start(sh("exit 0"))
	require.NoError(t, err)
	p.Status()
	require.ErrorIs(t, p.Signal(unix.SIGKILL), errdefs.ErrNotFound)
	require.ErrorIs(t, p.While(func(int) error { return nil }), errdefs.ErrNotFound)
}

// A grandchild whose parent has exited is ours, also if it has exited before anybody
// knew its pid.
func TestOrphanIsAdopted(t *testing.T) {
	for _, life := range []string{"exit 7", "sleep 0.2; exit 7"} {
		r, w, err := os.Pipe()
		require.NoError(t, err)
		claim := reaper.Claim()
		st, err := reaper.RunCommand(t.Context(), sh("(echo $(exec sh -c 'echo $PPID') >&3; "+life+") & :", nil, nil, nil, w))
		require.NoError(t, err)
		require.Zero(t, st.Code)
		w.Close()
		buf := make([]byte, 32)
		n, err := r.Read(buf)
		require.NoError(t, err)
		r.Close()
		pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
		require.NoError(t, err)
		p, err := claim.Adopt(pid)
		require.NoError(t, err)
		_, err = claim.Adopt(os.Getppid())
		require.ErrorIs(t, err, errdefs.ErrNotFound, "no child of ours")
		claim.Release()
		require.Equal(t, 7, p.Status().Code)
	}
}

func TestOrphansThatNobodyWantsAreReaped(t *testing.T) {
	before := reaper.Orphans()
	_, err := reaper.RunCommand(t.Context(), sh("(exit 3) & (exit 4) & :"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		return err == unix.ECHILD
	}, 10*time.Second, 5*time.Millisecond)
	require.GreaterOrEqual(t, reaper.Orphans(), before)
}
