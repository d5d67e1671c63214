package pod

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/supervisor"
)

// launched starts an engine with one pod that has one running app.
func launched(t *testing.T, h *host) (e *Engine, stop func(), id ID, app AppID) {
	t.Helper()
	e, stop = h.engine()
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	app, err = e.CreateApp(t.Context(), id, testApp(), plain)
	require.NoError(t, err)
	require.NoError(t, e.StartApp(t.Context(), app))
	return e, stop, id, app
}

func TestStoppedPodIsExitedWithItsAppsAndDetached(t *testing.T) {
	h := newHost(t)
	e, _, id, app := launched(t, h)

	require.NoError(t, e.Stop(t.Context(), id, 0))
	require.NoError(t, e.Stop(t.Context(), id, 0), "again")

	p, err := e.Pod(id)
	require.NoError(t, err)
	require.Equal(t, Exited, p.State)
	a, err := e.App(app)
	require.NoError(t, err)
	require.Equal(t, 137, a.Exit.Code)
	require.Empty(t, h.attached)
	require.NoFileExists(t, p.NetNS)
	require.Empty(t, h.groups)
}

func TestGraceGivesAppsTheirStopSignal(t *testing.T) {
	h := newHost(t)
	e, _, id, app := launched(t, h)

	require.NoError(t, e.Stop(t.Context(), id, time.Second))

	a, err := e.App(app)
	require.NoError(t, err)
	require.Equal(t, 143, a.Exit.Code)
}

func TestStopOfUnknownPodReturnsNil(t *testing.T) {
	e, _ := newHost(t).engine()
	require.NoError(t, e.Stop(t.Context(), "nope", time.Second))
	require.NoError(t, e.Remove(t.Context(), "nope"))
	require.NoError(t, e.StopApp(t.Context(), "nope", time.Second))
	require.NoError(t, e.RemoveApp(t.Context(), "nope"))
}

func TestStopKillsTheCgroupOfASupervisorThatDoesNotAnswer(t *testing.T) {
	h := newHost(t)
	e, _, id, app := launched(t, h)
	h.failing(supervisor.OpShutdown, errBoom)

	require.NoError(t, e.Stop(t.Context(), id, 0))

	a, err := e.App(app)
	require.NoError(t, err)
	require.Equal(t, Exited, a.State)
	require.Equal(t, 137, a.Exit.Code)
	require.False(t, a.Exit.FinishedAt.Before(a.Exit.StartedAt))
	require.Empty(t, h.groups)
}

func TestPodOfKilledSupervisorExitsByItself(t *testing.T) {
	h := newHost(t)
	e, _, id, app := launched(t, h)
	other := testSpec()
	other.UID = "u2"
	otherID, err := e.Launch(t.Context(), other)
	require.NoError(t, err)

	h.supervisor(id).die()

	eventually(t, func() bool { p, err := e.Pod(id); return err == nil && p.State == Exited }, "the pod is noticed to be over")
	a, err := e.App(app)
	require.NoError(t, err)
	require.Equal(t, 137, a.Exit.Code)
	eventually(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return !h.attached[string(id)] }, "detached")
	p, err := e.Pod(otherID)
	require.NoError(t, err)
	require.Equal(t, Running, p.State)
	disk, err := supervisor.ReadExit(e.appDir(id, app))
	require.NoError(t, err)
	require.Equal(t, 137, disk.Code, "the exit lasts")
}

func TestStopAndRemoveWorkWithTheSupervisorDead(t *testing.T) {
	h := newHost(t)
	e, stop, id, app := launched(t, h)
	stop() // nobody follows events
	h.supervisor(id).die()

	require.NoError(t, e.StopApp(t.Context(), app, time.Minute))
	require.NoError(t, e.RemoveApp(t.Context(), app))
	require.NoError(t, e.Stop(t.Context(), id, time.Minute))
	require.NoError(t, e.Remove(t.Context(), id))

	h.requireNothingLeft()
}

func TestPluginThatFailsDoesNotKeepAPodFromStopping(t *testing.T) {
	h := newHost(t)
	e, _, id, _ := launched(t, h)
	h.failing("detach", errBoom)

	require.NoError(t, e.Stop(t.Context(), id, 0))
	require.NoError(t, e.Remove(t.Context(), id))

	_, err := e.Pod(id)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.Len(t, h.attached, 1)
	h.failing("detach", nil)
	eventually(t, func() bool { _, left := e.findPodAny(); return !left }, "removed by Run")
	h.requireNothingLeft()
}

func TestHangingDetachDelaysNobodyElse(t *testing.T) {
	h := newHost(t)
	e, _, id, _ := launched(t, h)
	h.hanging("detach", true)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Stop(ctx, id, 0) }()
	<-h.reached

	eventually(t, func() bool { p, err := e.Pod(id); return err == nil && p.State == Exited }, "reported while the plugin hangs")
	other := testSpec()
	other.UID = "u2"
	_, err := e.Launch(t.Context(), other)
	require.NoError(t, err)

	h.hanging("detach", false)
	cancel()
	require.NoError(t, <-done)
	eventually(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return !h.attached[string(id)] }, "detached later")
}

func TestPluginsDoNotWaitForThePodsProcesses(t *testing.T) {
	h := newHost(t)
	e, _, id, _ := launched(t, h)
	h.hanging("kill", true)
	done := make(chan error, 1)
	go func() { done <- e.Stop(t.Context(), id, 0) }()
	require.Equal(t, "kill", <-h.reached)
	eventually(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return !h.attached[string(id)] }, "detached while the kill hangs")
	select {
	case err := <-done:
		t.Fatal("a pod whose processes live is not stopped", err)
	default:
	}
	h.hanging("kill", false)
	require.NoError(t, <-done)
}

func TestPodThatCannotBeKilledIsStoppedByTheNextStop(t *testing.T) {
	h := newHost(t)
	e, _, id, _ := launched(t, h)
	h.failing("kill", errBoom)
	require.ErrorIs(t, e.Stop(t.Context(), id, 0), errBoom)
	h.failing("kill", nil)
	require.NoError(t, e.Stop(t.Context(), id, 0))
	p, err := e.Pod(id)
	require.NoError(t, err)
	require.Equal(t, Exited, p.State)
	require.Empty(t, h.attached[string(id)])
}

func TestRemovalThatFailsAtAnyStepIsFinishedLater(t *testing.T) {
	for _, step := range []string{"kill", "sweep", "remove root"} {
		t.Run(step, func(t *testing.T) {
			h := newHost(t)
			e, _, id, _ := launched(t, h)
			h.failing(step, errBoom)

			err := e.Remove(t.Context(), id)

			require.ErrorIs(t, err, errBoom)
			require.Empty(t, e.Pods(nil))
			h.failing(step, nil)
			eventually(t, func() bool { _, left := e.findPodAny(); return !left }, "removed by Run")
			h.requireNothingLeft()
		})
	}
}

func TestEndOfTheInstanceEndsThePod(t *testing.T) {
	h := newHost(t)
	e, _, id, _ := launched(t, h)

	h.supervisor(id).say(supervisor.Event{Kind: supervisor.PodHasEnded})

	eventually(t, func() bool { p, err := e.Pod(id); return err == nil && p.State == Exited }, "ended")
}

func TestRemovedPodLeavesNothing(t *testing.T) {
	h := newHost(t)
	e, _, id, app := launched(t, h)
	dir := e.podDir(id)

	require.NoError(t, e.Remove(t.Context(), id))

	h.requireNothingLeft()
	_, err := os.Stat(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = e.App(app)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}
