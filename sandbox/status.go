package sandbox

import (
	"context"
	"encoding/json"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// PodSandboxStatus implements runtime.v1.RuntimeService. An unknown sandbox is
// NotFound. Verbose adds "info": what the engine knows, as JSON.
//
// With it come the statuses of the pod's containers, also those of its earlier
// sandboxes, and the time at which all that was so: a kubelet that takes events
// asks for no more than that, and compares the time with those of events.
func (s *Service) PodSandboxStatus(_ context.Context, req *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	snap, err := s.pods.Snapshot(pod.ID(req.GetPodSandboxId()))
	if err != nil {
		return nil, err
	}
	status, containers, err := s.statusOf(&snap)
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.PodSandboxStatusResponse{Status: status, ContainersStatuses: containers, Timestamp: snap.At.UnixNano()}
	if req.GetVerbose() {
		p := &snap.Pod
		info, err := json.Marshal(map[string]any{
			"flavor": p.Spec.Flavor, "cgroup": p.Cgroup, "netns": p.NetNS, "dir": p.Dir, "initPID": p.InitPID,
		})
		if err != nil {
			return nil, err
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

// statusOf translates a snapshot.
func (s *Service) statusOf(snap *pod.Snapshot) (*runtimeapi.PodSandboxStatus, []*runtimeapi.ContainerStatus, error) {
	p := &snap.Pod
	kept, err := extraOf(p.Spec)
	if err != nil {
		return nil, nil, fmt.Errorf("sandbox %s: %w", p.ID, err)
	}
	var containers []*runtimeapi.ContainerStatus
	for i := range snap.Apps {
		st, err := s.container(&snap.Apps[i])
		if err != nil {
			return nil, nil, fmt.Errorf("container %s: %w", snap.Apps[i].ID, err)
		}
		containers = append(containers, st)
	}
	return &runtimeapi.PodSandboxStatus{
		Id:             string(p.ID),
		Metadata:       metadata(p),
		State:          stateOf(p),
		CreatedAt:      p.CreatedAt.UnixNano(),
		Network:        networkStatus(p),
		Linux:          &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: namespaces(p, kept)}},
		Labels:         p.Spec.Labels,
		Annotations:    p.Spec.Annotations,
		RuntimeHandler: kept.Handler,
	}, containers, nil
}

func metadata(p *pod.Pod) *runtimeapi.PodSandboxMetadata {
	return &runtimeapi.PodSandboxMetadata{Name: p.Spec.Name, Uid: p.Spec.UID, Namespace: p.Spec.Namespace, Attempt: p.Spec.Attempt}
}

func stateOf(p *pod.Pod) runtimeapi.PodSandboxState {
	if p.State == pod.Running {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

// networkStatus is nil on the node's network: the kubelet reports the node's own
// addresses, and makes anew a sandbox with a status but no address.
func networkStatus(p *pod.Pod) *runtimeapi.PodSandboxNetworkStatus {
	if len(p.Network.IPs) == 0 {
		return nil
	}
	st := &runtimeapi.PodSandboxNetworkStatus{Ip: p.Network.IPs[0].String()}
	for _, ip := range p.Network.IPs[1:] {
		st.AdditionalIps = append(st.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
	}
	return st
}

func namespaces(p *pod.Pod, kept extra) *runtimeapi.NamespaceOption {
	o := &runtimeapi.NamespaceOption{Pid: kept.PID, Ipc: kept.IPC}
	if p.Spec.HostNetwork {
		o.Network = runtimeapi.NamespaceMode_NODE
	}
	return o
}
