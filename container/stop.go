package container

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// StopContainer implements runtime.v1.RuntimeService: its stop signal, then after
// timeout seconds a kill of all that is in its cgroup. Stopping one that has exited
// or is unknown is no error.
func (s *Service) StopContainer(ctx context.Context, req *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	grace := time.Duration(max(req.GetTimeout(), 0)) * time.Second
	if err := s.apps.StopApp(ctx, pod.AppID(req.GetContainerId()), grace); err != nil {
		return nil, err
	}
	return &runtimeapi.StopContainerResponse{}, nil
}
