package pod

import (
	"context"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/supervisortest"
)

func (h *host) observer() *Observer {
	c := h.config()
	return NewObserver(c.Dir, c.RunDir, c.NetNSDir)
}

func TestObserverSeesWhatTheEngineKnows(t *testing.T) {
	h := newHost(t)
	e, stop, id, app := launched(t, h)
	for _, engine := range []string{"beside", "without"} {
		t.Run(engine+" an engine", func(t *testing.T) {
			want, err := e.Pod(id)
			require.NoError(t, err)
			if engine == "without" {
				stop()
			}

			s, err := h.observer().Pod(t.Context(), id)

			require.NoError(t, err)
			require.Equal(t, Running, s.State)
			require.True(t, s.Alive)
			require.NoError(t, s.Silent)
			require.Empty(t, s.Unread)
			require.Equal(t, want.Network, s.Network)
			require.Equal(t, want.Spec, s.Spec)
			require.False(t, s.StartedAt.IsZero())
			require.Len(t, s.Apps, 1)
			require.Equal(t, app, s.Apps[0].ID)
			require.Equal(t, Running, s.Apps[0].State)
			require.Equal(t, 100, s.Apps[0].PID)
			lives, err := h.observer().EngineLives()
			require.NoError(t, err)
			require.Equal(t, engine == "beside", lives)
		})
	}
}

func TestObserverTellsHowAnAppEnded(t *testing.T) {
	h := newHost(t)
	_, stop, id, app := launched(t, h)
	stop()
	h.supervisor(id).exit(app, supervisor.Exit{Code: 3})

	s, err := h.observer().Pod(t.Context(), id)

	require.NoError(t, err)
	require.Equal(t, Running, s.State, "the pod goes on")
	require.Equal(t, Exited, s.Apps[0].State)
	require.Equal(t, 3, s.Apps[0].Exit.Code)
}

func TestPodWhoseSupervisorWasKilledIsSeenExited(t *testing.T) {
	h := newHost(t)
	_, stop, id, _ := launched(t, h)
	stop()
	h.supervisor(id).die()

	s, err := h.observer().Pod(t.Context(), id)

	require.NoError(t, err)
	require.False(t, s.Alive)
	require.Equal(t, Exited, s.State)
	require.Equal(t, Exited, s.Apps[0].State)
	require.Nil(t, s.Apps[0].Exit, "nobody has seen it")
}

func TestSupervisorThatDoesNotAnswerIsSeenAlive(t *testing.T) {
	h := newHost(t)
	_, stop, id, _ := launched(t, h)
	stop()
	h.failing(supervisor.OpStatus, errBoom)

	s, err := h.observer().Pod(t.Context(), id)

	require.NoError(t, err)
	require.True(t, s.Alive)
	require.ErrorContains(t, s.Silent, "boom")
	require.Equal(t, Running, s.State)
}

func TestPodIsFoundByTheStartOfItsID(t *testing.T) {
	h := newHost(t)
	_, err := h.observer().Find("a")
	require.EqualError(t, err, `no matches found for "a"`)
	require.ErrorIs(t, err, errdefs.ErrNotFound)

	for _, id := range []string{"aabbccdd-0000-4000-8000-000000000000", "aabbccee-0000-4000-8000-000000000000"} {
		require.NoError(t, os.MkdirAll(filepath.Join(h.config().Dir, id), 0o700))
	}
	require.NoError(t, os.Mkdir(filepath.Join(h.config().Dir, newPrefix+"aabbccff-0000-4000-8000-000000000000"), 0o700))
	id, err := h.observer().Find("aabbccd")
	require.NoError(t, err)
	require.Equal(t, ID("aabbccdd-0000-4000-8000-000000000000"), id)
	_, err = h.observer().Find("aa")
	require.EqualError(t, err, `ambiguous uuid "aa", 2 matches`)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	_, err = h.observer().Find("")
	require.ErrorIs(t, err, errdefs.ErrNotFound, "nothing is no beginning")
}

func TestPodIsFoundByItsName(t *testing.T) {
	h := newHost(t)
	e, _, first, _ := launched(t, h)
	o := h.observer()
	_, err := o.Find("default/nope")
	require.EqualError(t, err, `no matches found for "default/nope"`)
	id, err := o.Find("default/web")
	require.NoError(t, err)
	require.Equal(t, first, id)
	again := testSpec()
	again.Attempt = 1
	second, err := e.Launch(t.Context(), again)
	require.NoError(t, err)
	_, err = o.Find("default/web")
	require.EqualError(t, err, `ambiguous uuid "default/web", 2 matches`)
	require.NoError(t, e.Stop(t.Context(), first, 0))
	id, err = o.Find("default/web")
	require.NoError(t, err)
	require.Equal(t, second, id, "the one that lives")
	require.NoError(t, e.Stop(t.Context(), second, 0))
	id, err = o.Find("default/web")
	require.NoError(t, err)
	require.Equal(t, second, id, "the last")
}

func TestRecordThatCannotBeReadHidesNoOtherFromTheObserver(t *testing.T) {
	h := newHost(t)
	e, stop, id, _ := launched(t, h)
	other := testSpec()
	other.UID = "u2"
	otherID, err := e.Launch(t.Context(), other)
	require.NoError(t, err)
	stop()
	require.NoError(t, os.WriteFile(filepath.Join(e.podDir(id), podRecordName), []byte(`{"version":99}`), 0o600))

	seen, errs := h.observer().Pods(t.Context())

	require.Len(t, errs, 1)
	require.ErrorIs(t, errs[0], errdefs.ErrFailedPrecondition)
	require.Len(t, seen, 1)
	require.Equal(t, otherID, seen[0].ID)
}

// killer is a launcher of which only Kill is used.
type killer struct {
	fakeLauncher
	killed chan string
}

func (k killer) Kill(ctx context.Context, parent, pod string) error {
	k.killed <- parent + " " + pod
	return k.fakeLauncher.Kill(ctx, parent, pod)
}

func TestKilledPodHasNoSupervisorWhenKillReturns(t *testing.T) {
	for name, hang := range map[string]bool{"its supervisor ends it": false, "its supervisor hangs": true} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			_, stop, id, app := launched(t, h)
			stop()
			s, err := h.observer().Pod(t.Context(), id)
			require.NoError(t, err)
			if hang {
				h.failing(supervisor.OpShutdown, errBoom)
			}
			k := killer{fakeLauncher{h}, make(chan string, 1)}

			require.NoError(t, h.observer().Kill(t.Context(), s.Pod, k, time.Minute))

			gone, err := lockIsFree(s.Dir)
			require.NoError(t, err)
			require.True(t, gone)
			if hang {
				require.Equal(t, "/kubepods/pod1 "+string(id), <-k.killed)
			} else {
				require.Empty(t, k.killed)
				after, err := h.observer().Pod(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, app, after.Apps[0].ID)
				require.Equal(t, 137, after.Apps[0].Exit.Code)
			}
		})
	}
}

// terminateEnv makes the test binary a supervisor that waits for SIGTERM, in the
// folder that it names.
const terminateEnv = "RKTT_TERMINATED"

const terminated = "aabbccdd-0000-4000-8000-000000000000"

func beTerminated(dir string) error {
	got := make(chan os.Signal, 1)
	signal.Notify(got, unix.SIGTERM)
	fake := &supervisortest.Fake{} // its pid is this process's
	if err := fake.Start(dir+"/pods/"+terminated, dir+"/run/"+terminated); err != nil {
		return err
	}
	<-got
	return os.WriteFile(dir+"/terminated", nil, 0o600)
}

func TestTerminateSignalsTheSupervisorAndNobodyElse(t *testing.T) {
	dir := t.TempDir()
	o := NewObserver(dir+"/pods", dir+"/run", dir+"/netns")
	for _, d := range []string{"/pods/", "/run/"} {
		require.NoError(t, os.MkdirAll(dir+d+terminated, 0o700))
	}
	require.NoError(t, supervisor.WriteSpec(dir+"/pods/"+terminated, supervisor.Spec{Flavor: "lean", Stage1: stage1.Spec{ID: terminated}}))
	start := func(args ...string) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe", args...)
		cmd.Env = append(os.Environ(), terminateEnv+"="+dir)
		cmd.Stderr = os.Stderr
		require.NoError(t, cmd.Start())
		t.Cleanup(func() {
			cmd.Process.Kill()
			cmd.Wait()
		})
		eventually(t, func() bool {
			c, err := o.Dial(t.Context(), terminated)
			if err == nil {
				c.Close()
			}
			return err == nil
		}, "it listens")
		return cmd
	}

	other := start("of", "another", "name")
	err := o.Terminate(t.Context(), terminated)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "is not the supervisor")
	require.NoError(t, other.Process.Kill())
	other.Wait()
	require.NoFileExists(t, dir+"/terminated")

	own := start(dir+"/pods/"+terminated, dir+"/run/"+terminated)
	require.NoError(t, o.Terminate(t.Context(), terminated))
	require.NoError(t, own.Wait())
	require.FileExists(t, dir+"/terminated")
	require.ErrorIs(t, o.Terminate(t.Context(), terminated), errdefs.ErrUnavailable)
}

func TestWaitGoneEndsWithItsContext(t *testing.T) {
	h := newHost(t)
	_, _, id, _ := launched(t, h)
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	require.ErrorIs(t, h.observer().WaitGone(ctx, id), context.DeadlineExceeded)
}
