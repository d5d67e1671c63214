package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/cgroupstat"
	"github.com/rktnetes/rktshim/pod"
)

// fakePods keeps pods in memory.
type fakePods struct {
	pods    map[pod.ID]*pod.Pod
	stopped []pod.ID
	removed []pod.ID
	apps    []pod.App
	events  []pod.Event
	err     error

	usage      map[pod.ID]pod.Usage
	usageErr   error
	detail     cgroupstat.Detail
	appErr     map[pod.AppID]error
	traffic    map[pod.ID][]pod.Traffic
	containers map[pod.ID][]*runtimeapi.ContainerStats
}

func (f *fakePods) PodUsage(id pod.ID) (pod.Usage, error) { return f.usage[id], f.usageErr }

func (f *fakePods) PodTraffic(id pod.ID) ([]pod.Traffic, error) { return f.traffic[id], nil }

func (f *fakePods) PodDetail(pod.ID) (cgroupstat.Detail, error) { return f.detail, f.usageErr }

func (f *fakePods) AppDetail(id pod.AppID) (cgroupstat.Detail, error) { return f.detail, f.appErr[id] }

func (f *fakePods) SandboxStats(id pod.ID) ([]*runtimeapi.ContainerStats, error) {
	return f.containers[id], nil
}

func (f *fakePods) Launch(_ context.Context, spec pod.Spec) (pod.ID, error) {
	if f.err != nil {
		return "", f.err
	}
	id := pod.ID(fmt.Sprintf("pod-%d", len(f.pods)))
	p := &pod.Pod{ID: id, Spec: &spec, State: pod.Running, CreatedAt: time.Unix(1700000000, 5)}
	if !spec.HostNetwork {
		p.Network = pod.NetworkResult{IPs: []netip.Addr{netip.MustParseAddr("10.1.0.2"), netip.MustParseAddr("fd00::2")}}
	}
	f.pods[id] = p
	return id, nil
}

func (f *fakePods) Stop(_ context.Context, id pod.ID, _ time.Duration) error {
	f.stopped = append(f.stopped, id)
	return f.err
}

func (f *fakePods) Remove(_ context.Context, id pod.ID) error {
	f.removed = append(f.removed, id)
	return f.err
}

func (f *fakePods) Snapshot(id pod.ID) (pod.Snapshot, error) {
	if p := f.pods[id]; p != nil {
		return pod.Snapshot{At: snapshotTime, Pod: *p, Apps: f.apps}, nil
	}
	return pod.Snapshot{}, fmt.Errorf("pod %s: %w", id, errdefs.ErrNotFound)
}

var snapshotTime = time.Unix(1700000001, 7)

// Watch tells of events and then ends as f.err says.
func (f *fakePods) Watch(_ context.Context, told func(pod.Event) error) error {
	for _, ev := range f.events {
		if err := told(ev); err != nil {
			return err
		}
	}
	return f.err
}

func (f *fakePods) Pods(match func(*pod.Pod) bool) (out []pod.Pod) {
	for i := range len(f.pods) {
		if p := f.pods[pod.ID(fmt.Sprintf("pod-%d", i))]; match(p) {
			out = append(out, *p)
		}
	}
	return out
}

func (f *fakePods) UpdatePod(_ context.Context, id pod.ID, change func(*pod.Spec) (json.RawMessage, error)) error {
	p, err := f.Snapshot(id)
	if err != nil {
		return err
	}
	p.Pod.Spec.Extra, err = change(p.Pod.Spec)
	return err
}

func newService(t *testing.T, cfg Config) (*Service, *fakePods) {
	t.Helper()
	f := &fakePods{pods: map[pod.ID]*pod.Pod{}}
	s, err := New(cfg, f, containerStatus, f)
	require.NoError(t, err)
	return s, f
}

// containerStatus translates an app as far as a test looks; one without an image
// is broken.
func containerStatus(app *pod.App) (*runtimeapi.ContainerStatus, error) {
	if app.Spec.Image == "" {
		return nil, fmt.Errorf("no image: %w", errdefs.ErrInternal)
	}
	return &runtimeapi.ContainerStatus{Id: string(app.ID), Metadata: &runtimeapi.ContainerMetadata{Name: app.Spec.Name}}, nil
}

func testConfig() *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "web", Namespace: "default", Uid: "u1", Attempt: 2},
		Hostname:     "web",
		LogDirectory: "/var/log/pods/x",
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.0.0.10", "1.1.1.1"}, Searches: []string{"a.local", "b"}, Options: []string{"ndots:5"}},
		PortMappings: []*runtimeapi.PortMapping{{Protocol: runtimeapi.Protocol_SCTP, ContainerPort: 80, HostPort: 8080, HostIp: "127.0.0.1"}},
		Labels:       map[string]string{"io.kubernetes.pod.uid": "u1"},
		Annotations:  map[string]string{"k": "v", "kubernetes.io/ingress-bandwidth": "10M"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    "/kubepods/burstable/podu1",
			Sysctls:         map[string]string{"net.ipv4.tcp_syncookies": "1"},
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}},
			Resources:       &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 1 << 20},
		},
	}
}

func run(t *testing.T, s *Service, f *fakePods, config *runtimeapi.PodSandboxConfig, handler string) (*pod.Spec, error) {
	t.Helper()
	resp, err := s.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
	if err != nil {
		require.Empty(t, f.pods, "nothing is launched")
		return nil, err
	}
	return f.pods[pod.ID(resp.PodSandboxId)].Spec, nil
}

func TestConfigBecomesASpec(t *testing.T) {
	s, f := newService(t, Config{})

	spec, err := run(t, s, f, testConfig(), "")

	require.NoError(t, err)
	spec.Extra = nil
	require.Equal(t, &pod.Spec{
		UID: "u1", Attempt: 2, Name: "web", Namespace: "default", Flavor: "nspawn", Hostname: "web",
		Sysctls:      map[string]string{"net.ipv4.tcp_syncookies": "1"},
		ShmBytes:     64 << 20,
		ResolvConf:   "search a.local b\nnameserver 10.0.0.10\nnameserver 1.1.1.1\noptions ndots:5\n",
		CgroupParent: "/kubepods/burstable/podu1",
		LogDir:       "/var/log/pods/x",
		Ports:        []pod.PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "SCTP", HostIP: "127.0.0.1"}},
		Bandwidth:    pod.Bandwidth{Ingress: 10e6},
		DNS:          pod.DNS{Servers: []string{"10.0.0.10", "1.1.1.1"}, Searches: []string{"a.local", "b"}, Options: []string{"ndots:5"}},
		Labels:       map[string]string{"io.kubernetes.pod.uid": "u1"},
		Annotations:  map[string]string{"k": "v", "kubernetes.io/ingress-bandwidth": "10M"},
	}, spec)
}

func TestNamespacesFollowTheOptions(t *testing.T) {
	s, f := newService(t, Config{})
	config := testConfig()
	config.Hostname = ""
	config.Linux.Sysctls = nil
	config.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{
		Network: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_POD}

	spec, err := run(t, s, f, config, "lean")

	require.NoError(t, err)
	require.True(t, spec.HostNetwork && spec.HostUTS && spec.HostIPC && spec.SharedPID)
	require.Zero(t, spec.ShmBytes)
	require.Empty(t, spec.Ports, "host ports of a pod on the host's network are its own")
	st, err := s.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "pod-0", Verbose: true})
	require.NoError(t, err)
	require.Equal(t, config.Linux.SecurityContext.NamespaceOptions.String(), st.Status.Linux.Namespaces.Options.String())
	require.Nil(t, st.Status.Network)
	require.Contains(t, st.Info["info"], `"flavor":"lean"`)
}

func TestStage1IsChosenInOrder(t *testing.T) {
	for _, c := range []struct {
		annotation, handler, node string
		privileged, hostNetwork   bool
		flavor, problem           string
	}{
		{flavor: "nspawn"},
		{node: "lean", flavor: "lean"},
		{node: "lean", handler: "nspawn", flavor: "nspawn"},
		{handler: "coreos.com/rkt/stage1-lean:1.0", flavor: "lean"},
		{annotation: "lean", handler: "nspawn", privileged: true, flavor: "lean"},
		{annotation: "coreos.com/rkt/stage1-fly", privileged: true, hostNetwork: true, flavor: "fly"},
		{annotation: "lean", problem: "only a pod with a privileged container may choose"},
		{annotation: "gvisor", privileged: true, problem: `stage1 "gvisor" is unknown; known are nspawn (coreos.com/rkt/stage1-coreos), lean (coreos.com/rkt/stage1-lean), fly`},
		{handler: "runsc", problem: "runtime_handler: stage1"},
		{handler: "kvm", problem: `"kvm" is not built yet`},
		{handler: "fly", hostNetwork: true, problem: "privileged"},
		{handler: "fly", privileged: true, problem: "hostNetwork"},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			s, f := newService(t, Config{Stage1: c.node})
			config := testConfig()
			config.Linux.SecurityContext.Privileged = c.privileged
			if c.hostNetwork {
				config.Linux.SecurityContext.NamespaceOptions.Network = runtimeapi.NamespaceMode_NODE
			}
			if c.annotation != "" {
				config.Annotations[Stage1Annotation] = c.annotation
			}

			spec, err := run(t, s, f, config, c.handler)

			if c.problem != "" {
				require.ErrorContains(t, err, c.problem)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.flavor, spec.Flavor)
			if c.flavor == "fly" {
				require.True(t, spec.HostIPC && spec.HostUTS && !spec.SharedPID)
				require.Zero(t, spec.ShmBytes)
			}
		})
	}
}

func TestWhatIsImpossibleOrNotBuiltIsRefusedByItsField(t *testing.T) {
	type lc = runtimeapi.LinuxPodSandboxConfig
	for field, change := range map[string]func(*runtimeapi.PodSandboxConfig, *lc){
		"metadata":            func(c *runtimeapi.PodSandboxConfig, _ *lc) { c.Metadata.Uid = "" },
		"windows":             func(c *runtimeapi.PodSandboxConfig, _ *lc) { c.Windows = &runtimeapi.WindowsPodSandboxConfig{} },
		"hostname":            func(c *runtimeapi.PodSandboxConfig, _ *lc) { c.Hostname = "" },
		"log_directory":       func(c *runtimeapi.PodSandboxConfig, _ *lc) { c.LogDirectory = "logs" },
		"dns_config.servers":  func(c *runtimeapi.PodSandboxConfig, _ *lc) { c.DnsConfig.Servers = []string{"1.1.1.1\nx"} },
		"dns_config.searches": func(c *runtimeapi.PodSandboxConfig, _ *lc) { c.DnsConfig.Searches = []string{"a b"} },
		"kubernetes.io/egress-bandwidth": func(c *runtimeapi.PodSandboxConfig, _ *lc) {
			c.Annotations["kubernetes.io/egress-bandwidth"] = "fast"
		},
		"linux.cgroup_parent": func(_ *runtimeapi.PodSandboxConfig, l *lc) { l.CgroupParent = "/a/../../b" },
		`linux.sysctls: "kernel.msgmax"`: func(_ *runtimeapi.PodSandboxConfig, l *lc) {
			l.Sysctls = map[string]string{"kernel.msgmax": "1"}
		},
		"run_as_group": func(_ *runtimeapi.PodSandboxConfig, l *lc) {
			l.SecurityContext.RunAsGroup = &runtimeapi.Int64Value{Value: 1}
		},
		"userns_options": func(_ *runtimeapi.PodSandboxConfig, l *lc) {
			l.SecurityContext.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}
		},
		"selinux_options": func(_ *runtimeapi.PodSandboxConfig, l *lc) {
			l.SecurityContext.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0"}
		},
		"apparmor": func(_ *runtimeapi.PodSandboxConfig, l *lc) {
			l.SecurityContext.Apparmor = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		},
		"namespace_options.ipc": func(_ *runtimeapi.PodSandboxConfig, l *lc) {
			l.SecurityContext.NamespaceOptions.Ipc = runtimeapi.NamespaceMode_CONTAINER
		},
	} {
		s, f := newService(t, Config{})
		config := testConfig()
		change(config, config.Linux)

		_, err := run(t, s, f, config, "")

		require.ErrorContains(t, err, field)
		require.True(t, errdefs.IsInvalidArgument(err) || errdefs.IsNotImplemented(err), field)
	}
}

func TestSysctlsOfTheNodeAreAllowedToo(t *testing.T) {
	s, f := newService(t, Config{Sysctls: []string{"kernel.msg*", "net.core.somaxconn"}})
	config := testConfig()
	config.Linux.Sysctls = map[string]string{"kernel.msgmax": "1", "net/core/somaxconn": "2", "net.ipv4.tcp_rmem": "3"}

	spec, err := run(t, s, f, config, "")

	require.NoError(t, err)
	require.Equal(t, config.Linux.Sysctls, spec.Sysctls)
}

func TestCgroupParentIsConverted(t *testing.T) {
	for _, c := range []struct {
		in      string
		systemd bool
		want    string
	}{
		{"", true, ""},
		{"/kubepods/burstable/pod1-2", false, "/kubepods/burstable/pod1-2"},
		{"kubepods/pod1", false, "/kubepods/pod1"},
		{"/kubepods/burstable/pod1-2", true, "kubepods-burstable-pod1_2.slice"},
		{"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice", true, "kubepods-burstable-pod1.slice"},
		{"/kubepods.slice/kubepods-pod1.slice", false, "/kubepods.slice/kubepods-pod1.slice"},
		{"kubepods-pod1.slice", false, "/kubepods.slice/kubepods-pod1.slice"},
		{"/", true, "-.slice"},
	} {
		got, err := cgroupParent(c.in, c.systemd)
		require.NoError(t, err)
		require.Equal(t, c.want, got, c.in)
	}
}

func TestPodWithoutDNSGetsTheNodesOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	require.NoError(t, os.WriteFile(path, []byte("nameserver 9.9.9.9\n"), 0o600))
	for file, want := range map[string]string{path: "nameserver 9.9.9.9\n", path + ".absent": ""} {
		s, f := newService(t, Config{ResolvConf: file})
		config := testConfig()
		config.DnsConfig = nil

		spec, err := run(t, s, f, config, "")

		require.NoError(t, err)
		require.Equal(t, want, spec.ResolvConf)
	}
}

func TestStatusTellsWhatWasAskedVerbatim(t *testing.T) {
	s, f := newService(t, Config{})
	config := testConfig()
	_, err := run(t, s, f, config, "lean")
	require.NoError(t, err)
	f.apps = []pod.App{{ID: "a1", Spec: &pod.AppSpec{Name: "nginx", Image: "nginx"}}}

	st, err := s.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "pod-0"})

	require.NoError(t, err)
	require.Equal(t, config.Metadata.String(), st.Status.Metadata.String())
	require.Equal(t, config.Labels, st.Status.Labels)
	require.Equal(t, config.Annotations, st.Status.Annotations)
	require.Equal(t, "lean", st.Status.RuntimeHandler)
	require.Equal(t, runtimeapi.PodSandboxState_SANDBOX_READY, st.Status.State)
	require.Equal(t, int64(1700000000000000005), st.Status.CreatedAt)
	require.Equal(t, "10.1.0.2", st.Status.Network.Ip)
	require.Equal(t, "fd00::2", st.Status.Network.AdditionalIps[0].Ip)
	require.Equal(t, runtimeapi.NamespaceMode_CONTAINER, st.Status.Linux.Namespaces.Options.Pid)
	require.Equal(t, snapshotTime.UnixNano(), st.Timestamp, "of the engine's moment")
	require.Len(t, st.ContainersStatuses, 1)
	require.Equal(t, "nginx", st.ContainersStatuses[0].Metadata.Name)
	_, err = s.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "nope"})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestListFilters(t *testing.T) {
	s, f := newService(t, Config{})
	for range 3 {
		_, err := s.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: testConfig()})
		require.NoError(t, err)
	}
	f.pods["pod-1"].State = pod.Exited
	f.pods["pod-2"].State = pod.Booting
	ready := &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}
	for _, c := range []struct {
		filter *runtimeapi.PodSandboxFilter
		want   []string
	}{
		{nil, []string{"pod-0", "pod-1"}},
		{&runtimeapi.PodSandboxFilter{Id: "pod-1"}, []string{"pod-1"}},
		{&runtimeapi.PodSandboxFilter{State: ready}, []string{"pod-0"}},
		{&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": "u1"}}, []string{"pod-0", "pod-1"}},
		{&runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": "u2"}}, nil},
	} {
		resp, err := s.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: c.filter})
		require.NoError(t, err)
		var got []string
		for _, p := range resp.Items {
			got = append(got, p.Id)
		}
		require.Equal(t, c.want, got)
	}
}

// sentPods collects what is streamed.
type sentPods struct {
	grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]
	sizes []int
	err   error
}

func (s *sentPods) Send(r *runtimeapi.StreamPodSandboxesResponse) error {
	s.sizes = append(s.sizes, len(r.PodSandboxes))
	return s.err
}

func TestStreamSendsEachSandboxOnce(t *testing.T) {
	s, _ := newService(t, Config{})
	for range batch + 1 {
		_, err := s.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: testConfig()})
		require.NoError(t, err)
	}
	stream := &sentPods{}

	require.NoError(t, s.StreamPodSandboxes(&runtimeapi.StreamPodSandboxesRequest{}, stream))

	require.Equal(t, []int{batch, 1}, stream.sizes)
	broken := &sentPods{err: os.ErrClosed}
	require.ErrorIs(t, s.StreamPodSandboxes(&runtimeapi.StreamPodSandboxesRequest{}, broken), os.ErrClosed)
}

func TestStopAndRemoveReachTheEngine(t *testing.T) {
	s, f := newService(t, Config{})
	_, err := s.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: "a"})
	require.NoError(t, err)
	_, err = s.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{PodSandboxId: "b"})
	require.NoError(t, err)
	require.Equal(t, []pod.ID{"a"}, f.stopped)
	require.Equal(t, []pod.ID{"b"}, f.removed)

	f.err = os.ErrClosed
	_, err = s.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{})
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = s.RemovePodSandbox(t.Context(), &runtimeapi.RemovePodSandboxRequest{})
	require.ErrorIs(t, err, os.ErrClosed)
	_, err = s.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: testConfig()})
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestResourcesAreKept(t *testing.T) {
	s, f := newService(t, Config{})
	spec, err := run(t, s, f, testConfig(), "")
	require.NoError(t, err)

	_, err = s.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{
		PodSandboxId: "pod-0", Overhead: &runtimeapi.LinuxContainerResources{CpuQuota: 7}})

	require.NoError(t, err)
	kept, err := extraOf(spec)
	require.NoError(t, err)
	require.Equal(t, int64(7), kept.Overhead.CPUQuota)
	require.Equal(t, int64(1<<20), kept.Resources.Memory)
	_, err = s.UpdatePodSandboxResources(t.Context(), &runtimeapi.UpdatePodSandboxResourcesRequest{PodSandboxId: "nope"})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestUnknownDefaultStage1IsRefusedAtStart(t *testing.T) {
	_, err := New(Config{Stage1: "gvisor"}, &fakePods{}, containerStatus, &fakePods{})
	require.ErrorContains(t, err, "Stage1")
}

func TestBandwidthIsAQuantity(t *testing.T) {
	for text, want := range map[string]uint64{"1000": 1000, "10k": 10000, "1.5M": 1500000, "1Gi": 1 << 30, "1e6": 1000000} {
		got, err := bandwidth(map[string]string{"k": text}, "k")
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "-1", "x", "1Q", "NaN", "1e30"} {
		_, err := bandwidth(map[string]string{"k": text}, "k")
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, text)
	}
}
