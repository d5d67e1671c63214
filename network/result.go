package network

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/containerd/errdefs"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/types/create"
)

// Result is what a network gave to a pod.
type Result struct {
	// Network is its name.
	Network string
	// IPs are the pod's addresses in the network's order, at least one. The first
	// is the pod's primary one.
	IPs []netip.Addr
	// Interfaces are those inside the pod. Networks before CNI 0.3.0 name none.
	Interfaces []Interface
	// Undeclared names the capabilities (portMappings, bandwidth) that the pod
	// asked for and no plugin of the network declares. It is no error: some
	// networks serve host ports by other means. The caller should log it.
	Undeclared []string
}

// Interface is one network interface of a pod.
type Interface struct {
	Name      string
	MAC       string
	Addresses []netip.Prefix // with the length of their subnet
}

// ResultOf returns the result in a record that Attach saved, as Attach returned
// it. A record without one is of class NotFound: its ADD has not ended.
func ResultOf(saved json.RawMessage) (Result, error) {
	r, err := decodeRecord(saved)
	if err != nil {
		return Result{}, err
	}
	return r.result()
}

func (r *record) result() (Result, error) {
	if r.Result == nil {
		return Result{}, fmt.Errorf("network record of pod %s has no result: %w", r.Pod, errdefs.ErrNotFound)
	}
	result, err := r.readResult()
	if err != nil {
		return Result{}, fmt.Errorf("result of network %q: %w", r.Network, err)
	}
	if result.Undeclared, err = r.undeclared(); err != nil {
		return Result{}, err
	}
	return result, nil
}

func (r *record) readResult() (Result, error) {
	raw, err := create.Create(r.CNIVersion, r.Result)
	if err != nil {
		return Result{}, err
	}
	answer, err := current.GetResult(raw)
	if err != nil {
		return Result{}, err
	}
	result := Result{Network: r.Network}
	inPod := make(map[int]int) // an interface's index in answer to that in result
	for i, iface := range answer.Interfaces {
		if iface.Sandbox != "" {
			inPod[i] = len(result.Interfaces)
			result.Interfaces = append(result.Interfaces, Interface{Name: iface.Name, MAC: iface.Mac})
		}
	}
	for _, ip := range answer.IPs {
		addr, ok := netip.AddrFromSlice(ip.Address.IP)
		if !ok {
			return Result{}, fmt.Errorf("address %q is none", ip.Address.IP)
		}
		addr = addr.Unmap()
		if ip.Interface != nil {
			i, ok := inPod[*ip.Interface]
			if !ok {
				continue // an address of the host's side
			}
			bits, _ := ip.Address.Mask.Size()
			result.Interfaces[i].Addresses = append(result.Interfaces[i].Addresses, netip.PrefixFrom(addr, bits))
		}
		result.IPs = append(result.IPs, addr)
	}
	if len(result.IPs) == 0 {
		return Result{}, fmt.Errorf("no IP address for the pod")
	}
	return result, nil
}

func (r *record) undeclared() ([]string, error) {
	plugins, err := r.plugins()
	if err != nil {
		return nil, err
	}
	var out []string
	for _, name := range []string{"portMappings", "bandwidth"} {
		asked := r.Capabilities[name] != nil
		for _, plugin := range plugins {
			asked = asked && !plugin.Network.Capabilities[name]
		}
		if asked {
			out = append(out, name)
		}
	}
	return out, nil
}
