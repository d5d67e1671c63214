package container

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

// statsService has count running apps.
func statsService(t *testing.T, count int) (*Service, *fakeApps) {
	t.Helper()
	f := &fakeApps{apps: map[pod.AppID]*pod.App{}, usageErr: map[pod.AppID]error{}}
	for i := range count {
		id := pod.AppID(fmt.Sprintf("app-%d", i))
		f.order = append(f.order, id)
		f.apps[id] = &pod.App{
			ID: id, Pod: pod.ID(fmt.Sprintf("pod-%d", i%2)), State: pod.Running,
			Spec: &pod.AppSpec{Name: "web", Attempt: 3, Labels: map[string]string{"n": fmt.Sprint(i)}, Annotations: map[string]string{"a": "b"}},
		}
	}
	f.usage = pod.Usage{Cores: 0.25, HasCores: true, Usage: cgroupstat.Usage{
		Time: time.Unix(1700000200, 7), CPU: 5 * time.Second, Tasks: 3,
		Memory:      cgroupstat.Memory{Usage: 300, WorkingSet: 200, RSS: 100, Limit: 1000, PageFaults: 9, MajorPageFaults: 1},
		Swap:        &cgroupstat.Swap{Usage: 10, Limit: 50},
		CPUPressure: &cgroupstat.Pressure{Some: cgroupstat.Stall{Avg10: 1, Avg60: 2, Avg300: 3, TotalMicros: 4}},
		IOPressure:  &cgroupstat.Pressure{Full: cgroupstat.Stall{TotalMicros: 1}},
	}}
	return New(Node{}, f, fakeImages{}), f
}

func u64(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }

func TestStatsHaveEveryField(t *testing.T) {
	s, _ := statsService(t, 1)

	r, err := s.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "app-0"})

	require.NoError(t, err)
	const at = 1700000200*int64(time.Second) + 7
	require.Equal(t, &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: "app-0", Metadata: &runtimeapi.ContainerMetadata{Name: "web", Attempt: 3},
			Labels: map[string]string{"n": "0"}, Annotations: map[string]string{"a": "b"},
		},
		Cpu: &runtimeapi.CpuUsage{
			Timestamp: at, UsageCoreNanoSeconds: u64(5e9), UsageNanoCores: u64(25e7),
			Psi: &runtimeapi.PsiStats{Full: &runtimeapi.PsiData{}, Some: &runtimeapi.PsiData{Total: 4000, Avg10: 1, Avg60: 2, Avg300: 3}},
		},
		Memory: &runtimeapi.MemoryUsage{
			Timestamp: at, WorkingSetBytes: u64(200), AvailableBytes: u64(800), UsageBytes: u64(300), RssBytes: u64(100),
			PageFaults: u64(9), MajorPageFaults: u64(1),
		},
		Swap:          &runtimeapi.SwapUsage{Timestamp: at, SwapUsageBytes: u64(10), SwapAvailableBytes: u64(40)},
		Io:            &runtimeapi.IoUsage{Timestamp: at, Psi: &runtimeapi.PsiStats{Full: &runtimeapi.PsiData{Total: 1000}, Some: &runtimeapi.PsiData{}}},
		WritableLayer: &runtimeapi.FilesystemUsage{Timestamp: 1700000100 * int64(time.Second), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/images"}, UsedBytes: u64(4096), InodesUsed: u64(2)},
	}, r.Stats)
}

func TestStatsLeaveOutWhatIsNotKnown(t *testing.T) {
	s, f := statsService(t, 2)
	f.usage.HasCores, f.usage.Swap, f.usage.CPUPressure, f.usage.IOPressure = false, nil, nil, nil
	f.usage.Memory.Limit = cgroupstat.NoLimit

	r, err := s.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "app-1"})

	require.NoError(t, err)
	require.Nil(t, r.Stats.Cpu.UsageNanoCores)
	require.Nil(t, r.Stats.Cpu.Psi)
	require.Nil(t, r.Stats.Memory.AvailableBytes)
	require.Nil(t, r.Stats.Swap)
	require.Nil(t, r.Stats.Io)
	require.Nil(t, r.Stats.WritableLayer)
}

func TestLimitBelowWhatIsUsedLeavesNothingAvailable(t *testing.T) {
	s, f := statsService(t, 1)
	f.usage.Memory.Limit, f.usage.Swap.Limit = 1, 1

	r, err := s.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "app-0"})

	require.NoError(t, err)
	require.Equal(t, u64(0), r.Stats.Memory.AvailableBytes)
	require.Equal(t, u64(0), r.Stats.Swap.SwapAvailableBytes)
}

func TestStatsOfAMissingContainerAreNotFound(t *testing.T) {
	s, f := statsService(t, 1)
	_, err := s.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "gone"})
	require.ErrorIs(t, err, errdefs.ErrNotFound)

	f.usageErr["app-0"] = errdefs.ErrNotFound // removed in the meantime
	_, err = s.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "app-0"})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestStatsOfAContainerThatHasExited(t *testing.T) {
	s, f := statsService(t, 2)
	f.apps["app-0"].State = pod.Exited
	f.usageErr["app-0"] = errdefs.ErrFailedPrecondition

	r, err := s.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "app-0"})
	require.NoError(t, err)
	require.Equal(t, "app-0", r.Stats.Attributes.Id)
	require.NotNil(t, r.Stats.WritableLayer, "it still takes disk")
	require.Nil(t, r.Stats.Cpu)
	require.Nil(t, r.Stats.Memory)

	require.Equal(t, []string{"app-1"}, listed(t, s, nil))
}

func listed(t *testing.T, s *Service, f *runtimeapi.ContainerStatsFilter) (ids []string) {
	t.Helper()
	r, err := s.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{Filter: f})
	require.NoError(t, err)
	for _, st := range r.Stats {
		ids = append(ids, st.Attributes.Id)
	}
	return ids
}

func TestStatsAreFiltered(t *testing.T) {
	s, f := statsService(t, 4)
	f.apps["app-3"].State = pod.Created
	require.Equal(t, []string{"app-0", "app-1", "app-2", "app-3"}, listed(t, s, nil))
	require.Equal(t, []string{"app-2"}, listed(t, s, &runtimeapi.ContainerStatsFilter{Id: "app-2"}))
	require.Equal(t, []string{"app-1", "app-3"}, listed(t, s, &runtimeapi.ContainerStatsFilter{PodSandboxId: "pod-1"}))
	require.Equal(t, []string{"app-3"}, listed(t, s, &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"n": "3"}}))
	require.Empty(t, listed(t, s, &runtimeapi.ContainerStatsFilter{Id: "app-2", PodSandboxId: "pod-1"}))
	require.Empty(t, listed(t, s, &runtimeapi.ContainerStatsFilter{Id: "app"}), "ids are whole")
}

func TestContainersThatEndWhileTheyAreListedAreLeftOut(t *testing.T) {
	s, f := statsService(t, 3)
	f.usageErr["app-0"], f.usageErr["app-1"] = errdefs.ErrFailedPrecondition, errdefs.ErrNotFound
	require.Equal(t, []string{"app-2"}, listed(t, s, nil))

	f.usageErr["app-2"] = errors.New("disk on fire")
	_, err := s.ListContainerStats(t.Context(), &runtimeapi.ListContainerStatsRequest{})
	require.ErrorContains(t, err, "disk on fire")
	_, err = s.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "app-2"})
	require.ErrorContains(t, err, "disk on fire")
	require.ErrorContains(t, s.StreamContainerStats(&runtimeapi.StreamContainerStatsRequest{}, &statsStream{}), "disk on fire")
}

type statsStream struct {
	grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]
	sizes []int
	err   error
}

func (s *statsStream) Send(r *runtimeapi.StreamContainerStatsResponse) error {
	s.sizes = append(s.sizes, len(r.ContainerStats))
	return s.err
}

func TestStatsAreStreamedInBatches(t *testing.T) {
	s, _ := statsService(t, 250)
	st := &statsStream{}
	require.NoError(t, s.StreamContainerStats(&runtimeapi.StreamContainerStatsRequest{}, st))
	require.Equal(t, []int{100, 100, 50}, st.sizes)

	st.err = errors.New("hung up")
	require.ErrorContains(t, s.StreamContainerStats(&runtimeapi.StreamContainerStatsRequest{}, st), "hung up")

	st = &statsStream{}
	require.NoError(t, s.StreamContainerStats(&runtimeapi.StreamContainerStatsRequest{Filter: &runtimeapi.ContainerStatsFilter{Id: "none"}}, st))
	require.Empty(t, st.sizes)
}
