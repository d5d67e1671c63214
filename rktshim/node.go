package rktshim

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// node answers the calls that are about the runtime as a whole.
type node struct {
	systemd    bool // whether pods are units in systemd's slices
	ociRuntime string
	readOnly   bool // whether mounts can be made read-only with all below them
	handlers   func() []string
	networks   networks
}

// networks is what is asked of the node's networks.
type networks interface {
	Ready() error
	SetPodCIDRs([]netip.Prefix)
}

func newNode(systemd bool, p *pods) *node {
	return &node{systemd: systemd, ociRuntime: p.ociRuntime, readOnly: p.node.RecursiveReadOnly, handlers: handlers, networks: p.cni}
}

// kubeletAPIVersion is the value of VersionResponse.version: the version of the
// kubelet's runtime API, which has been this since CRI began. The kubelet only
// checks that it is there.
const kubeletAPIVersion = "0.1.0"

// Version implements runtime.v1.RuntimeService.
func (n *node) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{
		Version:           kubeletAPIVersion,
		RuntimeName:       Name,
		RuntimeVersion:    Version,
		RuntimeApiVersion: "v1",
	}, nil
}

// Status implements runtime.v1.RuntimeService. The network is ready when pods can
// be attached to it; if not, the condition says why.
func (n *node) Status(_ context.Context, req *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	network := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if err := n.networks.Ready(); err != nil {
		network.Status, network.Reason, network.Message = false, "NetworkPluginNotReady", err.Error()
	}
	resp := &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true}, network,
		}},
		RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Features: n.features()}},
		Features:        &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}
	for _, name := range n.handlers() {
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &runtimeapi.RuntimeHandler{Name: name, Features: n.features()})
	}
	if req.GetVerbose() {
		resp.Info = map[string]string{"ociRuntime": n.ociRuntime}
	}
	return resp, nil
}

func (n *node) features() *runtimeapi.RuntimeHandlerFeatures {
	return &runtimeapi.RuntimeHandlerFeatures{RecursiveReadOnlyMounts: n.readOnly}
}

// RuntimeConfig implements runtime.v1.RuntimeService. Its cgroup driver overrides
// the kubelet's cgroupDriver, so that the two always agree.
func (n *node) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if n.systemd {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{
		Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver},
	}, nil
}

// UpdateRuntimeConfig implements runtime.v1.RuntimeService. It hands the pod
// CIDRs (comma-separated, two of them for dual stack) to the network or, if
// one is malformed, none of them. An empty list changes nothing: the
// kubelet of a node without a CIDR sends that.
func (n *node) UpdateRuntimeConfig(_ context.Context, req *runtimeapi.UpdateRuntimeConfigRequest) (*runtimeapi.UpdateRuntimeConfigResponse, error) {
	list := req.GetRuntimeConfig().GetNetworkConfig().GetPodCidr()
	if list == "" {
		return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
	}
	var cidrs []netip.Prefix
	for _, s := range strings.Split(list, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("runtime_config.network_config.pod_cidr %q: %q is no CIDR: %w", list, s, errdefs.ErrInvalidArgument)
		}
		cidrs = append(cidrs, p)
	}
	n.networks.SetPodCIDRs(cidrs)
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}
