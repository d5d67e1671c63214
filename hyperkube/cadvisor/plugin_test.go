package cadvisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/cadvisor/container"
	"github.com/google/cadvisor/container/libcontainer"
	"github.com/google/cadvisor/fs"
	info "github.com/google/cadvisor/info/v1"
	"github.com/opencontainers/cgroups"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	shimcontainer "github.com/rktnetes/rktshim/container"
	"github.com/rktnetes/rktshim/pod"
)

// fakeCgroups is one pod with one app, whose cgroups are below group.
type fakeCgroups struct {
	group   string
	host    bool // on the node's network
	app     pod.App
	gone    bool
	traffic error
}

const (
	podID = "2fc932ce-fdcc-454b-97bd-aadfdeb4c340"
	appID = "9be25294016e2dc0340dd605ce1f57b492039b267a6a618a7ad2a7a58a740f32"
)

func (f *fakeCgroups) Owner(group string) (o pod.Owner, ours bool) {
	spec := &pod.Spec{Name: "web", Labels: map[string]string{"io.kubernetes.pod.name": "web"}, HostNetwork: f.host}
	switch {
	case f.gone:
		return pod.Owner{}, false
	case group == f.group+"/"+podID:
		return pod.Owner{Pod: podID, Spec: spec}, true
	case group == f.group+"/"+appID:
		return pod.Owner{Pod: podID, Spec: spec, App: appID, AppSpec: &pod.AppSpec{Image: "nginx", Labels: map[string]string{"io.kubernetes.container.name": "c"}}}, true
	}
	return pod.Owner{}, group == f.group || filepath.Dir(group) == f.group
}

func (f *fakeCgroups) App(id pod.AppID) (pod.App, error) {
	if id != appID {
		return pod.App{}, fmt.Errorf("app %q is unknown", id)
	}
	return f.app, nil
}

func (f *fakeCgroups) Traffic(pod.ID) ([]pod.Traffic, error) {
	return []pod.Traffic{{Name: "eth0", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8}}, f.traffic
}

func (f *fakeCgroups) Layer(pod.AppID) (shimcontainer.Layer, bool) {
	return shimcontainer.Layer{Mountpoint: "/images", Bytes: 4096, Inodes: 3}, true
}

// machine is what cAdvisor knows of the node.
type machine struct{ info.MachineInfoFactory }

func (machine) GetMachineInfo() (*info.MachineInfo, error) {
	return &info.MachineInfo{NumCores: 2, Filesystems: []info.FsInfo{{Device: "/dev/vda", Type: "ext4", Capacity: 1 << 40}}}, nil
}

func (machine) GetVersionInfo() (*info.VersionInfo, error) { return &info.VersionInfo{}, nil }

type disks struct{ fs.FsInfo }

func (disks) GetDirFsDevice(dir string) (*fs.DeviceInfo, error) {
	if dir != "/images" {
		return nil, errors.New("no such device")
	}
	return &fs.DeviceInfo{Device: "/dev/vda"}, nil
}

var included = container.MetricSet{
	container.CpuUsageMetrics: {}, container.MemoryUsageMetrics: {}, container.NetworkUsageMetrics: {},
	container.ProcessMetrics: {}, container.DiskUsageMetrics: {}, container.DiskIOMetrics: {},
}

// newFactory has cgroups that are there: the process's own stand for the pod's.
func newFactory(t *testing.T, f *fakeCgroups) *factory {
	t.Helper()
	mounts, err := libcontainer.GetCgroupSubsystems(included)
	require.NoError(t, err)
	const prefix = "/rktt-cadvisor-"
	f.group = prefix + strconv.Itoa(os.Getpid())
	remove := func(dir string) {
		for _, sub := range []string{podID, appID, ""} {
			_ = os.Remove(filepath.Join(dir, sub)) // of two controllers in one hierarchy, the first removes it
		}
	}
	for _, mount := range mounts {
		left, _ := filepath.Glob(mount + prefix + "*")
		for _, dir := range left { // by runs that were killed
			if pid, err := strconv.Atoi(dir[len(mount+prefix):]); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
				remove(dir)
			}
		}
		dir := filepath.Join(mount, f.group)
		for _, sub := range []string{"", podID, appID} {
			if err := os.Mkdir(filepath.Join(dir, sub), 0o755); errors.Is(err, os.ErrPermission) {
				t.Skip("cgroups take root")
			}
		}
		t.Cleanup(func() { remove(dir) })
	}
	return &factory{f, machine{}, disks{}, mounts, included}
}

func TestGroupsInBetweenAreIgnored(t *testing.T) {
	f := &fakeCgroups{}
	factory := newFactory(t, f)
	for group, want := range map[string][2]bool{
		f.group + "/" + podID:   {true, true},
		f.group + "/" + appID:   {true, true},
		f.group:                 {true, false},
		f.group + "/stage1":     {true, false},
		"/":                     {false, false},
		"/system.slice/x.mnt":   {false, false},
		"/kubepods/pod" + podID: {false, false},
	} {
		handle, accept, err := factory.CanHandleAndAccept(group)
		require.NoError(t, err)
		require.Equal(t, want, [2]bool{handle, accept}, group)
	}
}

func TestHandlerOfAnApp(t *testing.T) {
	f := &fakeCgroups{app: pod.App{ID: appID, PID: os.Getpid()}}
	h, err := newFactory(t, f).NewContainerHandler(f.group+"/"+appID, nil, true)
	require.NoError(t, err)
	ref, err := h.ContainerReference()
	require.NoError(t, err)
	require.Equal(t, info.ContainerReference{Id: appID, Name: f.group + "/" + appID, Aliases: []string{appID, f.group + "/" + appID}, Namespace: Name}, ref)
	spec, err := h.GetSpec()
	require.NoError(t, err)
	require.Equal(t, "nginx", spec.Image)
	require.Equal(t, map[string]string{"io.kubernetes.container.name": "c"}, spec.Labels)
	require.True(t, spec.HasCpu && spec.HasMemory && spec.HasFilesystem)
	require.False(t, spec.HasNetwork, "it is the pod's")
	require.WithinDuration(t, time.Now(), spec.CreationTime, time.Hour)

	stats, err := h.GetStats()

	require.NoError(t, err)
	require.Empty(t, stats.Network.Interfaces)
	require.Equal(t, []info.FsStats{{Device: "/dev/vda", Type: "ext4", Limit: 1 << 40, Usage: 4096, BaseUsage: 4096, Inodes: 3}}, stats.Filesystem)
	require.Len(t, stats.Processes.Ulimits, 1, "of its first process")
	require.True(t, h.Exists())
	_, err = h.GetExitCode()
	require.ErrorContains(t, err, "has not exited")
	f.app.Exit = &pod.Exit{Code: 3}
	code, err := h.GetExitCode()
	require.NoError(t, err)
	require.Equal(t, 3, code)
	below, err := h.ListContainers(container.ListRecursive)
	require.NoError(t, err)
	require.Empty(t, below)
	path, err := h.GetCgroupPath("memory")
	require.NoError(t, err)
	require.DirExists(t, path)
	if !cgroups.IsCgroup2UnifiedMode() {
		_, err = h.GetCgroupPath("nonsense")
		require.ErrorContains(t, err, `no controller "nonsense"`)
	}
}

func TestHandlerOfAPodsOwnShareHasItsNetwork(t *testing.T) {
	f := &fakeCgroups{}
	h, err := newFactory(t, f).NewContainerHandler(f.group+"/"+podID, nil, true)
	require.NoError(t, err)
	ref, err := h.ContainerReference()
	require.NoError(t, err)
	require.Equal(t, podID, ref.Id)
	spec, err := h.GetSpec()
	require.NoError(t, err)
	require.Equal(t, map[string]string{"io.kubernetes.pod.name": "web"}, spec.Labels)
	require.True(t, spec.HasNetwork)
	require.False(t, spec.HasFilesystem)

	stats, err := h.GetStats()

	require.NoError(t, err)
	eth0 := info.InterfaceStats{Name: "eth0", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 5, TxPackets: 6, TxErrors: 7, TxDropped: 8}
	require.Equal(t, []info.InterfaceStats{eth0}, stats.Network.Interfaces)
	require.Equal(t, eth0, stats.Network.InterfaceStats)
	require.Empty(t, stats.Filesystem)
	_, err = h.GetExitCode()
	require.Error(t, err)

	f.traffic = errors.New("it is just going")
	stats, err = h.GetStats()
	require.NoError(t, err)
	require.Empty(t, stats.Network.Interfaces)
}

func TestPodOnTheNodesNetworkHasNoNetworkOfItsOwn(t *testing.T) {
	f := &fakeCgroups{host: true}
	h, err := newFactory(t, f).NewContainerHandler(f.group+"/"+podID, nil, true)
	require.NoError(t, err)
	spec, err := h.GetSpec()
	require.NoError(t, err)
	require.False(t, spec.HasNetwork)
	stats, err := h.GetStats()
	require.NoError(t, err)
	require.Empty(t, stats.Network.Interfaces)
}

func TestGroupThatIsNobodysAnyMore(t *testing.T) {
	f := &fakeCgroups{}
	factory := newFactory(t, f)
	f.gone = true
	_, err := factory.NewContainerHandler(f.group+"/"+podID, nil, true)
	require.ErrorContains(t, err, "not a pod's any more")
}

func TestPluginWithoutARuntimeIsNotRegistered(t *testing.T) {
	var p Plugin
	_, err := adapter{&p}.Register(machine{}, disks{}, included)
	require.ErrorContains(t, err, "is off")

	t.Cleanup(container.ClearContainerHandlerFactories)
	p.Use(&fakeCgroups{})
	watcher, err := adapter{&p}.Register(machine{}, disks{}, included)
	require.NoError(t, err)
	require.Nil(t, watcher)
	require.True(t, container.HasFactories())
	require.NoError(t, adapter{&p}.InitializeFSContext(&fs.Context{}))
}
