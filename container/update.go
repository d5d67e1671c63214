package container

import (
	"context"
	"encoding/json"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// UpdateContainerResources implements runtime.v1.RuntimeService: all that is asked
// for takes effect and is told by ContainerStatus, or none. 0 and empty values
// change nothing. A container that has exited is FailedPrecondition.
func (s *Service) UpdateContainerResources(ctx context.Context, req *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	err := s.apps.UpdateApp(ctx, pod.AppID(req.GetContainerId()), func(spec *pod.AppSpec) (pod.Change, error) {
		kept, err := extraOf(spec)
		if err != nil {
			return pod.Change{}, err
		}
		return s.node.change(kept, withSwap(kept.Resources, req.GetLinux()))
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.UpdateContainerResourcesResponse{}, nil
}

// change is from what a container has to what is asked for.
func (n *Node) change(kept extra, asked *runtimeapi.LinuxContainerResources) (c pod.Change, err error) {
	for _, to := range []struct {
		doc *[]byte
		of  *runtimeapi.LinuxContainerResources
	}{{&c.Before, kept.Resources}, {&c.Resources, asked}} {
		resources, err := n.resources("linux", to.of)
		if err != nil {
			return c, err
		}
		if *to.doc, err = json.Marshal(resources); err != nil {
			return c, err
		}
	}
	kept.Resources = merge(kept.Resources, asked)
	c.Extra, err = json.Marshal(kept)
	return c, err
}

// withSwap keeps the swap that a container may use beside its memory, where an update
// names a new limit of memory alone: the kernel counts both as one, and refuses a
// limit of memory above that of both.
func withSwap(old, asked *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	if asked.GetMemoryLimitInBytes() <= 0 || asked.GetMemorySwapLimitInBytes() != 0 || old.GetMemorySwapLimitInBytes() <= 0 {
		return asked
	}
	out := merge(&runtimeapi.LinuxContainerResources{}, asked) // a copy
	out.MemorySwapLimitInBytes = asked.GetMemoryLimitInBytes() + old.GetMemorySwapLimitInBytes() - old.GetMemoryLimitInBytes()
	return out
}
