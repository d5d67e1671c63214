package container

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What becomes of a field of CRI.
const (
	inForce = "in force"   // tests show that the container has it
	told    = "told"       // back by ContainerStatus, and nothing else is asked of a runtime
	refused = "refused"    // by an error that names it, see TestWhatIsImpossibleOrNotBuiltIsRefusedByItsField
	parent  = "see within" // a message with fields of its own
)

// fields is what this package does about each field that a container can be asked
// for by: a field that CRI gains must not be ignored silently.
var fields = map[protoreflect.ProtoMessage]map[string]string{
	&runtimeapi.ContainerConfig{}: {
		"metadata": parent, "image": parent, "command": inForce, "args": inForce, "working_dir": inForce, "envs": inForce,
		"mounts": parent, "devices": parent, "labels": told, "annotations": told, "log_path": inForce, "stdin": inForce,
		"stdin_once": inForce, "tty": inForce, "linux": parent, "windows": refused, "CDI_devices": refused, "stop_signal": inForce,
	},
	&runtimeapi.ContainerMetadata{}: {"name": told, "attempt": told},
	&runtimeapi.ImageSpec{}:         {"image": inForce, "annotations": told, "user_specified_image": told, "runtime_handler": told, "image_ref": told},
	&runtimeapi.Mount{}: {
		"container_path": inForce, "host_path": inForce, "readonly": inForce, "propagation": inForce, "recursive_read_only": inForce,
		"selinux_relabel": refused, "uidMappings": refused, "gidMappings": refused, "image": refused, "image_sub_path": refused,
	},
	&runtimeapi.Device{}:               {"container_path": inForce, "host_path": inForce, "permissions": inForce},
	&runtimeapi.LinuxContainerConfig{}: {"resources": parent, "security_context": parent},
	&runtimeapi.LinuxContainerResources{}: {
		"cpu_period": inForce, "cpu_quota": inForce, "cpu_shares": inForce, "memory_limit_in_bytes": inForce, "oom_score_adj": inForce,
		"cpuset_cpus": inForce, "cpuset_mems": inForce, "hugepage_limits": inForce, "unified": inForce, "memory_swap_limit_in_bytes": inForce,
	},
	&runtimeapi.LinuxContainerSecurityContext{}: {
		"capabilities": parent, "privileged": inForce, "namespace_options": parent, "selinux_options": refused, "run_as_user": inForce,
		"run_as_group": inForce, "run_as_username": inForce, "readonly_rootfs": inForce, "supplemental_groups": inForce,
		"supplemental_groups_policy": inForce, "no_new_privs": inForce, "masked_paths": inForce, "readonly_paths": inForce,
		"seccomp": inForce, "apparmor": refused, "apparmor_profile": refused, "seccomp_profile_path": refused,
	},
	&runtimeapi.Capability{}:      {"add_capabilities": inForce, "drop_capabilities": inForce, "add_ambient_capabilities": inForce},
	&runtimeapi.NamespaceOption{}: {"network": told, "pid": inForce, "ipc": told, "target_id": inForce, "userns_options": refused},
}

func TestEachFieldOfCRIIsAccountedFor(t *testing.T) {
	for message, known := range fields {
		d := message.ProtoReflect().Descriptor()
		var names []string
		for i := range d.Fields().Len() {
			names = append(names, string(d.Fields().Get(i).Name()))
		}
		var accounted []string
		for name := range known {
			accounted = append(accounted, name)
		}
		require.ElementsMatch(t, names, accounted, d.Name())
	}
}
