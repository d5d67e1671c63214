package container

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/rktnetes/rktshim/pod"
)

// baseMounts are what every container finds, besides what it asks for.
func baseMounts(place *pod.Place, privileged, readonlyRoot bool) []specs.Mount {
	access := "ro"
	if privileged {
		access = "rw"
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", access}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}},
	}
	return append(mounts, podMounts(place, readonlyRoot)...)
}

// flyMounts lend the host's own, for that is all the isolation that fly has.
func flyMounts(place *pod.Place, readonlyRoot bool) (mounts []specs.Mount) {
	for _, dir := range []string{"/proc", "/dev", "/sys"} {
		mounts = append(mounts, specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"rbind", "rslave", "rw"}})
	}
	return append(mounts, podMounts(place, readonlyRoot)...)
}

// podMounts are what all containers of a pod share. resolv.conf is as writable as
// the root that it appears in.
func podMounts(place *pod.Place, readonlyRoot bool) (mounts []specs.Mount) {
	access := "rw"
	if readonlyRoot {
		access = "ro"
	}
	switch {
	case place.Shm != "":
		mounts = append(mounts, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: place.Shm, Options: []string{"rbind", "rprivate", "nosuid", "noexec", "nodev", "rw"}})
	case place.Pod.Spec.Flavor != "fly": // whose /dev is the host's
		mounts = append(mounts, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "rslave", "nosuid", "noexec", "nodev", "rw"}})
	}
	if place.ResolvConf != "" {
		mounts = append(mounts, specs.Mount{Destination: "/etc/resolv.conf", Type: "bind", Source: place.ResolvConf, Options: []string{"rbind", "rprivate", access}})
	}
	return mounts
}

// withAsked puts the mounts that the configuration asks for over the base ones:
// one at the same place replaces it. Outer ones come before inner ones.
func (n *Node) withAsked(base []specs.Mount, config *runtimeapi.ContainerConfig) (mounts []specs.Mount, rootPropagation string, err error) {
	asked := map[string]bool{}
	for i, m := range config.GetMounts() {
		field := fmt.Sprintf("mounts[%d] (%s)", i, m.GetContainerPath())
		mount, err := n.mount(field, m)
		if err != nil {
			return nil, "", err
		}
		if asked[mount.Destination] {
			return nil, "", invalid(field, "another mount has the same container_path")
		}
		asked[mount.Destination] = true
		mounts = append(mounts, mount)
		rootPropagation = widest(rootPropagation, m.GetPropagation())
	}
	for _, m := range base {
		if !asked[m.Destination] {
			mounts = append(mounts, m)
		}
	}
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int {
		return strings.Count(a.Destination, "/") - strings.Count(b.Destination, "/")
	})
	return mounts, rootPropagation, nil
}

// widest keeps the root's propagation as wide as the widest mount needs it.
func widest(sofar string, p runtimeapi.MountPropagation) string {
	switch {
	case p == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		return "rshared"
	case p == runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER && sofar != "rshared":
		return "rslave"
	}
	return sofar
}

// mount translates one mount.
func (n *Node) mount(field string, m *runtimeapi.Mount) (specs.Mount, error) {
	switch {
	case m.GetImage() != nil && m.GetImage().GetImage() != "", m.GetImageSubPath() != "":
		return specs.Mount{}, notYet(field+".image", "image volumes are not built yet")
	case len(m.GetUidMappings())+len(m.GetGidMappings()) > 0:
		return specs.Mount{}, notYet(field+".uidMappings", "user namespaces are not built yet")
	case m.GetSelinuxRelabel() && n.SELinux:
		return specs.Mount{}, notYet(field+".selinux_relabel", "SELinux is not built yet")
	case !path.IsAbs(m.GetContainerPath()):
		return specs.Mount{}, invalid(field+".container_path", "want an absolute path")
	case path.Clean(m.GetContainerPath()) == "/":
		return specs.Mount{}, invalid(field+".container_path", "must not hide the root filesystem")
	case !path.IsAbs(m.GetHostPath()):
		return specs.Mount{}, invalid(field+".host_path", "%q: want an absolute path", m.GetHostPath())
	}
	source, err := filepath.EvalSymlinks(m.HostPath)
	if errors.Is(err, fs.ErrNotExist) {
		return specs.Mount{}, fmt.Errorf("%s.host_path: %s does not exist: %w", field, m.HostPath, errdefs.ErrNotFound)
	}
	if err != nil {
		return specs.Mount{}, invalid(field+".host_path", "%v", err)
	}
	options := []string{"rbind"}
	propagation, err := propagationOf(field, m.GetPropagation(), source)
	if err != nil {
		return specs.Mount{}, err
	}
	access, err := n.access(field, m)
	if err != nil {
		return specs.Mount{}, err
	}
	return specs.Mount{Destination: path.Clean(m.ContainerPath), Type: "bind", Source: source, Options: append(options, propagation, access)}, nil
}

func (n *Node) access(field string, m *runtimeapi.Mount) (string, error) {
	switch {
	case !m.GetRecursiveReadOnly() && m.GetReadonly():
		return "ro", nil
	case !m.GetRecursiveReadOnly():
		return "rw", nil
	case !m.GetReadonly():
		return "", invalid(field+".recursive_read_only", "needs readonly")
	case m.GetPropagation() != runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return "", invalid(field+".recursive_read_only", "needs private propagation, not %s", m.GetPropagation())
	case !n.RecursiveReadOnly: // the kubelet knows this error by how its text begins
		return "", fmt.Errorf("%w: %s.recursive_read_only: needs Linux 5.12: %w", crierrors.ErrRROUnsupported, field, errdefs.ErrFailedPrecondition)
	}
	return "rro", nil
}

// propagationOf refuses what the kernel would quietly not do: mounts arrive only
// from a source that is shared or a slave, and leave only to a shared one.
func propagationOf(field string, p runtimeapi.MountPropagation, source string) (string, error) {
	switch p {
	case runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
		return "rprivate", nil
	case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
	default:
		return "", invalid(field+".propagation", "%d is unknown", p)
	}
	parents, err := mountinfo.GetMounts(mountinfo.ParentsFilter(source))
	if err != nil {
		return "", fmt.Errorf("%s: find the mount of %s: %w", field, source, err)
	}
	var at mountinfo.Info
	for _, m := range parents {
		if len(m.Mountpoint) >= len(at.Mountpoint) {
			at = *m
		}
	}
	shared, slave := strings.Contains(at.Optional, "shared:"), strings.Contains(at.Optional, "master:")
	if p == runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL {
		if !shared {
			return "", invalid(field+".propagation", "bidirectional: %s lies on the mount %s, which is not shared", source, at.Mountpoint)
		}
		return "rshared", nil
	}
	if !shared && !slave {
		return "", invalid(field+".propagation", "host to container: %s lies on the mount %s, which is neither shared nor a slave", source, at.Mountpoint)
	}
	return "rslave", nil
}
