package pod

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/supervisor"
)

// reader watches an engine as a call does.
type reader struct {
	t      *testing.T
	events chan Event
	ended  chan error
	gate   chan struct{} // each event waits for it; closed: none does
}

// watchEngine begins to watch and returns once nothing can be missed any more.
func watchEngine(t *testing.T, e *Engine, gate chan struct{}) *reader {
	t.Helper()
	r := &reader{t: t, events: make(chan Event, 10*watchLimit), ended: make(chan error, 1), gate: gate}
	before := e.watching()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		r.ended <- e.Watch(ctx, func(ev Event) error {
			r.events <- ev
			<-r.gate
			return nil
		})
	}()
	t.Cleanup(cancel)
	eventually(t, func() bool { return e.watching() == before+1 }, "watched")
	return r
}

// open is the gate of a reader that never waits.
func open() chan struct{} {
	gate := make(chan struct{})
	close(gate)
	return gate
}

func (e *Engine) watching() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.watchers)
}

func (r *reader) next() Event {
	r.t.Helper()
	select {
	case ev := <-r.events:
		return ev
	case err := <-r.ended:
		require.FailNow(r.t, "the watch has ended", "%v", err)
	case <-time.After(time.Minute):
		require.FailNow(r.t, "no event")
	}
	return Event{}
}

// requireNext takes as many events as are wanted; each is written as "what kind".
func (r *reader) requireNext(names map[string]string, want ...string) (events []Event) {
	r.t.Helper()
	var got []string
	for range want {
		ev := r.next()
		what := string(ev.App)
		if what == "" {
			what = string(ev.Pod)
		}
		got = append(got, names[what]+" "+string(ev.Kind))
		events = append(events, ev)
	}
	require.Equal(r.t, want, got)
	return events
}

func (r *reader) end() error {
	r.t.Helper()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(time.Minute):
		require.FailNow(r.t, "the watch goes on")
		return nil
	}
}

func TestEventsTellTheLivesOfAPodAndItsAppsInOrder(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	r := watchEngine(t, e, open())
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	app, err := e.CreateApp(t.Context(), id, testApp(), plain)
	require.NoError(t, err)
	require.NoError(t, e.StartApp(t.Context(), app))
	require.NoError(t, e.StopApp(t.Context(), app, time.Second))
	require.NoError(t, e.RemoveApp(t.Context(), app))
	require.NoError(t, e.Stop(t.Context(), id, 0))
	require.NoError(t, e.Remove(t.Context(), id))

	events := r.requireNext(map[string]string{string(id): "pod", string(app): "app"},
		"pod created", "pod started", "app created", "app started", "app exited", "app removed", "pod exited", "pod removed")

	var states []string
	for i, ev := range events {
		state := string(ev.Snapshot.Pod.State)
		for _, a := range ev.Apps {
			state += " " + string(a.State)
		}
		states = append(states, state)
		require.Equal(t, id, ev.Snapshot.Pod.ID)
		require.True(t, i == 0 || ev.At.After(events[i-1].At), "times grow")
	}
	require.Equal(t, []string{"running", "running", "running created", "running running", "running exited", "running", "exited", "exited"}, states)
	require.Equal(t, 143, events[4].Apps[0].Exit.Code)
}

func TestAppThatEndsByItselfIsTold(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	app, err := e.CreateApp(t.Context(), id, testApp(), plain)
	require.NoError(t, err)
	require.NoError(t, e.StartApp(t.Context(), app))
	names := map[string]string{string(id): "pod", string(app): "app"}
	r := watchEngine(t, e, open())
	r.requireNext(names, "pod started") // what was there before

	h.supervisor(id).exit(app, supervisor.Exit{Code: 3})

	events := r.requireNext(names, "app exited")
	require.Equal(t, 3, events[0].Apps[0].Exit.Code)
}

// The exit may be told before the answer to the call that made or started the app.
func TestExitThatOvertakesIsToldInOrder(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	r := watchEngine(t, e, open())
	names := map[string]string{string(id): "pod", "a1": "never started", "a2": "started"}
	r.requireNext(names, "pod started")
	for _, app := range []AppID{"a1", "a2"} {
		require.NoError(t, e.enter(&appRecord{ID: app, Pod: id, State: Prepared, CreatedAt: time.Now(), Spec: &AppSpec{Name: string(app)}}))
	}

	e.setExit("a1", supervisor.Exit{Code: 127})
	e.setExit("a2", supervisor.Exit{Code: 1, StartedAt: time.Now()})
	e.setExit("a2", supervisor.Exit{Code: 1, StartedAt: time.Now()})
	e.forgetApp("a1")

	r.requireNext(names, "never started created", "never started exited",
		"started created", "started started", "started exited", "never started removed")
}

func TestRemovedPodTakesItsAppsWithIt(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	app, err := e.CreateApp(t.Context(), id, testApp(), plain)
	require.NoError(t, err)
	names := map[string]string{string(id): "pod", string(app): "app"}
	r := watchEngine(t, e, open())
	r.requireNext(names, "pod started")

	require.NoError(t, e.Remove(t.Context(), id))

	events := r.requireNext(names, "app removed", "pod removed")
	require.Empty(t, events[1].Apps)
	require.Equal(t, id, events[1].Snapshot.Pod.ID)
}

func TestWhatFailsIsNoEvent(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	r := watchEngine(t, e, open())
	h.failing("attach", errors.New("no network"))
	_, err := e.Launch(t.Context(), testSpec())
	require.ErrorContains(t, err, "no network")
	h.failing("attach", nil)
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	_, err = e.CreateApp(t.Context(), id, testApp(), func(context.Context, Place) (Configured, error) {
		return Configured{}, errors.New("bad config")
	})
	require.ErrorContains(t, err, "bad config")
	require.NoError(t, e.Stop(t.Context(), id, 0))

	r.requireNext(map[string]string{string(id): "pod"}, "pod created", "pod started", "pod exited")
}

// The kubelet forgets a pod of whose last sandbox it reads that it is removed, and
// makes one anew that it reads to be dead.
func TestEventOfAnEarlierAttemptShowsTheNewestOne(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	first, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	app, err := e.CreateApp(t.Context(), first, testApp(), plain)
	require.NoError(t, err)
	require.NoError(t, e.Stop(t.Context(), first, 0))
	spec := testSpec()
	spec.Attempt = 1
	second, err := e.Launch(t.Context(), spec)
	require.NoError(t, err)
	names := map[string]string{string(first): "first", string(second): "second", string(app): "app"}
	r := watchEngine(t, e, open())
	events := r.requireNext(names, "second started")
	require.Len(t, events[0].Apps, 1, "the first one's are the pod's")

	require.NoError(t, e.Remove(t.Context(), first))
	require.NoError(t, e.Remove(t.Context(), second))

	events = r.requireNext(names, "app removed", "first removed", "second removed")
	for _, ev := range events {
		require.Equal(t, second, ev.Snapshot.Pod.ID)
	}
}

func TestSnapshotHasTheAppsOfEarlierAttemptsOnly(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	var ids []ID
	for attempt := range uint32(2) {
		spec := testSpec()
		spec.Attempt = attempt
		id, err := e.Launch(t.Context(), spec)
		require.NoError(t, err)
		_, err = e.CreateApp(t.Context(), id, testApp(), plain)
		require.NoError(t, err)
		ids = append(ids, id)
	}

	first, err := e.Snapshot(ids[0])
	require.NoError(t, err)
	second, err := e.Snapshot(ids[1])
	require.NoError(t, err)

	require.Len(t, first.Apps, 1)
	require.Len(t, second.Apps, 2)
	require.True(t, second.At.After(first.At))
	_, err = e.Snapshot("nope")
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestTimesGrowWhenTheClockIsSetBack(t *testing.T) {
	e, _ := newHost(t).engine()
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	ahead := time.Now().Add(time.Hour).Round(0)
	e.mu.Lock()
	e.stamp = ahead // as if an hour had been taken back since
	e.mu.Unlock()

	first, err := e.Snapshot(id)
	require.NoError(t, err)
	second, err := e.Snapshot(id)
	require.NoError(t, err)

	require.True(t, first.At.After(ahead))
	require.True(t, second.At.After(first.At))
}

func TestSlowReaderIsToldAndDelaysNobody(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	gate := make(chan struct{})
	slow, quick := watchEngine(t, e, gate), watchEngine(t, e, open())
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	require.Equal(t, EventCreated, slow.next().Kind, "and waits at the gate")
	require.Equal(t, EventCreated, quick.next().Kind)
	require.Equal(t, EventStarted, quick.next().Kind)

	for i := range watchLimit/2 + 1 {
		app := AppID(fmt.Sprint("app", i))
		require.NoError(t, e.enter(&appRecord{ID: app, Pod: id, State: Prepared, CreatedAt: time.Now(), Spec: &AppSpec{Name: string(app)}}))
		e.setExit(app, supervisor.Exit{Code: 1})
		require.Equal(t, EventCreated, quick.next().Kind)
		require.Equal(t, EventExited, quick.next().Kind)
		e.forgetAppQuietly(app)
	}

	require.Equal(t, 1, e.watching(), "the quick one")
	close(gate)
	err = slow.end()
	require.ErrorIs(t, err, errdefs.ErrResourceExhausted)
	require.ErrorContains(t, err, "too slow")
	require.LessOrEqual(t, len(slow.events), 1, "nothing after a gap")
}

// forgetAppQuietly keeps the snapshots of a test's many events small.
func (e *Engine) forgetAppQuietly(id AppID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.apps, id)
}

func TestWatchEndsWithItsReaderItsContextOrTheEngine(t *testing.T) {
	h := newHost(t)
	e, stop := h.engine()
	_, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	broken := errors.New("broken stream")
	require.ErrorIs(t, e.Watch(t.Context(), func(Event) error { return broken }), broken)
	ctx, cancel := context.WithCancel(t.Context())
	require.ErrorIs(t, e.Watch(ctx, func(Event) error { cancel(); return nil }), context.Canceled)
	require.Zero(t, e.watching())
	r := watchEngine(t, e, open())

	stop()

	require.ErrorIs(t, r.end(), errdefs.ErrUnavailable)
	require.ErrorIs(t, e.Watch(t.Context(), func(Event) error { return nil }), errdefs.ErrUnavailable, "and none begins")
}

func TestWatchBeginsWithWhatThereIs(t *testing.T) {
	h := newHost(t)
	e, stop := h.engine()
	names := map[string]string{}
	for _, uid := range []string{"runs", "exited"} {
		spec := testSpec()
		spec.UID = uid
		id, err := e.Launch(t.Context(), spec)
		require.NoError(t, err)
		names[string(id)] = uid
		if uid == "exited" {
			require.NoError(t, e.Stop(t.Context(), id, 0))
		}
	}
	stop()
	e, _ = h.engine() // as after a restart of the kubelet
	r := watchEngine(t, e, open())

	got := map[string]EventKind{}
	for range 2 {
		ev := r.next()
		got[names[string(ev.Pod)]] = ev.Kind
	}

	require.Equal(t, map[string]EventKind{"runs": EventStarted, "exited": EventExited}, got)
}
