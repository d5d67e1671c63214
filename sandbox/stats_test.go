package sandbox

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/cgroupstat"
	"github.com/rktnetes/rktshim/pod"
)

// statsService has count running pods.
func statsService(t *testing.T, count int) (*Service, *fakePods) {
	t.Helper()
	s, f := newService(t, Config{})
	f.usage, f.traffic, f.containers = map[pod.ID]pod.Usage{}, map[pod.ID][]pod.Traffic{}, map[pod.ID][]*runtimeapi.ContainerStats{}
	for i := range count {
		id := pod.ID(fmt.Sprintf("pod-%d", i))
		f.pods[id] = &pod.Pod{ID: id, State: pod.Running, Spec: &pod.Spec{
			UID: "u", Name: "web", Namespace: "default", Attempt: 1, Labels: map[string]string{"n": fmt.Sprint(i)}, Annotations: map[string]string{"a": "b"},
		}}
		f.usage[id] = pod.Usage{Cores: 1.5, HasCores: true, Usage: cgroupstat.Usage{
			Time: time.Unix(1700000200, 0), CPU: time.Second, Tasks: 4, Memory: cgroupstat.Memory{Usage: 2, WorkingSet: 1, Limit: cgroupstat.NoLimit},
			IOPressure: &cgroupstat.Pressure{},
		}}
		f.traffic[id] = []pod.Traffic{{Name: "net1", RxBytes: 9}, {Name: "eth0", RxBytes: 1, RxPackets: 2, RxErrors: 3, TxBytes: 4, TxPackets: 5, TxErrors: 6}}
		f.containers[id] = []*runtimeapi.ContainerStats{{Attributes: &runtimeapi.ContainerAttributes{Id: "c"}}}
	}
	return s, f
}

func u64(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func TestStatsHaveEveryField(t *testing.T) {
	s, _ := statsService(t, 1)

	r, err := s.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: "pod-0"})

	require.NoError(t, err)
	l := r.Stats.Linux
	require.Equal(t, &runtimeapi.PodSandboxAttributes{
		Id: "pod-0", Metadata: &runtimeapi.PodSandboxMetadata{Name: "web", Uid: "u", Namespace: "default", Attempt: 1},
		Labels: map[string]string{"n": "0"}, Annotations: map[string]string{"a": "b"},
	}, r.Stats.Attributes)
	require.Equal(t, u64(1e9), l.Cpu.UsageCoreNanoSeconds)
	require.Equal(t, u64(15e8), l.Cpu.UsageNanoCores)
	require.Equal(t, u64(1), l.Memory.WorkingSetBytes)
	require.Equal(t, u64(4), l.Process.ProcessCount)
	require.Equal(t, int64(1700000200e9), l.Process.Timestamp)
	require.NotNil(t, l.Io.Psi)
	require.Equal(t, "c", l.Containers[0].Attributes.Id)
	require.Positive(t, l.Network.Timestamp)
	require.Equal(t, &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: u64(1), RxErrors: u64(3), TxBytes: u64(4), TxErrors: u64(6)}, l.Network.DefaultInterface)
	require.Len(t, l.Network.Interfaces, 1, "the default one is not among them")
	require.Equal(t, "net1", l.Network.Interfaces[0].Name)
}

func TestNetworkUsageWithoutADefaultInterface(t *testing.T) {
	require.Nil(t, networkUsage(nil), "the node's network")
	n := networkUsage([]pod.Traffic{{Name: "a"}, {Name: "b"}})
	require.Equal(t, "a", n.DefaultInterface.Name)
	require.Len(t, n.Interfaces, 1)
}

func TestStatsOfASandboxThatIsNotReady(t *testing.T) {
	s, f := statsService(t, 2)
	f.pods["pod-0"].State = pod.Exited
	f.usageErr = errdefs.ErrFailedPrecondition

	r, err := s.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: "pod-0"})
	require.NoError(t, err)
	require.Equal(t, "pod-0", r.Stats.Attributes.Id)
	require.Equal(t, &runtimeapi.LinuxPodSandboxStats{}, r.Stats.Linux, "the kubelet reads it unchecked")

	require.Empty(t, listed(t, s, nil), "the other has ended since")
	f.usageErr = nil
	require.Equal(t, []string{"pod-1"}, listed(t, s, nil))
}

func TestStatsOfAMissingSandboxAreNotFound(t *testing.T) {
	s, f := statsService(t, 1)
	_, err := s.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: "gone"})
	require.ErrorIs(t, err, errdefs.ErrNotFound)

	f.usageErr = errdefs.ErrNotFound // removed in the meantime
	_, err = s.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: "pod-0"})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	require.Empty(t, listed(t, s, nil))
}

func listed(t *testing.T, s *Service, f *runtimeapi.PodSandboxStatsFilter) (ids []string) {
	t.Helper()
	r, err := s.ListPodSandboxStats(t.Context(), &runtimeapi.ListPodSandboxStatsRequest{Filter: f})
	require.NoError(t, err)
	for _, st := range r.Stats {
		ids = append(ids, st.Attributes.Id)
	}
	return ids
}

func TestStatsAreFiltered(t *testing.T) {
	s, _ := statsService(t, 3)
	require.Equal(t, []string{"pod-0", "pod-1", "pod-2"}, listed(t, s, nil))
	require.Equal(t, []string{"pod-1"}, listed(t, s, &runtimeapi.PodSandboxStatsFilter{Id: "pod-1"}))
	require.Equal(t, []string{"pod-2"}, listed(t, s, &runtimeapi.PodSandboxStatsFilter{LabelSelector: map[string]string{"n": "2"}}))
	require.Empty(t, listed(t, s, &runtimeapi.PodSandboxStatsFilter{Id: "pod-1", LabelSelector: map[string]string{"n": "2"}}))
}

func TestStatsThatCannotBeReadAreAnError(t *testing.T) {
	s, f := statsService(t, 1)
	f.usageErr = errors.New("disk on fire")
	_, err := s.PodSandboxStats(t.Context(), &runtimeapi.PodSandboxStatsRequest{PodSandboxId: "pod-0"})
	require.ErrorContains(t, err, "disk on fire")
	_, err = s.ListPodSandboxStats(t.Context(), &runtimeapi.ListPodSandboxStatsRequest{})
	require.ErrorContains(t, err, "disk on fire")
	require.ErrorContains(t, s.StreamPodSandboxStats(&runtimeapi.StreamPodSandboxStatsRequest{}, &statsStream{}), "disk on fire")
}

type statsStream struct {
	grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]
	sizes []int
	err   error
}

func (s *statsStream) Send(r *runtimeapi.StreamPodSandboxStatsResponse) error {
	s.sizes = append(s.sizes, len(r.PodSandboxStats))
	return s.err
}

func TestStatsAreStreamedInBatches(t *testing.T) {
	s, _ := statsService(t, 210)
	st := &statsStream{}
	require.NoError(t, s.StreamPodSandboxStats(&runtimeapi.StreamPodSandboxStatsRequest{}, st))
	require.Equal(t, []int{100, 100, 10}, st.sizes)
	st.err = errors.New("hung up")
	require.ErrorContains(t, s.StreamPodSandboxStats(&runtimeapi.StreamPodSandboxStatsRequest{}, st), "hung up")
}
