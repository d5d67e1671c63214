package container

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// checkNamespaces refuses what the container's pod cannot give.
func checkNamespaces(o *runtimeapi.NamespaceOption, spec *pod.Spec) error {
	const in = "linux.security_context.namespace_options."
	switch mode := o.GetPid(); {
	case mode == runtimeapi.NamespaceMode_POD && !spec.SharedPID && spec.Flavor != "fly":
		return invalid(in+"pid", "POD: the sandbox has no PID namespace of its own")
	case mode == runtimeapi.NamespaceMode_TARGET && o.GetTargetId() == "":
		return invalid(in+"target_id", "is empty, and pid is TARGET")
	case mode != runtimeapi.NamespaceMode_TARGET && o.GetTargetId() != "":
		return invalid(in+"target_id", "is given, and pid is not TARGET")
	case mode < runtimeapi.NamespaceMode_POD || mode > runtimeapi.NamespaceMode_TARGET:
		return invalid(in+"pid", "%d is unknown", mode)
	}
	if u := o.GetUsernsOptions(); u != nil && u.Mode != runtimeapi.NamespaceMode_NODE {
		return notYet(in+"userns_options", "user namespaces are not built yet, set hostUsers: true")
	}
	return nil
}

// namespaces names what the container joins: network, IPC and UTS are its pod's,
// PID is what it asks for. A fly container has the host's of all but mounts, where
// its root is.
func (n *Node) namespaces(o *runtimeapi.NamespaceOption, place *pod.Place, privileged bool) []specs.LinuxNamespace {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if place.Pod.Spec.Flavor == "fly" {
		return out
	}
	for _, join := range []struct {
		kind pod.NamespaceKind
		oci  specs.LinuxNamespaceType
	}{{pod.NetworkNamespace, specs.NetworkNamespace}, {pod.IPCNamespace, specs.IPCNamespace}, {pod.UTSNamespace, specs.UTSNamespace}} {
		if path := place.Namespace(join.kind); path != "" {
			out = append(out, specs.LinuxNamespace{Type: join.oci, Path: path})
		}
	}
	switch o.GetPid() {
	case runtimeapi.NamespaceMode_POD:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: place.Namespace(pod.PIDNamespace)})
	case runtimeapi.NamespaceMode_CONTAINER:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	case runtimeapi.NamespaceMode_TARGET:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: place.TargetPID})
	}
	// On v2 a container sees its own cgroup as the root of all; on v1 tools still
	// expect the host's paths.
	if n.Unified && !privileged {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out
}
