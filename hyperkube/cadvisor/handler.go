package cadvisor

import (
	"fmt"
	"maps"

	"github.com/google/cadvisor/container"
	"github.com/google/cadvisor/container/common"
	"github.com/google/cadvisor/container/libcontainer"
	info "github.com/google/cadvisor/info/v1"
	"github.com/opencontainers/cgroups"

	"github.com/rktnetes/rktshim/pod"
)

// handler answers for one app's cgroup, or for a pod's own share.
type handler struct {
	*factory
	owner     pod.Owner
	reference info.ContainerReference
	labels    map[string]string
	image     string
	paths     map[string]string
	manager   cgroups.Manager
	included  container.MetricSet
}

// NewContainerHandler implements container.ContainerHandlerFactory.
func (f *factory) NewContainerHandler(name string, _ []string, _ bool) (container.ContainerHandler, error) {
	owner, _ := f.cgroups.Owner(name)
	if owner.Pod == "" {
		return nil, fmt.Errorf("cgroup %s is not a pod's any more", name)
	}
	h := &handler{factory: f, owner: owner, paths: common.MakeCgroupPaths(f.mounts, name)}
	id := string(owner.App)
	if owner.App == "" {
		id = string(owner.Pod)
		h.labels = maps.Clone(owner.Spec.Labels)
		h.included = f.metrics
		if owner.Spec.HostNetwork {
			h.included = common.RemoveNetMetrics(f.metrics, true) // it is the node's
		}
	} else {
		h.labels, h.image = maps.Clone(owner.AppSpec.Labels), owner.AppSpec.Image
		h.included = common.RemoveNetMetrics(f.metrics, true) // it is the pod's
	}
	h.reference = info.ContainerReference{Id: id, Name: name, Aliases: []string{id, name}, Namespace: Name}
	var err error
	h.manager, err = libcontainer.NewCgroupManager(name, h.paths)
	return h, err
}

// ContainerReference implements container.ContainerHandler.
func (h *handler) ContainerReference() (info.ContainerReference, error) { return h.reference, nil }

// GetSpec implements container.ContainerHandler.
func (h *handler) GetSpec() (info.ContainerSpec, error) {
	spec, err := common.GetSpec(h.paths, h.machine, h.included.Has(container.NetworkUsageMetrics), h.hasLayer())
	spec.Labels, spec.Image = h.labels, h.image
	return spec, err
}

func (h *handler) hasLayer() bool {
	return h.owner.App != "" && h.included.Has(container.DiskUsageMetrics)
}

// GetStats implements container.ContainerHandler.
func (h *handler) GetStats() (*info.ContainerStats, error) {
	stats, err := libcontainer.NewHandler(h.manager, "/", h.pid(), h.withoutNetwork()).GetStats()
	if err != nil {
		return nil, err
	}
	if h.included.Has(container.NetworkUsageMetrics) {
		h.addNetwork(stats)
	}
	machine, err := h.machine.GetMachineInfo()
	if err != nil {
		return stats, err
	}
	if h.included.Has(container.DiskIOMetrics) {
		common.AssignDeviceNamesToDiskStats((*common.MachineInfoNamer)(machine), &stats.DiskIo)
	}
	if h.hasLayer() {
		h.addLayer(stats, machine)
	}
	return stats, nil
}

// withoutNetwork: cAdvisor reads it by way of a process, which a pod may not have.
func (h *handler) withoutNetwork() container.MetricSet {
	return common.RemoveNetMetrics(h.included, true)
}

// pid is the first process of an app that lives, else 0.
func (h *handler) pid() int {
	app, err := h.cgroups.App(h.owner.App)
	if err != nil { // a pod's own share, or not to be seen yet
		return 0
	}
	return app.PID
}

// addNetwork adds the pod's interfaces. A pod that is just coming or going has
// none.
func (h *handler) addNetwork(stats *info.ContainerStats) {
	traffic, err := h.cgroups.Traffic(h.owner.Pod)
	if err != nil {
		return
	}
	for _, t := range traffic {
		stats.Network.Interfaces = append(stats.Network.Interfaces, info.InterfaceStats{
			Name:    t.Name,
			RxBytes: t.RxBytes, RxPackets: t.RxPackets, RxErrors: t.RxErrors, RxDropped: t.RxDropped,
			TxBytes: t.TxBytes, TxPackets: t.TxPackets, TxErrors: t.TxErrors, TxDropped: t.TxDropped,
		})
	}
	if len(stats.Network.Interfaces) > 0 {
		stats.Network.InterfaceStats = stats.Network.Interfaces[0]
	}
}

// addLayer adds the app's writable layer, on the device that it lies on.
func (h *handler) addLayer(stats *info.ContainerStats, machine *info.MachineInfo) {
	layer, ok := h.cgroups.Layer(h.owner.App)
	if !ok {
		return
	}
	device, err := h.fsInfo.GetDirFsDevice(layer.Mountpoint)
	if err != nil { // one that cAdvisor does not know, as a tmpfs
		return
	}
	use := info.FsStats{Device: device.Device, Usage: layer.Bytes, BaseUsage: layer.Bytes, Inodes: layer.Inodes}
	for _, f := range machine.Filesystems {
		if f.Device == device.Device {
			use.Type, use.Limit = f.Type, f.Capacity // no other limit is set
		}
	}
	stats.Filesystem = append(stats.Filesystem, use)
}

// ListContainers implements container.ContainerHandler: what is below is passed
// over.
func (h *handler) ListContainers(container.ListType) ([]info.ContainerReference, error) {
	return nil, nil
}

// ListProcesses implements container.ContainerHandler.
func (h *handler) ListProcesses(container.ListType) ([]int, error) { return h.manager.GetPids() }

// GetCgroupPath implements container.ContainerHandler.
func (h *handler) GetCgroupPath(resource string) (string, error) {
	if cgroups.IsCgroup2UnifiedMode() {
		resource = ""
	}
	path, ok := h.paths[resource]
	if !ok {
		return "", fmt.Errorf("cgroup %s has no controller %q", h.reference.Name, resource)
	}
	return path, nil
}

// GetContainerLabels implements container.ContainerHandler.
func (h *handler) GetContainerLabels() map[string]string { return h.labels }

// GetContainerIPAddress implements container.ContainerHandler.
func (h *handler) GetContainerIPAddress() string { return "" }

// GetExitCode implements container.ContainerHandler.
func (h *handler) GetExitCode() (int, error) {
	app, err := h.cgroups.App(h.owner.App)
	if err != nil {
		return -1, err
	}
	if app.Exit == nil {
		return -1, fmt.Errorf("app %s has not exited", app.ID)
	}
	return app.Exit.Code, nil
}

// Exists implements container.ContainerHandler.
func (h *handler) Exists() bool { return common.CgroupExists(h.paths) }

// Type implements container.ContainerHandler. cAdvisor has no type of ours.
func (h *handler) Type() container.ContainerType { return container.ContainerTypeRaw }

// Start implements container.ContainerHandler.
func (h *handler) Start() {}

// Cleanup implements container.ContainerHandler.
func (h *handler) Cleanup() {}
