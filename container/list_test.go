package container

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

func TestListsShowWhatHasChangedSinceTheLast(t *testing.T) {
	s, f := newService(t)
	_, err := s.CreateContainer(t.Context(), createRequest())
	require.NoError(t, err)
	list := func() *runtimeapi.Container {
		resp, err := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
		require.NoError(t, err)
		require.Len(t, resp.Containers, 1)
		return resp.Containers[0]
	}
	first := list()
	require.Same(t, first, list(), "nothing has changed")

	f.apps["app-0"].State = pod.Exited
	require.Equal(t, runtimeapi.ContainerState_CONTAINER_EXITED, list().State)
	require.NotEqual(t, first.State, list().State)
	spec := *f.apps["app-0"].Spec
	spec.Labels = map[string]string{"new": "label"}
	f.apps["app-0"].Spec = &spec
	require.Equal(t, spec.Labels, list().Labels)
}

func TestListsKeepNoMoreThanANodeHas(t *testing.T) {
	var l keptItems
	for i := range 2*maxKept + 1 {
		_, err := l.item(&pod.App{ID: pod.AppID(fmt.Sprint(i)), Spec: &pod.AppSpec{}})
		require.NoError(t, err)
		require.LessOrEqual(t, len(l.items), maxKept)
	}
	_, err := l.item(&pod.App{ID: "bad", Spec: &pod.AppSpec{Extra: []byte("{")}})
	require.ErrorContains(t, err, "read what was kept of the container")
}

func BenchmarkList(b *testing.B) {
	s, f := newService(b)
	for range 100 {
		_, err := s.CreateContainer(b.Context(), createRequest())
		require.NoError(b, err)
	}
	require.Len(b, f.apps, 100)
	for b.Loop() {
		_, err := s.ListContainers(b.Context(), &runtimeapi.ListContainersRequest{})
		require.NoError(b, err)
	}
}
