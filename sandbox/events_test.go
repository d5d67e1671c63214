package sandbox

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	headers "google.golang.org/grpc/metadata"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// sentEvents collects what is streamed.
type sentEvents struct {
	grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]
	ctx context.Context
	got []*runtimeapi.ContainerEventResponse
	err error

	sent      int
	headerErr error
}

func (s *sentEvents) SendHeader(headers.MD) error {
	s.sent++
	return s.headerErr
}

func (s *sentEvents) Context() context.Context { return s.ctx }

func (s *sentEvents) Send(r *runtimeapi.ContainerEventResponse) error {
	s.got = append(s.got, r)
	return s.err
}

// testEvents are of a pod and its app, one of each kind.
func testEvents() (events []pod.Event) {
	snap := pod.Snapshot{
		Pod: pod.Pod{ID: "p1", State: pod.Running, Spec: &pod.Spec{UID: "u1", Name: "web"}, CreatedAt: time.Unix(1, 0)},
		Apps: []pod.App{
			{ID: "a1", Spec: &pod.AppSpec{Name: "nginx", Image: "nginx"}},
			{ID: "a2", Spec: &pod.AppSpec{Name: "log", Image: "log"}},
		},
	}
	for i, kind := range []pod.EventKind{pod.EventCreated, pod.EventStarted, pod.EventExited, pod.EventRemoved} {
		snap.At = time.Unix(100, int64(i))
		events = append(events, pod.Event{Kind: kind, Pod: "p1", Snapshot: snap}, pod.Event{Kind: kind, Pod: "p1", App: "a1", Snapshot: snap})
	}
	return events
}

func TestEventsCarryTheWholePod(t *testing.T) {
	s, f := newService(t, Config{})
	f.events = testEvents()
	stream := &sentEvents{ctx: t.Context()}

	require.NoError(t, s.GetContainerEvents(&runtimeapi.GetEventsRequest{}, stream))

	require.Equal(t, 1, stream.sent)
	var got []string
	for _, r := range stream.got {
		got = append(got, fmt.Sprint(r.ContainerId, " ", r.ContainerEventType, " ", r.CreatedAt-100e9))
		require.Equal(t, "p1", r.PodSandboxStatus.Id)
		require.Equal(t, "u1", r.PodSandboxStatus.Metadata.Uid)
		require.Equal(t, runtimeapi.PodSandboxState_SANDBOX_READY, r.PodSandboxStatus.State)
		require.Len(t, r.ContainersStatuses, 2)
		require.Equal(t, "a2", r.ContainersStatuses[1].Id)
	}
	require.Equal(t, []string{
		"p1 CONTAINER_CREATED_EVENT 0", "a1 CONTAINER_CREATED_EVENT 0",
		"p1 CONTAINER_STARTED_EVENT 1", "a1 CONTAINER_STARTED_EVENT 1",
		"p1 CONTAINER_STOPPED_EVENT 2", "a1 CONTAINER_STOPPED_EVENT 2",
		"p1 CONTAINER_DELETED_EVENT 3", "a1 CONTAINER_DELETED_EVENT 3",
	}, got)
}

func TestEventStreamEndsWithTheErrorThatEndedIt(t *testing.T) {
	s, f := newService(t, Config{})
	f.events = testEvents()
	f.err = fmt.Errorf("too slow: %w", errdefs.ErrResourceExhausted)
	require.ErrorIs(t, s.GetContainerEvents(nil, &sentEvents{ctx: t.Context()}), errdefs.ErrResourceExhausted)

	broken := &sentEvents{ctx: t.Context(), err: os.ErrClosed}
	require.ErrorIs(t, s.GetContainerEvents(nil, broken), os.ErrClosed)
	require.Len(t, broken.got, 1)

	headless := &sentEvents{ctx: t.Context(), headerErr: os.ErrClosed}
	require.ErrorIs(t, s.GetContainerEvents(nil, headless), os.ErrClosed)
	require.Empty(t, headless.got)

	f.events[0].Apps = []pod.App{{ID: "a1", Spec: &pod.AppSpec{}}}
	require.ErrorIs(t, s.GetContainerEvents(nil, &sentEvents{ctx: t.Context()}), errdefs.ErrInternal)
	require.ErrorIs(t, statusOfBrokenApp(t), errdefs.ErrInternal)
}

// statusOfBrokenApp asks for the status of a pod with an app that cannot be
// translated.
func statusOfBrokenApp(t *testing.T) error {
	t.Helper()
	s, f := newService(t, Config{})
	_, err := run(t, s, f, testConfig(), "")
	require.NoError(t, err)
	f.apps = []pod.App{{ID: "a1", Spec: &pod.AppSpec{}}}
	_, err = s.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "pod-0"})
	return err
}
