// Package cadvisor teaches the kubelet's cAdvisor the cgroups of our pods, as it
// knows containerd's and CRI-O's: with the names and labels of their pods, with
// the pods' network, and without the groups in between that nobody asks for.
//
// It asks the runtime in this process by function calls. A pod's own share (its
// supervisor's group, which bears the pod's id) stands where other runtimes have a
// pause container: it is what /stats/summary takes a pod's network from.
package cadvisor

import (
	"errors"
	"sync/atomic"

	"github.com/google/cadvisor/container"
	"github.com/google/cadvisor/container/libcontainer"
	"github.com/google/cadvisor/fs"
	info "github.com/google/cadvisor/info/v1"
	"github.com/google/cadvisor/watcher"

	shimcontainer "github.com/rktnetes/rktshim/container"
	"github.com/rktnetes/rktshim/pod"
)

// Cgroups is what is asked of the runtime; *rktshim.Cgroups.
type Cgroups interface {
	Owner(group string) (o pod.Owner, ours bool)
	App(id pod.AppID) (pod.App, error)
	Traffic(id pod.ID) ([]pod.Traffic, error)
	Layer(id pod.AppID) (shimcontainer.Layer, bool)
}

// Name is the plugin's name, and the namespace of its containers' aliases.
const Name = "rktshim"

// Plugin is a plugin of cAdvisor. cAdvisor makes nothing of it before the kubelet
// has reached its runtime.
type Plugin struct{ cgroups atomic.Pointer[Cgroups] }

// Register makes the plugin known to the cAdvisor of this process. It must be
// called once.
func (p *Plugin) Register() error { return container.RegisterPlugin(Name, adapter{p}) }

// Use says where the plugin asks, before cAdvisor starts. Without it, the kubelet
// has another runtime.
func (p *Plugin) Use(c Cgroups) { p.cgroups.Store(&c) }

// adapter is the plugin as cAdvisor calls it.
type adapter struct{ *Plugin }

// InitializeFSContext implements container.Plugin: our folders need no label.
func (adapter) InitializeFSContext(*fs.Context) error { return nil }

// Register implements container.Plugin.
func (a adapter) Register(machine info.MachineInfoFactory, fsInfo fs.FsInfo, metrics container.MetricSet) (watcher.ContainerWatcher, error) {
	c := a.cgroups.Load()
	if c == nil {
		return nil, errors.New("the runtime in this process is off")
	}
	mounts, err := libcontainer.GetCgroupSubsystems(metrics)
	if err != nil {
		return nil, err
	}
	container.RegisterContainerHandlerFactory(&factory{*c, machine, fsInfo, mounts, metrics}, []watcher.ContainerWatchSource{watcher.Raw})
	return nil, nil
}

// factory makes handlers of our cgroups.
type factory struct {
	cgroups Cgroups
	machine info.MachineInfoFactory
	fsInfo  fs.FsInfo
	mounts  map[string]string // of hierarchies, by controller
	metrics container.MetricSet
}

// String implements container.ContainerHandlerFactory.
func (*factory) String() string { return Name }

// DebugInfo implements container.ContainerHandlerFactory.
func (*factory) DebugInfo() map[string][]string { return nil }

// CanHandleAndAccept implements container.ContainerHandlerFactory: groups in a pod
// of ours that are neither an app's nor the pod's own share are passed over.
func (f *factory) CanHandleAndAccept(name string) (handle, accept bool, err error) {
	owner, ours := f.cgroups.Owner(name)
	return ours, owner.Pod != "", nil
}
