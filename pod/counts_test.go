package pod

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/supervisor"
)

func TestWhatFailsHalfWayIsCounted(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	h.failing("launch", errBoom)
	_, err := e.Launch(t.Context(), testSpec())
	require.Error(t, err)
	h.failing("launch", nil)
	require.Equal(t, UndoCounts{Launches: 1}, e.Counts().Undone)
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	h.failing(supervisor.OpCreateApp, errBoom)
	_, err = e.CreateApp(t.Context(), id, testApp(), plain)
	require.Error(t, err)
	require.Equal(t, UndoCounts{Launches: 1, Creates: 1}, e.Counts().Undone)
	h.failing("remove root", errors.New("disk on fire"))
	_, err = e.CreateApp(t.Context(), id, testApp(), plain)
	require.ErrorContains(t, err, "disk on fire")
	h.failing("remove root", nil)

	require.Equal(t, UndoCounts{Launches: 1, Creates: 2, Failed: 1}, e.Counts().Undone)
}

func TestSupervisorsAreCounted(t *testing.T) {
	h := newHost(t)
	_, stop, id, app := launched(t, h)
	stop()
	e, _ := h.engine()
	require.Equal(t, SupervisorCounts{Adopted: 1}, e.Counts().Supervisors)

	h.supervisor(id).die()
	require.NoError(t, e.StopApp(t.Context(), app, 0)) // may see it first, or not
	eventually(t, func() bool { p, err := e.Pod(id); return err == nil && p.State == Exited }, "the pod is noticed to be over")

	require.EqualValues(t, 1, e.Counts().Supervisors.Lost)
}

func TestSupervisorLostBetweenTwoEnginesIsCounted(t *testing.T) {
	h := newHost(t)
	_, stop, id, _ := launched(t, h)
	stop()
	h.supervisor(id).die()

	e, _ := h.engine()

	require.Equal(t, SupervisorCounts{Lost: 1}, e.Counts().Supervisors)
}

func TestGarbageIsCounted(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	stray := string(newID())
	h.mu.Lock()
	h.groups[stray] = "/kubepods"
	h.roots[string(newAppID())] = true
	h.mu.Unlock()
	for range 2 {
		_, err := e.Collect(t.Context())
		require.NoError(t, err)
	}
	require.Equal(t, GarbageCounts{Runs: 2, Groups: 1, Roots: 1}, e.Counts().Garbage)
}
