package pod

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/network"
)

func TestRateIsOverTheYoungestMomentThatIsLongEnoughAgo(t *testing.T) {
	start := time.Now()
	at := func(used, sec float64) moment {
		return moment{time.Duration(used * float64(time.Second)), start.Add(time.Duration(sec * float64(time.Second)))}
	}
	for name, c := range map[string]struct {
		noted []moment
		now   moment
		cores float64
		ok    bool
	}{
		"nothing noted":                  {nil, at(1, 0), 0, false},
		"too soon":                       {[]moment{at(0, 0)}, at(1, 0.5), 0, false},
		"soon, but nothing better":       {[]moment{at(0, 0)}, at(1, 2), 0.5, true},
		"the younger is old enough":      {[]moment{at(0, 0), at(1, 10)}, at(13, 16), 2, true},
		"the younger is too young":       {[]moment{at(0, 0), at(4, 10)}, at(6, 12), 0.5, true},
		"noted twice at once":            {[]moment{at(0, 0), at(0, 0.1)}, at(3, 12), 0.25, true},
		"only the last two are kept":     {[]moment{at(0, 0), at(8, 10), at(8, 20)}, at(8, 22), 0, true},
		"used has gone back: not ours":   {[]moment{at(5, 0)}, at(1, 10), 0, false},
		"nothing used":                   {[]moment{at(5, 0)}, at(5, 10), 0, true},
		"the same moment has no rate":    {[]moment{at(5, 0)}, at(5, 0), 0, false},
		"before what was noted, neither": {[]moment{at(5, 10)}, at(5, 0), 0, false},
	} {
		var r rate
		for _, m := range c.noted {
			r.note(m)
		}
		cores, ok := r.until(c.now)
		require.Equal(t, c.ok, ok, name)
		require.InDelta(t, c.cores, cores, 1e-9, name)
	}
}

func TestGroupThatCountsForAPod(t *testing.T) {
	for _, c := range []struct{ uid, cgroup, want string }{
		{"2fc9-4b", "/kubepods/pod2fc9-4b/k8s_x", "/kubepods/pod2fc9-4b"},
		{"2fc9-4b", "/kubepods.slice/kubepods-pod2fc9_4b.slice/k8s_x.service", "/kubepods.slice/kubepods-pod2fc9_4b.slice"},
		{"2fc9-4b", "/kubepods/burstable/k8s_x", "/kubepods/burstable/k8s_x"},
		{"2fc9-4b", "/k8s_x", "/k8s_x"},
	} {
		require.Equal(t, c.want, groupOf(&Pod{Cgroup: c.cgroup, Spec: &Spec{UID: c.uid}}))
	}
}

// measured launches a pod with an app, in cgroups of this host and a network
// namespace that are really there. Nothing runs beside the test.
func measured(t *testing.T) (e *Engine, id ID, app AppID, remove func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("cgroups take root")
	}
	h := newHost(t)
	e, err := New(h.config(), fakeLauncher{h}, fakeNet{h}, fakeRoots{h})
	require.NoError(t, err)
	require.NoError(t, e.Recover(t.Context()))
	t.Cleanup(e.Close)
	const all = "/rktt-pod"
	parent := filepath.Join(all, strconv.Itoa(os.Getpid()))
	removeGroup := func(path string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, cgroup.Remove(ctx, path))
	}
	for _, left := range cgroup.Children(all) { // by runs that were killed
		if pid, err := strconv.Atoi(left); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			removeGroup(filepath.Join(all, left))
		}
	}
	remove = func() {
		removeGroup(parent)
		for _, dir := range cgroup.Dirs(all) {
			_ = os.Remove(dir) // another run may have its own below
		}
	}
	t.Cleanup(remove)
	spec := testSpec()
	spec.CgroupParent = parent
	id, err = e.Launch(t.Context(), spec)
	require.NoError(t, err)
	app, err = e.CreateApp(t.Context(), id, testApp(), plain)
	require.NoError(t, err)
	a, err := e.App(app)
	require.NoError(t, err)
	require.NoError(t, cgroup.Make(a.Cgroup))
	return e, id, app, remove
}

func (e *Engine) openMeters() int {
	e.meters.mu.Lock()
	defer e.meters.mu.Unlock()
	return len(e.meters.apps) + len(e.meters.pods)
}

func TestUsageIsReadWhileSomethingLives(t *testing.T) {
	e, id, app, _ := measured(t)
	require.NoError(t, e.StartApp(t.Context(), app))

	u, err := e.AppUsage(app)
	require.NoError(t, err)
	require.False(t, u.Time.IsZero())
	p, err := e.PodUsage(id)
	require.NoError(t, err)
	require.False(t, p.Time.Before(u.Time))
	traffic, err := e.PodTraffic(id)
	require.NoError(t, err)
	require.Empty(t, traffic, "it has loopback only")
	require.Equal(t, 2, e.openMeters())
	d, err := e.AppDetail(app)
	require.NoError(t, err)
	require.GreaterOrEqual(t, d.CpuStats.CpuUsage.TotalUsage, uint64(u.CPU))
	_, err = e.PodDetail(id)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition, "the supervisor, which makes its group, is a fake")

	require.NoError(t, e.StopApp(t.Context(), app, 0))
	_, err = e.AppUsage(app)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.Equal(t, 1, e.openMeters())

	require.NoError(t, e.Stop(t.Context(), id, 0))
	for _, read := range []func() error{
		func() error { _, err := e.PodUsage(id); return err },
		func() error { _, err := e.PodTraffic(id); return err },
		func() error { _, err := e.PodDetail(id); return err },
	} {
		require.ErrorIs(t, read(), errdefs.ErrFailedPrecondition)
	}
	require.Zero(t, e.openMeters(), "else the network namespace would live on")

	require.NoError(t, e.Remove(t.Context(), id))
	for _, read := range []func() error{
		func() error { _, err := e.AppUsage(app); return err },
		func() error { _, err := e.AppDetail(app); return err },
		func() error { _, err := e.PodUsage(id); return err },
		func() error { _, err := e.PodTraffic(id); return err },
		func() error { _, err := e.PodDetail(id); return err },
	} {
		require.ErrorIs(t, read(), errdefs.ErrNotFound)
	}
}

// The kernel may have taken a group away before its end is known.
func TestUsageOfAGroupThatIsGone(t *testing.T) {
	e, id, app, remove := measured(t)
	_, err := e.AppUsage(app)
	require.NoError(t, err)
	remove()

	_, err = e.AppUsage(app)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	_, err = e.PodUsage(id)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.NoError(t, network.RemoveNamespace(e.netnsPath(id)))
	_, err = e.PodTraffic(id)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
}

func TestNotingClosesWhatHasEnded(t *testing.T) {
	e, id, app, _ := measured(t)
	e.noteCPU()
	require.Equal(t, 2, e.openMeters())
	a, err := e.App(app)
	require.NoError(t, err)
	require.NoError(t, e.Remove(t.Context(), id))
	stale := e.meters.app(app, a.Cgroup) // by a read that began before the end
	stale.note()
	require.Equal(t, 1, e.openMeters())

	e.noteCPU()

	require.Zero(t, e.openMeters())
	_, err = stale.usage()
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	_, err = stale.traffic(filepath.Join(t.TempDir(), "gone"))
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
}

func TestPodOnTheHostsNetworkHasNoTraffic(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	spec := testSpec()
	spec.HostNetwork = true
	id, err := e.Launch(t.Context(), spec)
	require.NoError(t, err)

	traffic, err := e.PodTraffic(id)

	require.NoError(t, err)
	require.Empty(t, traffic)
	require.Zero(t, e.openMeters())
}
