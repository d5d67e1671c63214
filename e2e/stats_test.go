package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// statsPod works a little, writes a file and is asked for a page each second.
const statsPod = `
apiVersion: v1
kind: Pod
metadata: {name: stats, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: busy
    image: ` + registryAddr + `/busybox:1
    command: ["/bin/busybox", "sh", "-c", "echo started; mkdir /www; /bin/busybox dd if=/dev/zero of=/www/index.html bs=1024 count=100; /bin/busybox httpd -p 80 -h /www; while :; do i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; /bin/busybox sleep 0.2; done"]
    readinessProbe: {httpGet: {port: 80, path: /}, periodSeconds: 1}
    resources: {limits: {memory: 80M}, requests: {memory: 80M}}
    volumeMounts: [{name: scratch, mountPath: /scratch}]
  volumes: [{name: scratch, emptyDir: {}}]
`

// What the kubelet's documentation and its node tests (summary_test.go,
// container_metrics_test.go and resource_metrics_test.go of test/e2e_node) name. A
// field of a summary is a path in its JSON.
var (
	fsFields      = []string{"time", "availableBytes", "capacityBytes", "usedBytes", "inodesFree", "inodes", "inodesUsed"}
	cpuFields     = []string{"cpu.time", "cpu.usageNanoCores", "cpu.usageCoreNanoSeconds"}
	memoryFields  = []string{"memory.time", "memory.availableBytes", "memory.usageBytes", "memory.workingSetBytes", "memory.rssBytes", "memory.pageFaults", "memory.majorPageFaults"}
	networkFields = []string{"network.time", "network.name", "network.rxBytes", "network.rxErrors", "network.txBytes", "network.txErrors", "network.interfaces"}

	containerFields = slices.Concat([]string{"name", "startTime", "swap.time"}, cpuFields, memoryFields, within("rootfs", fsFields), within("logs", fsFields))
	podFields       = slices.Concat([]string{"podRef.name", "podRef.namespace", "podRef.uid", "startTime", "process_stats.process_count", "volume"},
		cpuFields, memoryFields, networkFields, within("ephemeral-storage", fsFields))
	nodeFields = slices.Concat([]string{"nodeName", "startTime", "rlimit.maxpid"}, cpuFields, memoryFields, within("runtime.imageFs", fsFields), within("runtime.containerFs", fsFields))

	containerSeries = []string{
		"container_blkio_device_usage_total", "container_cpu_system_seconds_total", "container_cpu_usage_seconds_total",
		"container_cpu_user_seconds_total", "container_file_descriptors", "container_fs_reads_bytes_total", "container_fs_reads_total",
		"container_fs_usage_bytes", "container_fs_writes_bytes_total", "container_fs_writes_total", "container_last_seen",
		"container_memory_cache", "container_memory_failcnt", "container_memory_failures_total", "container_memory_mapped_file",
		"container_memory_max_usage_bytes", "container_memory_rss", "container_memory_swap", "container_memory_usage_bytes",
		"container_memory_working_set_bytes", "container_oom_events_total", "container_processes", "container_sockets",
		"container_spec_cpu_period", "container_spec_cpu_shares", "container_spec_memory_limit_bytes",
		"container_spec_memory_reservation_limit_bytes", "container_spec_memory_swap_limit_bytes", "container_start_time_seconds",
		"container_threads", "container_threads_max", "container_ulimits_soft",
	}
	podSeries = []string{
		"container_network_receive_bytes_total", "container_network_receive_errors_total", "container_network_receive_packets_dropped_total",
		"container_network_receive_packets_total", "container_network_transmit_bytes_total", "container_network_transmit_errors_total",
		"container_network_transmit_packets_dropped_total", "container_network_transmit_packets_total",
	}
	seriesLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

	resourceSeries = []string{
		"resource_scrape_error", "node_cpu_usage_seconds_total", "node_memory_working_set_bytes", "pod_cpu_usage_seconds_total",
		"pod_memory_working_set_bytes", "container_cpu_usage_seconds_total", "container_memory_working_set_bytes",
		"container_start_time_seconds", "container_swap_usage_bytes", "pod_swap_usage_bytes",
	}
)

// ioSeries are there once a group has touched a disk.
var ioSeries = []string{
	"container_blkio_device_usage_total", "container_fs_reads_bytes_total", "container_fs_reads_total",
	"container_fs_writes_bytes_total", "container_fs_writes_total",
}

func within(object string, fields []string) (paths []string) {
	for _, f := range fields {
		paths = append(paths, object+"."+f)
	}
	return paths
}

// Usage as the kubelet's users see it, by way of cAdvisor, as the kubelet is set by
// default, and by CRI's stats alone.
func TestStats(t *testing.T) {
	for _, c := range []struct {
		stage1, config string
		fromCRI        bool
	}{
		{stage1: "lean"},
		{stage1: "nspawn"},
		{stage1: "lean", config: "featureGates: {PodAndContainerStatsFromCRI: true}", fromCRI: true},
	} {
		name := c.stage1
		if c.fromCRI {
			name += "-cri"
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := newPodNode(t, c.stage1, c.config, "volumeStatsAggPeriod: 5s") // a minute else
			n.kubelet()
			n.apply("stats", statsPod)
			p := n.waitPod("stats", running)

			fields := podFields
			if c.fromCRI { // which wants the default interface apart from the others
				fields = slices.DeleteFunc(slices.Clone(podFields), func(f string) bool { return f == "network.interfaces" })
			}
			n.waitLacks("/stats/summary", func() []string { return n.summaryLacks(fields) })
			n.waitLacks("/metrics/cadvisor", func() []string { return n.cadvisorLacks(p) })
			n.waitLacks("/metrics/resource", n.resourceLacks)
			n.requireCRIStats(p)
			n.requireMetricsOfOurOwn(c.stage1)
		})
	}
}

// waitLacks waits until nothing is missing: cAdvisor needs two samples of 10 to 15
// seconds, and what was written is measured as often.
func (n *podNode) waitLacks(what string, lacks func() []string) {
	n.t.Helper()
	var missing []string
	for deadline := time.Now().Add(4 * time.Minute); time.Now().Before(deadline); time.Sleep(500 * time.Millisecond) {
		if missing = lacks(); len(missing) == 0 {
			return
		}
	}
	require.Empty(n.t, missing, "%s lacks", what)
}

// summaryLacks lists the fields that /stats/summary lacks.
func (n *podNode) summaryLacks(podFields []string) (missing []string) {
	var s struct {
		Node map[string]any
		Pods []map[string]any
	}
	if err := json.Unmarshal([]byte(n.page("/stats/summary")), &s); err != nil {
		return []string{err.Error()}
	}
	if len(s.Pods) != 1 {
		return []string{fmt.Sprintf("%d pods, want 1", len(s.Pods))}
	}
	missing = append(lacking("node", s.Node, nodeFields), lacking("pod", s.Pods[0], podFields)...)
	containers, _ := s.Pods[0]["containers"].([]any)
	if len(containers) != 1 {
		return append(missing, fmt.Sprintf("%d containers, want 1", len(containers)))
	}
	missing = append(missing, lacking("container", containers[0], containerFields)...)
	if name, _ := field(s.Pods[0], "network.name"); name != "eth0" {
		missing = append(missing, fmt.Sprintf("network eth0, it is %v", name))
	}
	for _, positive := range []string{"cpu.usageCoreNanoSeconds", "memory.workingSetBytes", "memory.rssBytes", "network.rxBytes", "network.txBytes"} {
		if v, _ := field(s.Pods[0], positive); v == float64(0) {
			missing = append(missing, "pod "+positive+" > 0")
		}
	}
	if v, _ := field(containers[0], "rootfs.usedBytes"); v != nil && v.(float64) < 100<<10 {
		missing = append(missing, fmt.Sprintf("the file of 100 KiB in rootfs.usedBytes, which is %v", v))
	}
	return missing
}

func lacking(what string, object any, fields []string) (missing []string) {
	for _, f := range fields {
		if _, ok := field(object, f); !ok {
			missing = append(missing, what+" "+f)
		}
	}
	return missing
}

// field finds a field of a JSON object by its path.
func field(object any, path string) (value any, ok bool) {
	for _, name := range strings.Split(path, ".") {
		m, isObject := object.(map[string]any)
		if !isObject {
			return nil, false
		}
		if object, ok = m[name]; !ok {
			return nil, false
		}
	}
	return object, true
}

// cadvisorLacks lists the series of the pod and its container that
// /metrics/cadvisor lacks, by the labels that dashboards select them by.
func (n *podNode) cadvisorLacks(p podState) (missing []string) {
	all := n.series("/metrics/cadvisor")
	id := p.Status.ContainerStatuses[0].ContainerID
	id = id[strings.LastIndex(id, "/")+1:]
	has := func(name string, want map[string]string) bool {
		return slices.ContainsFunc(all, func(s series) bool {
			return s.name == name && s.labels["namespace"] == "default" && s.labels["pod"] == p.Metadata.Name &&
				!slices.ContainsFunc(seriesLabels, func(l string) bool { _, ok := s.labels[l]; return !ok }) && hasLabels(s.labels, want)
		})
	}
	for _, name := range containerSeries {
		if !has(name, map[string]string{"container": "busy", "name": id, "image": registryAddr + "/busybox:1"}) && !slices.Contains(ioSeries, name) {
			missing = append(missing, "container's "+name)
		}
	}
	for _, name := range podSeries {
		if !has(name, map[string]string{"container": "", "interface": "eth0"}) {
			missing = append(missing, "pod's "+name)
		}
		if has(name, map[string]string{"container": "busy"}) {
			missing = append(missing, "no "+name+" of the container: it would be counted twice")
		}
	}
	return missing
}

func hasLabels(labels, want map[string]string) bool {
	for k, v := range want {
		if labels[k] != v {
			return false
		}
	}
	return true
}

func (n *podNode) resourceLacks() (missing []string) {
	all := n.series("/metrics/resource")
	for _, name := range resourceSeries {
		if !slices.ContainsFunc(all, func(s series) bool { return s.name == name }) {
			missing = append(missing, name)
		}
	}
	return missing
}

// series is one line of a page of metrics.
type series struct {
	name   string
	labels map[string]string
}

var (
	seriesLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(\{.*\})? \S+( \d+)?$`)
	labelPair  = regexp.MustCompile(`([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"`)
)

// series reads a page of metrics, on which none may be there twice.
func (n *podNode) series(path string) (all []series) {
	n.t.Helper()
	seen := map[string]bool{}
	for line := range strings.Lines(n.page(path)) {
		m := seriesLine.FindStringSubmatch(strings.TrimSuffix(line, "\n"))
		if m == nil {
			continue
		}
		require.False(n.t, seen[m[1]+m[2]], "%s has %s twice", path, m[1]+m[2])
		seen[m[1]+m[2]] = true
		s := series{m[1], map[string]string{}}
		for _, pair := range labelPair.FindAllStringSubmatch(m[2], -1) {
			s.labels[pair[1]] = pair[2]
		}
		all = append(all, s)
	}
	return all
}

// page is what the kubelet answers, empty if it does not.
func (n *podNode) page(path string) string {
	code, body, err := n.get(n.t.Context(), "http://127.0.0.1:10255"+path)
	if err != nil || code != http.StatusOK {
		return ""
	}
	return body
}

// requireCRIStats asks the runtime itself.
func (n *podNode) requireCRIStats(p podState) {
	t, ctx, cri := n.t, n.t.Context(), n.cri()
	container := p.Status.ContainerStatuses[0].ContainerID
	container = container[strings.LastIndex(container, "/")+1:]

	one, err := cri.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: container})
	require.NoError(t, err)
	st := one.Stats
	require.Equal(t, "busy", st.Attributes.Metadata.Name)
	require.Positive(t, st.Cpu.UsageCoreNanoSeconds.Value)
	require.Positive(t, st.Cpu.UsageNanoCores.GetValue(), "it works all the time")
	require.Positive(t, st.Memory.WorkingSetBytes.Value)
	require.Positive(t, st.Memory.AvailableBytes.GetValue(), "it has a limit")
	require.GreaterOrEqual(t, st.WritableLayer.GetUsedBytes().GetValue(), uint64(100<<10))
	require.Positive(t, st.WritableLayer.GetInodesUsed().GetValue())
	filter := &runtimeapi.ContainerStatsFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": p.Metadata.UID}}
	list, err := cri.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{Filter: filter})
	require.NoError(t, err)
	require.Len(t, list.Stats, 1)
	require.Equal(t, container, list.Stats[0].Attributes.Id)

	pods, err := cri.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
	require.NoError(t, err)
	require.Len(t, pods.Stats, 1)
	linux := pods.Stats[0].Linux
	require.Equal(t, "eth0", linux.Network.DefaultInterface.Name)
	require.Positive(t, linux.Network.DefaultInterface.RxBytes.Value)
	require.Positive(t, linux.Network.DefaultInterface.TxBytes.Value)
	require.GreaterOrEqual(t, linux.Cpu.UsageCoreNanoSeconds.Value, st.Cpu.UsageCoreNanoSeconds.Value, "what the container uses, the pod uses")
	require.Positive(t, linux.Memory.AvailableBytes.GetValue())
	require.Greater(t, linux.Process.ProcessCount.Value, uint64(1))
	require.Len(t, linux.Containers, 1)

	streamed, err := cri.StreamPodSandboxStats(ctx, &runtimeapi.StreamPodSandboxStatsRequest{})
	require.NoError(t, err)
	batch, err := streamed.Recv()
	require.NoError(t, err)
	require.Equal(t, pods.Stats[0].Attributes.Id, batch.PodSandboxStats[0].Attributes.Id)
	_, err = streamed.Recv()
	require.ErrorIs(t, err, io.EOF)

	for _, missing := range []func(context.Context) error{
		func(ctx context.Context) error {
			_, err := cri.ContainerStats(ctx, &runtimeapi.ContainerStatsRequest{ContainerId: "gone"})
			return err
		},
		func(ctx context.Context) error {
			_, err := cri.PodSandboxStats(ctx, &runtimeapi.PodSandboxStatsRequest{PodSandboxId: "gone"})
			return err
		},
	} {
		require.Equal(t, codes.NotFound, status.Code(missing(ctx)))
	}
}

// requireMetricsOfOurOwn reads them on the kubelet's /metrics, beside its own.
func (n *podNode) requireMetricsOfOurOwn(stage1 string) {
	n.t.Helper()
	all := n.series("/metrics")
	for _, want := range []series{
		{"rktshim_operations_total", map[string]string{"method": "RunPodSandbox", "code": "OK"}},
		{"rktshim_operation_duration_seconds_count", map[string]string{"method": "ListContainerStats"}},
		{"rktshim_pods", map[string]string{"state": "running", "stage1": stage1}},
		{"rktshim_apps", map[string]string{"state": "running", "stage1": stage1}},
		{"rktshim_image_pulled_bytes_total", nil},
		{"rktshim_image_pull_duration_seconds_count", map[string]string{"result": "ok"}},
		{"rktshim_cni_duration_seconds_count", map[string]string{"verb": "ADD", "result": "ok"}},
		{"rktshim_supervisor_events_total", map[string]string{"event": "lost"}},
		{"rktshim_undos_total", map[string]string{"act": "launch"}},
		{"rktshim_garbage_collections_total", nil},
		{"kubelet_runtime_operations_total", nil},
	} {
		require.True(n.t, slices.ContainsFunc(all, func(s series) bool { return s.name == want.name && hasLabels(s.labels, want.labels) }), "%v", want)
	}
}
