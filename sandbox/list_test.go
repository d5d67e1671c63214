package sandbox

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

func TestListsShowWhatHasChangedSinceTheLast(t *testing.T) {
	s, f := newService(t, Config{})
	_, err := s.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: testConfig()})
	require.NoError(t, err)
	list := func() *runtimeapi.PodSandbox {
		resp, err := s.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{})
		require.NoError(t, err)
		require.Len(t, resp.Items, 1)
		return resp.Items[0]
	}
	require.Equal(t, runtimeapi.PodSandboxState_SANDBOX_READY, list().State)
	require.Same(t, list(), list(), "nothing has changed")

	f.pods["pod-0"].State = pod.Exited
	require.Equal(t, runtimeapi.PodSandboxState_SANDBOX_NOTREADY, list().State)
	spec := *f.pods["pod-0"].Spec
	spec.Labels = map[string]string{"new": "label"}
	f.pods["pod-0"].Spec = &spec
	require.Equal(t, spec.Labels, list().Labels)
}

func TestListsKeepNoMoreThanANodeHas(t *testing.T) {
	var l keptItems
	for i := range 2*maxKept + 1 {
		_, err := l.item(&pod.Pod{ID: pod.ID(fmt.Sprint(i)), Spec: &pod.Spec{}})
		require.NoError(t, err)
		require.LessOrEqual(t, len(l.items), maxKept)
	}
	_, err := l.item(&pod.Pod{ID: "bad", Spec: &pod.Spec{Extra: []byte("{")}})
	require.Error(t, err)
}
