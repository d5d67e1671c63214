package network

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/utils"
)

// Pod says what to attach. Only ID and NetNS are required.
type Pod struct {
	ID                   string // the plugins' CNI_CONTAINERID
	Name, Namespace, UID string
	NetNS                string // path of the pod's network namespace, see NewNamespace
	PortMappings         []PortMapping
	Bandwidth            Bandwidth
	DNS                  DNS
	CgroupPath           string            // for plugins with the cgroupPath capability
	Annotations          map[string]string // for plugins with the io.kubernetes.cri.pod-annotations capability
}

// PortMapping leads a port of the host to a port of the pod.
type PortMapping struct {
	HostPort      int    // 0 means that nothing is mapped
	ContainerPort int    // 1 to 65535
	Protocol      string // tcp, udp or sctp, in any case; empty means tcp
	HostIP        string // empty or unspecified means every address of the host
}

// Bandwidth limits the pod's traffic, in bits per second; 0 means no limit. The
// bounds are those of Kubernetes: 1 k to 1 P.
type Bandwidth struct {
	Ingress, Egress uint64
}

// DNS is handed to plugins with the dns capability. Nothing here writes
// resolv.conf.
type DNS struct {
	Servers, Searches, Options []string
}

// capabilities are the capability arguments by name, as their conventions spell
// them (github.com/containernetworking/cni, CONVENTIONS.md).
type capabilities map[string]json.RawMessage

func (p *Pod) check() error {
	invalid := func(format string, args ...any) error {
		return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
	}
	if err := utils.ValidateContainerID(p.ID); err != nil {
		return invalid("pod ID %q: %s", p.ID, err.Msg)
	}
	for _, f := range []struct{ field, value string }{{"name", p.Name}, {"namespace", p.Namespace}, {"UID", p.UID}} {
		if strings.ContainsAny(f.value, ";=\x00") {
			return invalid("pod %s %q cannot be a CNI argument", f.field, f.value)
		}
	}
	if !IsNamespace(p.NetNS) {
		return invalid("network namespace %q of pod %s is none", p.NetNS, p.ID)
	}
	return nil
}

// args are CNI_ARGS as plugins made for Kubernetes expect them since dockershim.
func (p *Pod) args() [][2]string {
	return [][2]string{
		{"IgnoreUnknown", "1"},
		{"K8S_POD_NAMESPACE", p.Namespace},
		{"K8S_POD_NAME", p.Name},
		{"K8S_POD_INFRA_CONTAINER_ID", p.ID},
		{"K8S_POD_UID", p.UID},
	}
}

func (p *Pod) capabilities(cidrs []netip.Prefix) (capabilities, error) {
	ports, err := portMappings(p.PortMappings)
	if err != nil {
		return nil, err
	}
	limits, err := p.Bandwidth.limits()
	if err != nil {
		return nil, err
	}
	caps := capabilities{}
	for _, c := range []struct {
		name  string
		value any
		given bool
	}{
		{"portMappings", ports, len(ports) > 0},
		{"bandwidth", limits, limits != bandwidthLimits{}},
		{"dns", dnsServers(p.DNS), len(p.DNS.Servers)+len(p.DNS.Searches)+len(p.DNS.Options) > 0},
		{"ipRanges", ipRanges(cidrs), len(cidrs) > 0},
		{"cgroupPath", p.CgroupPath, p.CgroupPath != ""},
		{"io.kubernetes.cri.pod-annotations", p.Annotations, len(p.Annotations) > 0},
	} {
		if !c.given {
			continue
		}
		if caps[c.name], err = json.Marshal(c.value); err != nil {
			return nil, fmt.Errorf("encode CNI capability %s: %w", c.name, err)
		}
	}
	return caps, nil
}

type dnsServers struct {
	Servers  []string `json:"servers,omitempty"`
	Searches []string `json:"searches,omitempty"`
	Options  []string `json:"options,omitempty"`
}

type ipRange struct {
	Subnet netip.Prefix `json:"subnet"`
}

// ipRanges asks for one address out of each CIDR.
func ipRanges(cidrs []netip.Prefix) [][]ipRange {
	var sets [][]ipRange
	for _, cidr := range cidrs {
		sets = append(sets, []ipRange{{cidr}})
	}
	return sets
}
