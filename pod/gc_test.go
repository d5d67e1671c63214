package pod

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func TestGCRemovesAPodOnlyAfterItsGrace(t *testing.T) {
	h := newHost(t)
	e, _, id, _ := launched(t, h)
	c, err := e.GC(t.Context(), GCSpec{})
	require.NoError(t, err)
	require.Zero(t, c, "a running pod")
	require.NoError(t, e.Stop(t.Context(), id, 0))

	c, err = e.GC(t.Context(), GCSpec{MarkOnly: true})
	require.NoError(t, err)
	require.Equal(t, Collected{Marked: []ID{id}}, c)

	c, err = e.GC(t.Context(), GCSpec{Grace: time.Hour})
	require.NoError(t, err)
	require.Equal(t, Collected{Waiting: []ID{id}}, c, "marked once")

	require.NoError(t, e.save(id, func(r *record) error { r.MarkedAt = r.MarkedAt.Add(-2 * time.Hour); return nil }))
	c, err = e.GC(t.Context(), GCSpec{Grace: time.Hour})
	require.NoError(t, err)
	require.Equal(t, Collected{Removed: []ID{id}}, c)
	h.requireNothingLeft()
}

func TestGCMarksAnewWhenTheClockWasSetBack(t *testing.T) {
	h := newHost(t)
	e, _, id, _ := launched(t, h)
	require.NoError(t, e.Stop(t.Context(), id, 0))
	require.NoError(t, e.save(id, func(r *record) error { r.MarkedAt = time.Now().Add(1000 * time.Hour); return nil }))

	c, err := e.GC(t.Context(), GCSpec{Grace: time.Hour})

	require.NoError(t, err)
	require.Equal(t, Collected{Marked: []ID{id}, Waiting: []ID{id}}, c)
	rec, _ := e.podRecord(id)
	require.False(t, rec.MarkedAt.After(time.Now()))
}

func TestGCRemovesWhatNoRecordExplains(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	stray := filepath.Join(h.config().RunDir, "aabbccdd-0000-4000-8000-000000000000")
	require.NoError(t, os.Mkdir(stray, 0o700))

	c, err := e.GC(t.Context(), GCSpec{MarkOnly: true})
	require.NoError(t, err)
	require.Zero(t, c)
	c, err = e.GC(t.Context(), GCSpec{})
	require.NoError(t, err)
	require.Equal(t, []string{stray}, c.RunFolders)
	require.NoDirExists(t, stray)
}

// rktEngine is the engine of rkt beside no other.
func (h *host) rktEngine() *Engine {
	h.t.Helper()
	cfg := h.config()
	cfg.Supervisor, cfg.Runtime = "", ""
	e, err := New(cfg, fakeLauncher{h}, fakeNet{h}, fakeRoots{h})
	require.NoError(h.t, err)
	require.NoError(h.t, e.Recover(h.t.Context()))
	h.t.Cleanup(e.Close)
	return e
}

func TestEngineWithoutSupervisorsLeavesLivingPodsAlone(t *testing.T) {
	h := newHost(t)
	_, stop, id, app := launched(t, h)
	stop()
	asked := h.called("hello")
	e := h.rktEngine()

	c, err := e.GC(t.Context(), GCSpec{})

	require.NoError(t, err)
	require.Zero(t, c)
	require.Equal(t, asked, h.called("hello"), "it connects to nobody")
	require.True(t, h.supervisor(id).has(app))
	require.ErrorIs(t, e.RemoveExited(t.Context(), id), errdefs.ErrFailedPrecondition)
	_, err = e.Launch(t.Context(), testSpec())
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	e.Close()
	next, _ := h.engine()
	a, err := next.App(app)
	require.NoError(t, err)
	require.Equal(t, Running, a.State)
}

func TestEngineWithoutSupervisorsFinishesWhatWasCutShort(t *testing.T) {
	h := newHost(t)
	e, stop, id, _ := launched(t, h)
	h.failing("detach", errBoom)
	require.NoError(t, e.Remove(t.Context(), id))
	stop()

	rkt := h.rktEngine()
	_, err := rkt.GC(t.Context(), GCSpec{})
	require.ErrorContains(t, err, "boom")
	require.ErrorContains(t, rkt.RemoveExited(t.Context(), id), "boom")
	h.failing("detach", nil)
	_, err = rkt.GC(t.Context(), GCSpec{})
	require.NoError(t, err)
	h.requireNothingLeft()
}

func TestDeadPodIsRemovedWithoutItsEngine(t *testing.T) {
	h := newHost(t)
	_, stop, id, _ := launched(t, h)
	stop()
	h.supervisor(id).die()
	require.NoError(t, h.rktEngine().RemoveExited(t.Context(), id))
	h.requireNothingLeft()
}
