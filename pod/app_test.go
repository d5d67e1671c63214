package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
)

func TestAppGoesThroughItsLife(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	var place Place
	app, err := e.CreateApp(t.Context(), id, testApp(), func(ctx context.Context, p Place) (Configured, error) {
		place = p
		return plain(ctx, p)
	})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(h.dir, "root-"+string(app)), place.Root)
	require.Equal(t, e.runDir(id)+"/ns/network", place.Namespace(stage1.Network))
	require.Empty(t, place.Namespace(stage1.PID))
	require.FileExists(t, place.ResolvConf)
	a, err := e.App(app)
	require.NoError(t, err)
	require.Equal(t, Created, a.State)
	require.Equal(t, place.Cgroup, a.Cgroup)
	process, err := e.AppProcess(app)
	require.NoError(t, err)
	require.JSONEq(t, `{"cwd":"/"}`, string(process))

	require.NoError(t, e.StartApp(t.Context(), app))
	require.NoError(t, e.StartApp(t.Context(), app), "again")
	a, err = e.App(app)
	require.NoError(t, err)
	require.Equal(t, Running, a.State)

	require.NoError(t, e.StopApp(t.Context(), app, time.Second))
	require.NoError(t, e.StopApp(t.Context(), app, time.Second), "again")
	a, err = e.App(app)
	require.NoError(t, err)
	require.Equal(t, 143, a.Exit.Code)
	require.ErrorIs(t, e.StartApp(t.Context(), app), errdefs.ErrFailedPrecondition)

	require.NoError(t, e.RemoveApp(t.Context(), app))
	_, err = e.App(app)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.False(t, h.supervisor(id).has(app))
	require.NoDirExists(t, e.appDir(id, app))
}

func TestCreateThatFailsAtAnyStepLeavesNothingAndCanBeRepeated(t *testing.T) {
	for _, step := range []string{"create root", "mount root", "configure", supervisor.OpCreateApp} {
		t.Run(step, func(t *testing.T) {
			h := newHost(t)
			e, _ := h.engine()
			id, err := e.Launch(t.Context(), testSpec())
			require.NoError(t, err)
			h.failing(step, fmt.Errorf("boom: %w", errdefs.ErrInvalidArgument))
			configure := func(ctx context.Context, p Place) (Configured, error) {
				if err := h.step(ctx, "configure"); err != nil {
					return Configured{}, err
				}
				return plain(ctx, p)
			}

			_, err = e.CreateApp(t.Context(), id, testApp(), configure)

			require.ErrorContains(t, err, "boom")
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument, "the class gets through")
			require.Empty(t, e.Apps(nil))
			require.Empty(t, h.rootIDs())
			entries, err := os.ReadDir(filepath.Join(e.podDir(id), "apps"))
			require.NoError(t, err)
			require.Empty(t, entries)
			h.failing(step, nil)
			_, err = e.CreateApp(t.Context(), id, testApp(), configure)
			require.NoError(t, err)
		})
	}
}

func TestAbsentImageIsNotFound(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)

	_, err = e.CreateApp(t.Context(), id, AppSpec{Name: "a", ImageID: "absent"}, plain)

	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestSameAppAskedTwiceAtOnceIsCreatedOnce(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	ids := make([]AppID, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			var err error
			ids[i], err = e.CreateApp(t.Context(), id, testApp(), plain)
			require.NoError(t, err)
		})
	}
	wg.Wait()

	for _, app := range ids {
		require.Equal(t, ids[0], app)
	}
	require.Equal(t, 1, h.called(supervisor.OpCreateApp))
}

func TestNoAppIsCreatedInAPodThatDoesNotRun(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	_, err := e.CreateApp(t.Context(), "nope", testApp(), plain)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	require.NoError(t, e.Stop(t.Context(), id, 0))

	_, err = e.CreateApp(t.Context(), id, testApp(), plain)

	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
}

func TestExitOfAnAppIsKnownWithoutBeingAskedFor(t *testing.T) {
	h := newHost(t)
	e, _, id, app := launched(t, h)

	h.supervisor(id).exit(app, supervisor.Exit{Code: 1, OOMKilled: true})

	eventually(t, func() bool { a, err := e.App(app); return err == nil && a.State == Exited && a.Exit.OOMKilled }, "told by event")
	eventually(t, func() bool { return h.supervisor(id).unacknowledged() == 0 }, "acknowledged")
}

func TestReadsNeverDial(t *testing.T) {
	h := newHost(t)
	e, stop, id, app := launched(t, h)
	stop()
	dialled := h.called(supervisor.OpHello)

	e.Pods(nil)
	e.Apps(nil)
	_, err := e.Pod(id)
	require.NoError(t, err)
	_, err = e.App(app)
	require.NoError(t, err)

	require.Equal(t, dialled, h.called(supervisor.OpHello))
}

func TestUpdateIsAllOrNothing(t *testing.T) {
	h := newHost(t)
	e, _, id, app := launched(t, h)
	set := func(doc, limits string) func(*AppSpec) (Change, error) {
		return func(*AppSpec) (Change, error) {
			return Change{Extra: json.RawMessage(doc), Resources: []byte(limits), Before: []byte(`"before"`)}, nil
		}
	}
	require.NoError(t, e.UpdateApp(t.Context(), app, set(`{"k":2}`, `"good"`)))
	require.Equal(t, []string{`"good"`}, h.supervisor(id).limits())
	h.failing(supervisor.OpUpdateApp, errBoom)

	err := e.UpdateApp(t.Context(), app, set(`{"k":3}`, `"bad"`))

	require.ErrorContains(t, err, "boom")
	require.Equal(t, []string{`"good"`, `"bad"`, `"before"`}, h.supervisor(id).limits(), "a runtime that got half way goes back")
	a, err := e.App(app)
	require.NoError(t, err)
	require.JSONEq(t, `{"k":2}`, string(a.Spec.Extra))
	rec, err := readApp(e.appDir(id, app))
	require.NoError(t, err)
	require.JSONEq(t, `{"k":2}`, string(rec.Spec.Extra))
	refused := errors.New("refused")
	err = e.UpdateApp(t.Context(), app, func(*AppSpec) (Change, error) { return Change{}, refused })
	require.ErrorIs(t, err, refused)
}

func TestRemoveOfARunningAppKillsIt(t *testing.T) {
	h := newHost(t)
	e, _, id, app := launched(t, h)

	require.NoError(t, e.RemoveApp(t.Context(), app))

	require.False(t, h.supervisor(id).has(app))
	require.Empty(t, e.Apps(nil))
}

func TestExitedAppAskedForAgainStartsClean(t *testing.T) {
	h := newHost(t)
	e, _, id, app := launched(t, h)
	require.NoError(t, e.StopApp(t.Context(), app, 0))

	again, err := e.CreateApp(t.Context(), id, testApp(), plain)

	require.NoError(t, err)
	require.NotEqual(t, app, again)
	require.Len(t, e.Apps(nil), 1)
}

func TestExecAndReopenNeedARunningApp(t *testing.T) {
	h := newHost(t)
	e, _, _, app := launched(t, h)
	require.NoError(t, e.ReopenLog(t.Context(), app))
	require.NoError(t, e.StopApp(t.Context(), app, 0))

	require.ErrorIs(t, e.ReopenLog(t.Context(), app), errdefs.ErrFailedPrecondition)
	_, err := e.ExecSync(t.Context(), app, []byte(`{}`), 0, 10)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	_, err = e.ExecSync(t.Context(), "nope", []byte(`{}`), 0, 10)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}
