package container

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// StartContainer implements runtime.v1.RuntimeService. Starting one that runs is no
// error, one that has exited is FailedPrecondition.
func (s *Service) StartContainer(ctx context.Context, req *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	if err := s.apps.StartApp(ctx, pod.AppID(req.GetContainerId())); err != nil {
		return nil, err
	}
	return &runtimeapi.StartContainerResponse{}, nil
}
