package network

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
)

type hostPort struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// portMappings checks the mappings and leaves out those without a host port. Two
// of one pod must not claim the same port of the host. That two pods do not is
// the scheduler's and the kubelet's admission to see to.
func portMappings(mappings []PortMapping) ([]hostPort, error) {
	var out []hostPort
	for i, m := range mappings {
		port, err := m.check()
		if err != nil {
			return nil, fmt.Errorf("port mapping %d: %w: %w", i, err, errdefs.ErrInvalidArgument)
		}
		if port.HostPort == 0 {
			continue
		}
		for _, other := range out {
			if port.overlaps(other) {
				return nil, fmt.Errorf("port mapping %d: host port %d/%s is mapped twice: %w",
					i, port.HostPort, port.Protocol, errdefs.ErrInvalidArgument)
			}
		}
		out = append(out, port)
	}
	return out, nil
}

func (m PortMapping) check() (hostPort, error) {
	port := hostPort{m.HostPort, m.ContainerPort, strings.ToLower(m.Protocol), ""}
	if port.Protocol == "" {
		port.Protocol = "tcp"
	}
	switch port.Protocol {
	case "tcp", "udp", "sctp":
	default:
		return port, fmt.Errorf("protocol %q is not tcp, udp or sctp", m.Protocol)
	}
	if m.HostPort < 0 || m.HostPort > 65535 {
		return port, fmt.Errorf("host port %d is not in 0 to 65535", m.HostPort)
	}
	if m.ContainerPort < 1 || m.ContainerPort > 65535 {
		return port, fmt.Errorf("container port %d is not in 1 to 65535", m.ContainerPort)
	}
	if m.HostIP != "" {
		ip, err := netip.ParseAddr(m.HostIP)
		if err != nil || ip.Zone() != "" {
			return port, fmt.Errorf("host IP %q is not an IP address", m.HostIP)
		}
		port.HostIP = ip.Unmap().String()
	}
	return port, nil
}

func (p hostPort) overlaps(other hostPort) bool {
	if p.HostPort != other.HostPort || p.Protocol != other.Protocol {
		return false
	}
	if p.HostIP == "" || other.HostIP == "" || p.HostIP == other.HostIP {
		return true
	}
	a, b := netip.MustParseAddr(p.HostIP), netip.MustParseAddr(other.HostIP)
	return a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}
