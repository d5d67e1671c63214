package sandbox

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// RemovePodSandbox implements runtime.v1.RuntimeService: the sandbox goes with all
// its containers, which are killed if they run. Removing an unknown one is no error.
func (s *Service) RemovePodSandbox(ctx context.Context, req *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	if err := s.pods.Remove(ctx, pod.ID(req.GetPodSandboxId())); err != nil {
		return nil, err
	}
	return &runtimeapi.RemovePodSandboxResponse{}, nil
}
