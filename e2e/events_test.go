package e2e

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const sleepPod = `
apiVersion: v1
kind: Pod
metadata: {name: sleep, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: sleep
    image: ` + registryAddr + `/busybox:1
    command: ["/bin/busybox", "sleep", "36000"]
  - name: other
    image: ` + registryAddr + `/busybox:1
    command: ["/bin/busybox", "sleep", "36000"]
`

// The kubelet lists all pods every five minutes only, and no pod on demand: what it
// knows sooner it knows by events.
func TestEventsDriveTheKubelet(t *testing.T) {
	t.Parallel()
	n := newPodNode(t, "lean", "featureGates: {EventedPLEG: true, PLEGOnDemandRelist: false}")
	n.kubelet()
	events := n.watchEvents()
	n.apply("sleep", sleepPod)
	p := n.waitPod("sleep", running)

	restarts := 0
	for { // again, if a list of all came between
		lists := n.metric("kubelet_pleg_relist_duration_seconds_count")
		n.killContainer(n.idOf(p, "sleep"))
		restarts++
		p = n.waitPod("sleep", func(p podState) bool { return running(p) && containerNamed(p, "sleep").RestartCount == restarts })
		require.Equal(t, 137, containerNamed(p, "sleep").LastState.Terminated.ExitCode)
		if n.metric("kubelet_pleg_relist_duration_seconds_count") == lists {
			break
		}
		require.Less(t, restarts, 3, "something lists all pods all the time")
	}
	require.Equal(t, 1., n.metric("kubelet_evented_pleg_connection_success_count"))
	require.Zero(t, n.metric("kubelet_evented_pleg_connection_error_count"))
	require.Zero(t, containerNamed(p, "other").RestartCount)

	n.withdraw("sleep")
	n.waitNothingLeft()
	events.requireWholeLives(t, 3+restarts) // a sandbox, two containers, and those that took the place of killed ones
}

func containerNamed(p podState, name string) containerState {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == name {
			return c
		}
	}
	return containerState{}
}

// idOf is the runtime's id of a pod's container.
func (n *podNode) idOf(p podState, container string) string {
	n.t.Helper()
	_, id, ok := strings.Cut(containerNamed(p, container).ContainerID, "://")
	require.True(n.t, ok, "container %s of %v has no id", container, p)
	return id
}

// killContainer kills a container's first process, as the kernel might.
func (n *podNode) killContainer(id string) {
	n.t.Helper()
	st, err := n.cri().ContainerStatus(n.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	require.NoError(n.t, err)
	var info struct{ PID int }
	require.NoError(n.t, json.Unmarshal([]byte(st.Info["info"]), &info))
	require.Positive(n.t, info.PID)
	require.NoError(n.t, syscall.Kill(info.PID, syscall.SIGKILL))
}

// metric is the value of a metric of the kubelet without labels, 0 if it has none.
func (n *podNode) metric(name string) float64 {
	n.t.Helper()
	_, body, err := n.get(n.t.Context(), "http://127.0.0.1:10255/metrics")
	require.NoError(n.t, err)
	for line := range strings.Lines(body) {
		if key, value, _ := strings.Cut(strings.TrimSpace(line), " "); key == name {
			v, err := strconv.ParseFloat(value, 64)
			require.NoError(n.t, err)
			return v
		}
	}
	return 0
}

// events are the kinds of events of each sandbox and container, in order.
type events struct {
	mu    sync.Mutex
	kinds map[string][]string // guarded by mu; by id
}

// watchEvents reads events, beside the kubelet, until the test ends.
func (n *podNode) watchEvents() *events {
	n.t.Helper()
	ctx, cancel := context.WithCancel(n.t.Context())
	stream, err := n.cri().GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	require.NoError(n.t, err)
	_, err = stream.Header()
	require.NoError(n.t, err)
	e := &events{kinds: map[string][]string{}}
	var reading sync.WaitGroup
	reading.Go(func() {
		for ev, err := stream.Recv(); err == nil; ev, err = stream.Recv() {
			kind := strings.TrimSuffix(strings.TrimPrefix(ev.ContainerEventType.String(), "CONTAINER_"), "_EVENT")
			e.mu.Lock()
			e.kinds[ev.ContainerId] = append(e.kinds[ev.ContainerId], kind)
			e.mu.Unlock()
		}
	})
	n.t.Cleanup(func() {
		cancel()
		reading.Wait()
	})
	return e
}

// requireWholeLives waits until events have told the whole lives of as many sandboxes
// and containers, and of no other.
func (e *events) requireWholeLives(t *testing.T, want int) {
	t.Helper()
	var kinds map[string][]string
	whole := func() (n int) {
		e.mu.Lock()
		defer e.mu.Unlock()
		kinds = maps.Clone(e.kinds)
		for _, k := range kinds {
			if slices.Equal(k, []string{"CREATED", "STARTED", "STOPPED", "DELETED"}) {
				n++
			}
		}
		return n
	}
	for deadline := time.Now().Add(time.Minute); whole() < want && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	require.Equal(t, want, whole(), "%v", kinds)
	require.Len(t, kinds, want)
}
