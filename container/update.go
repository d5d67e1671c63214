package container

import (
	"context"
	"encoding/json"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// UpdateContainerResources implements runtime.v1.RuntimeService: all that is asked
// for takes effect and is told by ContainerStatus, or none. 0 and empty values
// change nothing. A container that has exited is FailedPrecondition.
func (s *Service) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	resources, err := s.node.resources("linux", req.GetLinux())
	if err != nil {
		return nil, fmt.Errorf("update container %s: %w", req.GetContainerId(), err)
	}
	doc, err := json.Marshal(resources)
	if err != nil {
		return nil, fmt.Errorf("update container %s: %w", req.GetContainerId(), err)
	}
	err = s.apps.UpdateApp(ctx, pod.AppID(req.GetContainerId()), doc, func(spec *pod.AppSpec) (json.RawMessage, error) {
		kept, err := extraOf(spec)
		if err != nil {
			return nil, err
		}
		kept.Resources = merge(kept.Resources, req.GetLinux())
		return json.Marshal(kept)
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}
