package sandbox

import (
	"context"
	"encoding/json"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// UpdatePodSandboxResources implements runtime.v1.RuntimeService. The kubelet has
// rewritten the limits of the pod's cgroup parent before; flavors on the host's
// kernel have nothing to add, so the new size is kept for those who ask.
func (s *Service) UpdatePodSandboxResources(ctx context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	err := s.pods.UpdatePod(ctx, pod.ID(req.GetPodSandboxId()), func(spec *pod.Spec) (json.RawMessage, error) {
		kept, err := extraOf(spec)
		if err != nil {
			return nil, err
		}
		if r := req.GetOverhead(); r != nil {
			kept.Overhead = resourcesOf(r)
		}
		if r := req.GetResources(); r != nil {
			kept.Resources = resourcesOf(r)
		}
		return json.Marshal(kept)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}
