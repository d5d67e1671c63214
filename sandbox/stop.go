package sandbox

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// StopPodSandbox implements runtime.v1.RuntimeService: it kills what still runs in
// the sandbox and takes it off the network. Stopping one that is stopped or unknown
// is no error.
func (s *Service) StopPodSandbox(ctx context.Context, req *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	if err := s.pods.Stop(ctx, pod.ID(req.GetPodSandboxId()), 0); err != nil {
		return nil, err
	}
	return &runtimeapi.StopPodSandboxResponse{}, nil
}
