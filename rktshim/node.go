package rktshim

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/util"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// node answers the calls that are about the runtime as a whole.
type node struct {
	systemd func() bool // whether systemd is the init of this node

	mu       sync.Mutex
	podCIDRs []netip.Prefix // guarded by mu
}

func newNode() *node { return &node{systemd: util.IsRunningSystemd} }

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

// Status implements runtime.v1.RuntimeService. The runtime is ready when it can
// answer, which it does; the network is not, as long as pods cannot have one.
func (n *node) Status(context.Context, *runtimeapi.StatusRequest) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{
		Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
			{Type: runtimeapi.RuntimeReady, Status: true},
			{Type: runtimeapi.NetworkReady, Status: false, Reason: "NotBuilt", Message: "pod networks are not built yet in rktshim"},
		}},
	}, nil
}

// RuntimeConfig implements runtime.v1.RuntimeService. Its cgroup driver overrides
// the kubelet's cgroupDriver, so that the two always agree.
func (n *node) RuntimeConfig(context.Context, *runtimeapi.RuntimeConfigRequest) (*runtimeapi.RuntimeConfigResponse, error) {
	driver := runtimeapi.CgroupDriver_CGROUPFS
	if n.systemd() {
		driver = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{
		Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: driver},
	}, nil
}

// UpdateRuntimeConfig implements runtime.v1.RuntimeService. It keeps the pod
// CIDRs (comma-separated, two of them for dual stack) or, if one is malformed,
// none of them and the ones of before. An empty list changes nothing: the
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
	n.mu.Lock()
	defer n.mu.Unlock()
	n.podCIDRs = cidrs
	return &runtimeapi.UpdateRuntimeConfigResponse{}, nil
}
