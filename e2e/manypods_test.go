package e2e

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// manyPodsEnv is how many pods TestManyPods runs; a kubelet takes 110 at most.
const manyPodsEnv = "RKTSHIM_E2E_PODS"

const idlePod = `
spec:
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  containers:
  - name: main
    image: IMAGE/busybox:1
    command: [/bin/busybox, sleep, "36000"]
`

// As many pods as a kubelet takes, at once: all run, and lists are answered from
// memory. The bound is far from the 2 ms that a quiet machine needs less than, so
// that it tells memory from processes and not a quiet machine from a busy one.
func TestManyPods(t *testing.T) {
	t.Parallel()
	pods := intEnv(t, manyPodsEnv, 40)
	n := newPodNode(t, "lean", "registryPullQPS: 0")
	n.kubelet()
	begin := time.Now()
	for i := range pods {
		name := fmt.Sprintf("idle%d", i)
		n.apply(name, manifest(name, idlePod, ""))
	}
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(200 * time.Millisecond) {
		list, _ := n.pods()
		up := len(slices.DeleteFunc(list, func(p podState) bool { return !running(p) }))
		if up == pods {
			break
		}
		require.True(t, time.Now().Before(deadline), "%d of %d pods run", up, pods)
	}
	took := time.Since(begin)

	cri := n.cri()
	var sandboxes, containers []time.Duration
	for range 201 {
		start := time.Now()
		s, err := cri.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
		require.NoError(t, err)
		sandboxes = append(sandboxes, time.Since(start))
		start = time.Now()
		c, err := cri.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
		require.NoError(t, err)
		containers = append(containers, time.Since(start))
		require.Len(t, s.Items, pods)
		require.Len(t, c.Containers, pods)
		require.False(t, slices.ContainsFunc(c.Containers, func(c *runtimeapi.Container) bool {
			return c.State != runtimeapi.ContainerState_CONTAINER_RUNNING || !strings.HasPrefix(c.Labels["io.kubernetes.pod.name"], "idle")
		}))
	}

	t.Logf("%d pods run after %s; ListPodSandbox %s, ListContainers %s, medians of %d over a unix socket",
		pods, took.Round(100*time.Millisecond), median(sandboxes), median(containers), len(containers))
	require.Less(t, median(sandboxes), 100*time.Millisecond)
	require.Less(t, median(containers), 100*time.Millisecond)
	require.Len(t, n.supervisors(), pods)
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2]
}
