package sandbox

import (
	"errors"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/cgroups"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/cgroupstat"
	"github.com/rktnetes/rktshim/pod"
)

// metricsService has one pod with one app that lives and one that has exited.
func metricsService(t *testing.T) (*Service, *fakePods) {
	t.Helper()
	s, f := statsService(t, 1)
	f.appErr = map[pod.AppID]error{}
	f.apps = []pod.App{
		{ID: "app-0", Pod: "pod-0", State: pod.Running, Cgroup: "/p/app-0", Spec: &pod.AppSpec{Name: "web", Image: "nginx"}, CreatedAt: time.Unix(1700000000, 0)},
		{ID: "app-1", Pod: "pod-0", State: pod.Exited, Spec: &pod.AppSpec{Name: "old"}},
		{ID: "app-2", Pod: "an earlier attempt", State: pod.Running, Spec: &pod.AppSpec{Name: "web"}},
	}
	f.pods["pod-0"].Cgroup = "/p"
	f.containers["pod-0"] = []*runtimeapi.ContainerStats{{
		Attributes:    &runtimeapi.ContainerAttributes{Id: "app-0"},
		WritableLayer: &runtimeapi.FilesystemUsage{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/gone"}, UsedBytes: u64(4096)},
	}}
	f.detail = cgroupstat.Detail{
		Stats:     cgroups.NewStats(),
		CPUShares: 2, CPUPeriod: 100000, CPUQuota: 50000, SwapLimit: cgroupstat.NoLimit, OOMKills: 1, Processes: 2, Descriptors: 7, Sockets: 3,
	}
	f.detail.CpuStats = cgroups.CpuStats{
		CpuUsage:       cgroups.CpuUsage{TotalUsage: 5e9, UsageInUsermode: 3e9, UsageInKernelmode: 2e9},
		ThrottlingData: cgroups.ThrottlingData{Periods: 10, ThrottledPeriods: 4, ThrottledTime: 1e9},
		PSI:            &cgroups.PSIStats{Some: cgroups.PSIData{Total: 8e6}, Full: cgroups.PSIData{Total: 1e6}},
	}
	f.detail.MemoryStats.Usage = cgroups.MemoryData{Usage: 1000, Limit: 2000, MaxUsage: 1500, Failcnt: 6}
	f.detail.MemoryStats.SwapUsage.Usage = 1100
	f.detail.MemoryStats.Stats = map[string]uint64{
		"total_inactive_file": 300, "total_rss": 400, "total_cache": 500, "total_mapped_file": 50, "pgfault": 11, "total_pgfault": 12, "pgmajfault": 1, "total_pgmajfault": 2,
		"inactive_file": 1, "anon": 2, "file": 3, "file_mapped": 4,
	}
	f.detail.PidsStats = cgroups.PidsStats{Current: 9, Limit: 100}
	f.detail.BlkioStats.IoServiceBytesRecursive = []cgroups.BlkioStatEntry{{Major: 250, Minor: 4095, Op: "Read", Value: 70}, {Major: 250, Minor: 4095, Op: "Write", Value: 80}}
	return s, f
}

func find(all []*runtimeapi.Metric, name string) (found []*runtimeapi.Metric) {
	for _, m := range all {
		if m.Name == name {
			found = append(found, m)
		}
	}
	return found
}

func TestMetricsHaveTheLabelsOfTheirDescriptors(t *testing.T) {
	s, _ := metricsService(t)
	d, err := s.ListMetricDescriptors(t.Context(), &runtimeapi.ListMetricDescriptorsRequest{})
	require.NoError(t, err)
	keys := map[string][]string{}
	for _, d := range d.Descriptors {
		require.NotContains(t, keys, d.Name)
		require.NotEmpty(t, d.Help)
		keys[d.Name] = d.LabelKeys
	}

	r, err := s.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})

	require.NoError(t, err)
	require.Len(t, r.PodMetrics, 1)
	p := r.PodMetrics[0]
	require.Equal(t, "pod-0", p.PodSandboxId)
	require.Len(t, p.ContainerMetrics, 1, "one that has exited uses nothing")
	require.Equal(t, "app-0", p.ContainerMetrics[0].ContainerId)
	for _, m := range append(p.Metrics, p.ContainerMetrics[0].Metrics...) {
		require.Contains(t, keys, m.Name)
		require.Len(t, m.LabelValues, len(keys[m.Name]), m.Name)
		require.Zero(t, m.Timestamp, "it was read now")
	}
}

func TestMetricsOfAContainer(t *testing.T) {
	s, _ := metricsService(t)
	r, err := s.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	require.NoError(t, err)
	all := r.PodMetrics[0].ContainerMetrics[0].Metrics
	for name, want := range map[string]uint64{
		"container_cpu_usage_seconds_total": 5, "container_cpu_user_seconds_total": 3, "container_cpu_system_seconds_total": 2,
		"container_cpu_cfs_periods_total": 10, "container_cpu_cfs_throttled_periods_total": 4, "container_cpu_cfs_throttled_seconds_total": 1,
		"container_spec_cpu_period": 100000, "container_spec_cpu_quota": 50000, "container_spec_cpu_shares": 2,
		"container_memory_usage_bytes": 1000, "container_memory_working_set_bytes": 700, "container_memory_max_usage_bytes": 1500,
		"container_memory_cache": 500, "container_memory_rss": 400, "container_memory_mapped_file": 50, "container_memory_swap": 100,
		"container_memory_failcnt": 6, "container_oom_events_total": 1, "container_spec_memory_limit_bytes": 2000,
		"container_spec_memory_reservation_limit_bytes": 0, "container_spec_memory_swap_limit_bytes": 0,
		"container_processes": 2, "container_threads": 9, "container_threads_max": 100, "container_file_descriptors": 7, "container_sockets": 3,
		"container_fs_usage_bytes": 4096, "container_fs_reads_bytes_total": 70, "container_fs_writes_bytes_total": 80,
		"container_pressure_cpu_waiting_seconds_total": 8, "container_pressure_cpu_stalled_seconds_total": 1, "container_start_time_seconds": 1700000000,
	} {
		found := find(all, name)
		require.Len(t, found, 1, name)
		require.Equal(t, want, found[0].Value.Value, name)
		require.Equal(t, []string{"web", "/p/app-0", "nginx", "app-0", "default", "web"}, found[0].LabelValues[:6], name)
	}
	require.Len(t, find(all, "container_memory_failures_total"), 4)
	require.Len(t, find(all, "container_blkio_device_usage_total"), 2)
	require.Empty(t, find(all, "container_network_receive_bytes_total"), "it is the pod's")
	require.Empty(t, find(all, "container_pressure_memory_waiting_seconds_total"), "the kernel does not count it")
	require.Empty(t, find(all, "container_ulimits_soft"), "it has no process")
}

func TestMetricsOfAPodsOwnShare(t *testing.T) {
	s, f := metricsService(t)
	f.detail.Unified, f.detail.CPUQuota = true, 0
	r, err := s.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	require.NoError(t, err)
	all := r.PodMetrics[0].Metrics
	received := find(all, "container_network_receive_bytes_total")
	require.Len(t, received, 2)
	require.Equal(t, []string{"", "/p/pod-0", "", "pod-0", "default", "web", "eth0"}, received[1].LabelValues)
	require.EqualValues(t, 1, received[1].Value.Value)
	require.EqualValues(t, 3, find(all, "container_memory_cache")[0].Value.Value, "by the names of v2")
	require.Empty(t, find(all, "container_cpu_cfs_periods_total"), "there is no limit")
	require.Empty(t, find(all, "container_fs_usage_bytes"), "it writes nothing")
}

type metricsStream struct {
	grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]
	sent int
	err  error
}

func (s *metricsStream) Send(r *runtimeapi.StreamPodSandboxMetricsResponse) error {
	s.sent += len(r.PodSandboxMetrics)
	return s.err
}

func TestMetricsAreStreamed(t *testing.T) {
	s, _ := metricsService(t)
	st := &metricsStream{}
	require.NoError(t, s.StreamPodSandboxMetrics(nil, st))
	require.Equal(t, 1, st.sent)
	st.err = errors.New("hung up")
	require.ErrorContains(t, s.StreamPodSandboxMetrics(nil, st), "hung up")
}

func TestMetricsOfWhatEndsMeanwhileAreLeftOut(t *testing.T) {
	s, f := metricsService(t)
	f.appErr["app-0"] = errdefs.ErrFailedPrecondition
	r, err := s.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	require.NoError(t, err)
	require.Empty(t, r.PodMetrics[0].ContainerMetrics)

	f.usageErr = errdefs.ErrNotFound
	r, err = s.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	require.NoError(t, err)
	require.Empty(t, r.PodMetrics)

	f.usageErr, f.appErr["app-0"] = nil, errors.New("disk on fire")
	_, err = s.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	require.ErrorContains(t, err, "disk on fire")
}
