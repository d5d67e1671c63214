package container

import (
	"context"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// ReopenContainerLog implements runtime.v1.RuntimeService. On an error no new log
// file was made. A container that does not run is FailedPrecondition.
func (s *Service) ReopenContainerLog(ctx context.Context, req *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	if err := s.apps.ReopenLog(ctx, pod.AppID(req.GetContainerId())); err != nil {
		return nil, err
	}
	return &runtimeapi.ReopenContainerLogResponse{}, nil
}
