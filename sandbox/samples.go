package sandbox

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/cgroupstat"
	"github.com/rktnetes/rktshim/pod"
)

// sample is one cgroup at one moment: an app's, or a pod's own share, which then has
// the pod's traffic.
type sample struct {
	group, name string
	pod         *pod.Spec
	app         *pod.AppSpec // nil for a pod's own share
	pid         int
	created     time.Time
	detail      cgroupstat.Detail
	traffic     []pod.Traffic
	layer       *runtimeapi.FilesystemUsage // nil where there is none, or it is not measured yet
}

// commonLabels are every metric's; its own come after them.
var commonLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

func (s *sample) commonValues() []string {
	container, image := "", ""
	if s.app != nil {
		container, image = s.app.Name, s.app.Image
	}
	return []string{container, s.group, image, s.name, s.pod.Namespace, s.pod.Name}
}

// metric is one name, and how its values are got from a sample.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	labels     []string
	values     func(*sample) []value
}

// value is a number, with the values of the metric's own labels. CRI has whole
// numbers only: seconds are cut off.
type value struct {
	n      uint64
	labels []string
}

// metrics returns all that the sample has values for.
func (s *sample) metrics() (all []*runtimeapi.Metric) {
	common := s.commonValues()
	for i := range metrics {
		m := &metrics[i]
		for _, v := range m.values(s) {
			all = append(all, &runtimeapi.Metric{
				Name: m.name, MetricType: m.kind, Value: &runtimeapi.UInt64Value{Value: v.n},
				LabelValues: append(append(make([]string, 0, len(common)+len(v.labels)), common...), v.labels...),
			})
		}
	}
	return all
}

const (
	counter = runtimeapi.MetricType_COUNTER
	gauge   = runtimeapi.MetricType_GAUGE
)

// metrics are all that there are.
var metrics = []metric{
	{"container_cpu_usage_seconds_total", "Processor time consumed, in seconds.", counter, []string{"cpu"}, func(s *sample) []value {
		return []value{{seconds(s.detail.CpuStats.CpuUsage.TotalUsage), []string{"total"}}}
	}},
	{"container_cpu_user_seconds_total", "Processor time consumed in user mode, in seconds.", counter, nil, one(func(s *sample) uint64 { return seconds(s.detail.CpuStats.CpuUsage.UsageInUsermode) })},
	{"container_cpu_system_seconds_total", "Processor time consumed in the kernel, in seconds.", counter, nil, one(func(s *sample) uint64 { return seconds(s.detail.CpuStats.CpuUsage.UsageInKernelmode) })},
	{"container_cpu_cfs_periods_total", "Periods in which a limit of processor time was in force.", counter, nil, throttling(func(t *cgroups.ThrottlingData) uint64 { return t.Periods })},
	{"container_cpu_cfs_throttled_periods_total", "Periods in which that limit was reached.", counter, nil, throttling(func(t *cgroups.ThrottlingData) uint64 { return t.ThrottledPeriods })},
	{"container_cpu_cfs_throttled_seconds_total", "Time for which that limit has held tasks up, in seconds.", counter, nil, throttling(func(t *cgroups.ThrottlingData) uint64 { return seconds(t.ThrottledTime) })},
	{"container_spec_cpu_period", "Period of the limit of processor time, in microseconds.", gauge, nil, one(func(s *sample) uint64 { return s.detail.CPUPeriod })},
	{"container_spec_cpu_quota", "Limit of processor time in a period, in microseconds.", gauge, nil, func(s *sample) []value {
		if s.detail.CPUQuota == 0 {
			return nil
		}
		return []value{{n: s.detail.CPUQuota}}
	}},
	{"container_spec_cpu_shares", "Share of processor time where it is scarce.", gauge, nil, one(func(s *sample) uint64 { return s.detail.CPUShares })},

	{"container_memory_usage_bytes", "Memory used, with caches, in bytes.", gauge, nil, one(func(s *sample) uint64 { return s.detail.MemoryStats.Usage.Usage })},
	{"container_memory_working_set_bytes", "Memory used, without what could be given back at once, in bytes.", gauge, nil, one(func(s *sample) uint64 {
		usage := s.detail.MemoryStats.Usage.Usage
		return usage - min(usage, s.memory("total_inactive_file", "inactive_file"))
	})},
	{"container_memory_max_usage_bytes", "Most memory that was ever used, in bytes.", gauge, nil, one(func(s *sample) uint64 { return s.detail.MemoryStats.Usage.MaxUsage })},
	{"container_memory_cache", "Memory that holds files, in bytes.", gauge, nil, one(func(s *sample) uint64 { return s.memory("total_cache", "file") })},
	{"container_memory_rss", "Memory that holds no files, in bytes.", gauge, nil, one(func(s *sample) uint64 { return s.memory("total_rss", "anon") })},
	{"container_memory_mapped_file", "Memory that holds mapped files, in bytes.", gauge, nil, one(func(s *sample) uint64 { return s.memory("total_mapped_file", "file_mapped") })},
	{"container_memory_swap", "Swap used, in bytes.", gauge, nil, one(func(s *sample) uint64 {
		return s.detail.MemoryStats.SwapUsage.Usage - min(s.detail.MemoryStats.SwapUsage.Usage, s.detail.MemoryStats.Usage.Usage)
	})},
	{"container_memory_kernel_usage", "Memory used by the kernel, in bytes.", gauge, nil, one(func(s *sample) uint64 {
		if s.detail.Unified {
			return s.detail.MemoryStats.Stats["kernel"]
		}
		return s.detail.MemoryStats.KernelUsage.Usage
	})},
	{"container_memory_failcnt", "How often the limit of memory was reached.", counter, nil, one(func(s *sample) uint64 { return s.detail.MemoryStats.Usage.Failcnt })},
	{"container_memory_failures_total", "Page faults.", counter, []string{"failure_type", "scope"}, func(s *sample) []value {
		return []value{
			{s.memory("pgfault", "pgfault"), []string{"pgfault", "container"}},
			{s.memory("pgmajfault", "pgmajfault"), []string{"pgmajfault", "container"}},
			{s.memory("total_pgfault", "pgfault"), []string{"pgfault", "hierarchy"}},
			{s.memory("total_pgmajfault", "pgmajfault"), []string{"pgmajfault", "hierarchy"}},
		}
	}},
	{"container_oom_events_total", "Processes that the kernel has killed for want of memory.", counter, nil, one(func(s *sample) uint64 { return s.detail.OOMKills })},
	{"container_spec_memory_limit_bytes", "Limit of memory, in bytes; 0 for none.", gauge, nil, one(func(s *sample) uint64 { return limit(s.detail.MemoryStats.Usage.Limit) })},
	{"container_spec_memory_reservation_limit_bytes", "Memory that is left alone where it is scarce, in bytes; 0 for none.", gauge, nil, one(func(s *sample) uint64 { return limit(s.detail.MemoryReservation) })},
	{"container_spec_memory_swap_limit_bytes", "Limit of swap, on cgroup v1 of memory and swap together, in bytes; 0 for none.", gauge, nil, one(func(s *sample) uint64 { return limit(s.detail.SwapLimit) })},

	{"container_processes", "Processes.", gauge, nil, one(func(s *sample) uint64 { return s.detail.Processes })},
	{"container_threads", "Threads.", gauge, nil, one(func(s *sample) uint64 { return s.detail.PidsStats.Current })},
	{"container_threads_max", "Limit of threads; 0 for none.", gauge, nil, one(func(s *sample) uint64 { return limit(s.detail.PidsStats.Limit) })},
	{"container_file_descriptors", "Open file descriptors.", gauge, nil, one(func(s *sample) uint64 { return s.detail.Descriptors })},
	{"container_sockets", "Open sockets.", gauge, nil, one(func(s *sample) uint64 { return s.detail.Sockets })},
	{"container_ulimits_soft", "Soft limits of the first process.", gauge, []string{"ulimit"}, func(s *sample) []value {
		var l unix.Rlimit
		if s.pid == 0 || unix.Prlimit(s.pid, unix.RLIMIT_NOFILE, nil, &l) != nil { // it has ended
			return nil
		}
		return []value{{l.Cur, []string{"max_open_files"}}}
	}},

	{"container_blkio_device_usage_total", "Bytes read from and written to a disk.", counter, []string{"device", "major", "minor", "operation"}, func(s *sample) (all []value) {
		for _, e := range s.detail.BlkioStats.IoServiceBytesRecursive {
			all = append(all, value{e.Value, []string{device(e), fmt.Sprint(e.Major), fmt.Sprint(e.Minor), e.Op}})
		}
		return all
	}},
	{"container_fs_usage_bytes", "What was written to its root, in bytes.", gauge, []string{"device"}, func(s *sample) []value {
		if s.layer == nil {
			return nil
		}
		return []value{{s.layer.UsedBytes.GetValue(), []string{deviceBelow(s.layer.FsId.GetMountpoint())}}}
	}},
	{"container_fs_reads_bytes_total", "Bytes read from a disk.", counter, []string{"device"}, disk("read", func(b *cgroups.BlkioStats) []cgroups.BlkioStatEntry { return b.IoServiceBytesRecursive })},
	{"container_fs_reads_total", "Reads from a disk.", counter, []string{"device"}, disk("read", func(b *cgroups.BlkioStats) []cgroups.BlkioStatEntry { return b.IoServicedRecursive })},
	{"container_fs_writes_bytes_total", "Bytes written to a disk.", counter, []string{"device"}, disk("write", func(b *cgroups.BlkioStats) []cgroups.BlkioStatEntry { return b.IoServiceBytesRecursive })},
	{"container_fs_writes_total", "Writes to a disk.", counter, []string{"device"}, disk("write", func(b *cgroups.BlkioStats) []cgroups.BlkioStatEntry { return b.IoServicedRecursive })},

	{"container_network_receive_bytes_total", "Bytes received.", counter, interfaceLabel, each(func(t *pod.Traffic) uint64 { return t.RxBytes })},
	{"container_network_receive_packets_total", "Packets received.", counter, interfaceLabel, each(func(t *pod.Traffic) uint64 { return t.RxPackets })},
	{"container_network_receive_packets_dropped_total", "Packets dropped on receipt.", counter, interfaceLabel, each(func(t *pod.Traffic) uint64 { return t.RxDropped })},
	{"container_network_receive_errors_total", "Errors of receipt.", counter, interfaceLabel, each(func(t *pod.Traffic) uint64 { return t.RxErrors })},
	{"container_network_transmit_bytes_total", "Bytes sent.", counter, interfaceLabel, each(func(t *pod.Traffic) uint64 { return t.TxBytes })},
	{"container_network_transmit_packets_total", "Packets sent.", counter, interfaceLabel, each(func(t *pod.Traffic) uint64 { return t.TxPackets })},
	{"container_network_transmit_packets_dropped_total", "Packets dropped before they were sent.", counter, interfaceLabel, each(func(t *pod.Traffic) uint64 { return t.TxDropped })},
	{"container_network_transmit_errors_total", "Errors of sending.", counter, interfaceLabel, each(func(t *pod.Traffic) uint64 { return t.TxErrors })},

	{"container_pressure_cpu_waiting_seconds_total", "Time in which some tasks waited for a processor, in seconds.", counter, nil, stalled(cpuPressure, some)},
	{"container_pressure_cpu_stalled_seconds_total", "Time in which all tasks waited for a processor, in seconds.", counter, nil, stalled(cpuPressure, full)},
	{"container_pressure_memory_waiting_seconds_total", "Time in which some tasks waited for memory, in seconds.", counter, nil, stalled(memoryPressure, some)},
	{"container_pressure_memory_stalled_seconds_total", "Time in which all tasks waited for memory, in seconds.", counter, nil, stalled(memoryPressure, full)},
	{"container_pressure_io_waiting_seconds_total", "Time in which some tasks waited for a disk, in seconds.", counter, nil, stalled(ioPressure, some)},
	{"container_pressure_io_stalled_seconds_total", "Time in which all tasks waited for a disk, in seconds.", counter, nil, stalled(ioPressure, full)},

	{"container_start_time_seconds", "When it was created, in seconds since 1970.", gauge, nil, one(func(s *sample) uint64 { return uint64(s.created.Unix()) })},
	{"container_last_seen", "When this was read, in seconds since 1970.", gauge, nil, one(func(*sample) uint64 { return uint64(time.Now().Unix()) })},
}

func seconds(nanos uint64) uint64 { return nanos / uint64(time.Second) }

// limit is 0 for none: the kernel has a number of about 2^63 for it.
func limit(n uint64) uint64 {
	if n >= math.MaxInt64&^(1<<16-1) {
		return 0
	}
	return n
}

func one(get func(*sample) uint64) func(*sample) []value {
	return func(s *sample) []value { return []value{{n: get(s)}} }
}

// throttling has values only where there is a limit of processor time.
func throttling(get func(*cgroups.ThrottlingData) uint64) func(*sample) []value {
	return func(s *sample) []value {
		if s.detail.CPUQuota == 0 {
			return nil
		}
		return []value{{n: get(&s.detail.CpuStats.ThrottlingData)}}
	}
}

// memory reads a field of memory.stat, which has other names on v2.
func (s *sample) memory(v1, v2 string) uint64 {
	if s.detail.Unified {
		return s.detail.MemoryStats.Stats[v2]
	}
	return s.detail.MemoryStats.Stats[v1]
}

// disk has a value for each device that was used.
func disk(op string, of func(*cgroups.BlkioStats) []cgroups.BlkioStatEntry) func(*sample) []value {
	return func(s *sample) (all []value) {
		for _, e := range of(&s.detail.BlkioStats) {
			if strings.EqualFold(e.Op, op) {
				all = append(all, value{e.Value, []string{device(e)}})
			}
		}
		return all
	}
}

func device(e cgroups.BlkioStatEntry) string { return devicePath(e.Major, e.Minor) }

// deviceBelow is the device that a folder lies on, empty if that is none, like a
// tmpfs.
func deviceBelow(dir string) string {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != nil {
		return ""
	}
	return devicePath(uint64(unix.Major(st.Dev)), uint64(unix.Minor(st.Dev)))
}

// devicePath is the path of a device, empty for one that is gone.
func devicePath(major, minor uint64) string {
	to, err := os.Readlink(fmt.Sprintf("/sys/dev/block/%d:%d", major, minor))
	if err != nil {
		return ""
	}
	return filepath.Join("/dev", filepath.Base(to))
}

var interfaceLabel = []string{"interface"}

func each(get func(*pod.Traffic) uint64) func(*sample) []value {
	return func(s *sample) (all []value) {
		for i := range s.traffic {
			all = append(all, value{get(&s.traffic[i]), []string{s.traffic[i].Name}})
		}
		return all
	}
}

// Which stalls a metric of pressure is about.
func cpuPressure(s *cgroups.Stats) *cgroups.PSIStats    { return s.CpuStats.PSI }
func memoryPressure(s *cgroups.Stats) *cgroups.PSIStats { return s.MemoryStats.PSI }
func ioPressure(s *cgroups.Stats) *cgroups.PSIStats     { return s.BlkioStats.PSI }
func some(p *cgroups.PSIStats) cgroups.PSIData          { return p.Some }
func full(p *cgroups.PSIStats) cgroups.PSIData          { return p.Full }

// stalled has a value only where the kernel counts stalls by group. It counts in
// microseconds.
func stalled(of func(*cgroups.Stats) *cgroups.PSIStats, which func(*cgroups.PSIStats) cgroups.PSIData) func(*sample) []value {
	return func(s *sample) []value {
		p := of(s.detail.Stats)
		if p == nil {
			return nil
		}
		return []value{{n: which(p).Total / 1e6}}
	}
}
