package pod

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/supervisor"
)

func TestRestartedEngineAdoptsLivingPodsAndMissesNoExit(t *testing.T) {
	h := newHost(t)
	e, stop, id, app := launched(t, h)
	created, err := e.CreateApp(t.Context(), id, AppSpec{Name: "second", ImageID: "sha256:1"}, plain)
	require.NoError(t, err)
	before, err := e.Pod(id)
	require.NoError(t, err)
	stop()
	h.supervisor(id).exit(app, supervisor.Exit{Code: 3, OOMKilled: true})

	e, _ = h.engine()

	after, err := e.Pod(id)
	require.NoError(t, err)
	require.Equal(t, Running, after.State)
	require.Equal(t, before.Network, after.Network)
	require.True(t, before.CreatedAt.Equal(after.CreatedAt))
	require.Equal(t, before.Spec, after.Spec)
	a, err := e.App(app)
	require.NoError(t, err)
	require.Equal(t, 3, a.Exit.Code)
	require.True(t, a.Exit.OOMKilled)
	require.Equal(t, 2, a.Spec.StopSignal, "what configure gave")
	b, err := e.App(created)
	require.NoError(t, err)
	require.Equal(t, Created, b.State)
	eventually(t, func() bool { return h.supervisor(id).unacknowledged() == 0 }, "events are acknowledged")
	require.NoError(t, e.Remove(t.Context(), id))
	h.requireNothingLeft()
}

func TestPodWhoseSupervisorDiedMeanwhileIsExitedAfterRestart(t *testing.T) {
	h := newHost(t)
	_, stop, id, app := launched(t, h)
	stop()
	h.supervisor(id).die()

	e, _ := h.engine()

	p, err := e.Pod(id)
	require.NoError(t, err)
	require.Equal(t, Exited, p.State)
	a, err := e.App(app)
	require.NoError(t, err)
	require.Equal(t, 137, a.Exit.Code)
	require.False(t, a.StartedAt.IsZero())
	eventually(t, func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.attached) == 0 }, "detached")
}

func TestRebootLeavesExitedPodsThatCanBeRemoved(t *testing.T) {
	h := newHost(t)
	e, stop, id, app := launched(t, h)
	stop()
	h.supervisor(id).die()
	h.mu.Lock()
	clear(h.supervisors)
	clear(h.groups)
	h.mu.Unlock()
	require.NoError(t, network.RemoveNamespace(e.netnsPath(id)))
	require.NoError(t, os.RemoveAll(filepath.Join(h.dir, "run")))
	require.NoError(t, os.RemoveAll(filepath.Join(h.dir, "netns")))

	e, _ = h.engine()

	a, err := e.App(app)
	require.NoError(t, err)
	require.Equal(t, Exited, a.State)
	eventually(t, func() bool { return h.called("detach") > 0 }, "DEL also after a reboot")
	require.NoError(t, e.Remove(t.Context(), id))
	h.requireNothingLeft()
}

// A kill of the engine at any instruction leaves one of these on disk.
func TestLaunchCutShortIsUndoneAtStart(t *testing.T) {
	for name, state := range map[string]State{"booting": Booting, "prepared": Prepared} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			e, stop, id, _ := launched(t, h)
			stop()
			rec, err := readPod(e.podDir(id))
			require.NoError(t, err)
			rec.State = state
			require.NoError(t, rec.write(e.podDir(id)))

			e, _ = h.engine()

			require.Empty(t, e.Pods(nil))
			eventually(t, func() bool { _, left := e.findPodAny(); return !left }, "undone")
			h.requireNothingLeft()
		})
	}
}

func TestRemovalCutShortIsFinishedAtStart(t *testing.T) {
	h := newHost(t)
	e, stop, id, app := launched(t, h)
	stop()
	require.NoError(t, e.save(id, func(r *record) error { r.Doomed = true; return nil }))
	require.NoError(t, os.RemoveAll(e.appDir(id, app)), "as far as it got")

	e, _ = h.engine()

	eventually(t, func() bool { _, left := e.findPodAny(); return !left }, "removed")
	_, err := e.Collect(t.Context()) // the root of the app whose record went first
	require.NoError(t, err)
	h.requireNothingLeft()
}

func TestAppsCutShortAreUndoneAtStart(t *testing.T) {
	for name, cut := range map[string]func(e *Engine, h *host, id ID, app AppID){
		"before its root": func(e *Engine, h *host, id ID, app AppID) {
			h.supervisor(id).drop(app)
			rec, _ := e.appRecord(app)
			rec.State = Prepared
			require.NoError(h.t, rec.write(e.appDir(id, app)))
		},
		"before its record": func(e *Engine, h *host, id ID, app AppID) {
			h.supervisor(id).drop(app)
			require.NoError(h.t, os.Remove(filepath.Join(e.appDir(id, app), appRecordName)))
		},
		"announced and not created": func(e *Engine, h *host, id ID, app AppID) {
			h.supervisor(id).drop(app)
			require.NoError(h.t, os.RemoveAll(filepath.Join(e.appDir(id, app), supervisor.ExitName)))
		},
		"record gone, supervisor has it": func(e *Engine, h *host, id ID, app AppID) {
			require.NoError(h.t, os.Remove(filepath.Join(e.appDir(id, app), appRecordName)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			e, stop, id, app := launched(t, h)
			stop()
			cut(e, h, id, app)

			e, _ = h.engine()

			require.Empty(t, e.Apps(nil))
			require.NoDirExists(t, e.appDir(id, app))
			require.Empty(t, h.rootIDs())
			require.False(t, h.supervisor(id).has(app))
		})
	}
}

func (s *fakeSupervisor) drop(app AppID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.apps, string(app))
}

func (s *fakeSupervisor) has(app AppID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.apps[string(app)] != nil
}

func TestRecordThatCannotBeReadIsLeftAloneAndKeepsNobodyElse(t *testing.T) {
	for name, doc := range map[string]string{"newer": `{"version":99}`, "broken": `{"vers`} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			e, stop, id, app := launched(t, h)
			other := testSpec()
			other.UID = "u2"
			otherID, err := e.Launch(t.Context(), other)
			require.NoError(t, err)
			stop()
			require.NoError(t, os.WriteFile(filepath.Join(e.podDir(id), podRecordName), []byte(doc), 0o600))

			e, _ = h.engine()
			g, err := e.Collect(t.Context())

			require.NoError(t, err)
			require.Empty(t, g)
			require.Len(t, e.Pods(nil), 1)
			require.Equal(t, otherID, e.Pods(nil)[0].ID)
			require.DirExists(t, e.appDir(id, app))
			require.True(t, h.supervisor(id).has(app), "it runs on")
		})
	}
}

func TestSecondEngineOnTheSameFolderIsRefused(t *testing.T) {
	h := newHost(t)
	h.engine()
	second, err := New(h.config(), fakeLauncher{h}, fakeNet{h}, fakeRoots{h})
	require.NoError(t, err)

	require.ErrorIs(t, second.Recover(t.Context()), errdefs.ErrFailedPrecondition)
}

func TestCollectRemovesWhatNoRecordExplains(t *testing.T) {
	h := newHost(t)
	e, _, id, app := launched(t, h)
	orphan := newID()
	run := e.runDir(orphan)
	require.NoError(t, os.MkdirAll(filepath.Join(run, "stage1/shm"), 0o700))
	require.NoError(t, unix.Mount("shm", filepath.Join(run, "stage1/shm"), "tmpfs", 0, ""))
	require.NoError(t, network.NewNamespace(e.netnsPath(orphan)))
	root := string(newAppID())
	h.mu.Lock()
	h.groups[string(orphan)] = "/kubepods"
	h.groups["next-to-"+string(id)] = "/kubepods/pod1"
	h.roots[root], h.roots["of-somebody-else"] = true, true
	h.mu.Unlock()

	g, err := e.Collect(t.Context())

	require.NoError(t, err)
	require.ElementsMatch(t, []string{string(orphan), "next-to-" + string(id)}, g.Groups)
	require.Equal(t, []string{run}, g.RunFolders)
	require.Equal(t, []string{e.netnsPath(orphan)}, g.Namespaces)
	require.Equal(t, []string{root}, g.Roots)
	require.NoDirExists(t, run)
	a, err := e.App(app)
	require.NoError(t, err)
	require.Equal(t, Running, a.State, "what has a record stays")
	require.ElementsMatch(t, []string{string(app), "of-somebody-else"}, h.rootIDs())
}

// Its records were deleted by hand: nothing but its run folder names it.
func TestLostPodIsFoundByItsRunFolder(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	lost := newID()
	require.NoError(t, os.MkdirAll(e.runDir(lost), 0o700))
	h.mu.Lock()
	h.groups[string(lost)] = "/kubepods/burstable/pod-of-nobody"
	h.mu.Unlock()
	for _, step := range []string{"find", "kill"} {
		h.failing(step, errBoom)
		_, err := e.Collect(t.Context())
		require.ErrorContains(t, err, "boom")
		require.DirExists(t, e.runDir(lost), "it is what names the pod")
		h.failing(step, nil)
	}

	g, err := e.Collect(t.Context())

	require.NoError(t, err)
	require.Equal(t, []string{string(lost)}, g.Groups)
	require.NoDirExists(t, e.runDir(lost))
	h.requireNothingLeft()
}

func TestNothingOfALaunchUnderWayIsGarbage(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	h.hanging("launch", true)
	done := make(chan error, 1)
	go func() { _, err := e.Launch(context.WithoutCancel(t.Context()), testSpec()); done <- err }()
	<-h.reached

	g, err := e.Collect(t.Context())

	require.NoError(t, err)
	require.Empty(t, g)
	h.hanging("launch", false)
	require.NoError(t, <-done)
}

func TestFolderWithoutARecordIsRemovedAtStart(t *testing.T) {
	h := newHost(t)
	for _, name := range []string{newPrefix + string(newID()), string(newID())} {
		require.NoError(t, os.MkdirAll(filepath.Join(h.dir, "pods", name, "apps"), 0o700))
	}

	h.engine()

	h.requireNothingLeft()
}

func TestIllegalChangeOfStateIsATypedError(t *testing.T) {
	r := record{ID: "p", State: Exited}

	err := r.to(Running)

	var serr *StateError
	require.ErrorAs(t, err, &serr)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.True(t, strings.Contains(err.Error(), "pod p is exited"))
}
