package container

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// ListContainers implements runtime.v1.RuntimeService, from memory.
func (s *Service) ListContainers(_ context.Context, req *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	items, err := s.list(req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainersResponse{Containers: items}, nil
}

// batch is how many items go into one message of a stream.
const batch = 100

// StreamContainers implements runtime.v1.RuntimeService: what ListContainers
// answers, each container once, in messages of bounded size.
func (s *Service) StreamContainers(req *runtimeapi.StreamContainersRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	items, err := s.list(req.GetFilter())
	if err != nil {
		return err
	}
	for len(items) > 0 {
		n := min(batch, len(items))
		if err := stream.Send(&runtimeapi.StreamContainersResponse{Containers: items[:n]}); err != nil {
			return fmt.Errorf("stream containers: %w", err)
		}
		items = items[n:]
	}
	return nil
}

func (s *Service) list(filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	apps := s.apps.Apps(func(a *pod.App) bool { return matches(a, filter) })
	out := make([]*runtimeapi.Container, 0, len(apps))
	for i := range apps {
		item, err := s.kept.item(&apps[i])
		if err != nil {
			return nil, fmt.Errorf("list container %s: %w", apps[i].ID, err)
		}
		out = append(out, item)
	}
	return out, nil
}

// maxKept bounds how many items are kept; a node has fewer containers.
const maxKept = 2048

// keptItems keeps what lists have answered, because the kubelet asks every second and
// little changes: making an item anew means to read JSON. Items are shared by all
// answers and never change.
type keptItems struct {
	mu    sync.Mutex
	items map[pod.AppID]keptItem // guarded by mu
}

// keptItem holds as long as the app has the same spec and state.
type keptItem struct {
	spec  *pod.AppSpec
	state pod.State
	item  *runtimeapi.Container
}

func (l *keptItems) item(a *pod.App) (*runtimeapi.Container, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if got, ok := l.items[a.ID]; ok && got.spec == a.Spec && got.state == a.State {
		return got.item, nil
	}
	item, err := listItem(a)
	if err != nil {
		return nil, err
	}
	if l.items == nil || len(l.items) >= maxKept {
		l.items = map[pod.AppID]keptItem{}
	}
	l.items[a.ID] = keptItem{a.Spec, a.State, item}
	return item, nil
}

func listItem(a *pod.App) (*runtimeapi.Container, error) {
	kept, err := extraOf(a.Spec)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.Container{
		Id:           string(a.ID),
		PodSandboxId: string(a.Pod),
		Metadata:     metadata(a),
		Image:        imageSpec(a, kept.Image),
		ImageRef:     kept.ImageRef,
		ImageId:      a.Spec.ImageID,
		State:        stateOf(a),
		CreatedAt:    a.CreatedAt.UnixNano(),
		Labels:       a.Spec.Labels,
		Annotations:  a.Spec.Annotations,
	}, nil
}

func matches(a *pod.App, f *runtimeapi.ContainerFilter) bool {
	switch {
	case f.GetId() != "" && f.GetId() != string(a.ID),
		f.GetPodSandboxId() != "" && f.GetPodSandboxId() != string(a.Pod),
		f.GetState() != nil && f.GetState().State != stateOf(a):
		return false
	}
	for key, value := range f.GetLabelSelector() {
		if got, ok := a.Spec.Labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}
