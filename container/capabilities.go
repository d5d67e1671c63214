package container

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// defaultCaps are what a container has that asks for nothing: the set that all
// runtimes agree on since Docker.
var defaultCaps = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

func capName(name string) string {
	name = strings.ToUpper(name)
	if name == "ALL" || strings.HasPrefix(name, "CAP_") {
		return name
	}
	return "CAP_" + name
}

// capabilities follows CRI: ALL counts before single names, in add and in drop;
// then what is added, then what is dropped. Nothing beyond the node's bounding set
// is asked for: ALL means all that the node has, and a default that it lacks is
// left out. A single one that it lacks is refused.
func (n *Node) capabilities(c *runtimeapi.Capability, privileged bool) (*specs.LinuxCapabilities, error) {
	if privileged {
		return capSet(slices.Clone(n.Capabilities), nil), nil
	}
	add, err := n.named("add_capabilities", c.GetAddCapabilities())
	if err != nil {
		return nil, err
	}
	drop, err := n.named("drop_capabilities", c.GetDropCapabilities())
	if err != nil {
		return nil, err
	}
	ambient, err := n.named("add_ambient_capabilities", c.GetAddAmbientCapabilities())
	if err != nil {
		return nil, err
	}
	var caps []string
	switch {
	case slices.Contains(add, "ALL"):
		caps = slices.Clone(n.Capabilities)
	case !slices.Contains(drop, "ALL"):
		caps = n.have(defaultCaps)
	}
	for _, name := range slices.Concat(add, ambient) {
		switch {
		case name == "ALL" || slices.Contains(caps, name):
		case !slices.Contains(n.Capabilities, name):
			return nil, fmt.Errorf("capability %s is not in the bounding set of this node: %w", name, errdefs.ErrFailedPrecondition)
		default:
			caps = append(caps, name)
		}
	}
	if slices.Contains(ambient, "ALL") {
		ambient = caps
	}
	dropped := func(name string) bool { return slices.Contains(drop, name) }
	return capSet(slices.DeleteFunc(caps, dropped), slices.DeleteFunc(slices.Clone(ambient), dropped)), nil
}

// have returns those of a list that the node has.
func (n *Node) have(list []string) (out []string) {
	for _, name := range list {
		if slices.Contains(n.Capabilities, name) {
			out = append(out, name)
		}
	}
	return out
}

// named spells capabilities in full and refuses names that no kernel has.
func (n *Node) named(field string, names []string) (out []string, err error) {
	known := map[string]bool{"ALL": true}
	for _, c := range capability.ListKnown() {
		known[capName(c.String())] = true
	}
	for _, name := range names {
		full := capName(name)
		if !known[full] {
			return nil, invalid("linux.security_context.capabilities."+field, "%q is no capability", name)
		}
		out = append(out, full)
	}
	return out, nil
}

// capSet has ambient ones inheritable too, without which the kernel would not keep
// them (capabilities(7)).
func capSet(caps, ambient []string) *specs.LinuxCapabilities {
	slices.Sort(caps)
	return &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps, Inheritable: ambient, Ambient: ambient}
}
