package sandbox

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// ListPodSandbox implements runtime.v1.RuntimeService, from memory. Sandboxes that
// are not up yet are not listed: nobody has been told of them.
func (s *Service) ListPodSandbox(_ context.Context, req *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	items, err := s.list(req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxResponse{Items: items}, nil
}

// batch is how many items go into one message of a stream.
const batch = 100

// StreamPodSandboxes implements runtime.v1.RuntimeService: what ListPodSandbox
// answers, each sandbox once, in messages of bounded size.
func (s *Service) StreamPodSandboxes(req *runtimeapi.StreamPodSandboxesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	items, err := s.list(req.GetFilter())
	if err != nil {
		return err
	}
	for len(items) > 0 {
		n := min(batch, len(items))
		if err := stream.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: items[:n]}); err != nil {
			return fmt.Errorf("stream sandboxes: %w", err)
		}
		items = items[n:]
	}
	return nil
}

func (s *Service) list(filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	pods := s.pods.Pods(func(p *pod.Pod) bool { return matches(p, filter) })
	out := make([]*runtimeapi.PodSandbox, 0, len(pods))
	for i := range pods {
		item, err := s.kept.item(&pods[i])
		if err != nil {
			return nil, fmt.Errorf("list sandbox %s: %w", pods[i].ID, err)
		}
		out = append(out, item)
	}
	return out, nil
}

// maxKept bounds how many items are kept; a node has fewer sandboxes.
const maxKept = 1024

// keptItems keeps what lists have answered, because the kubelet asks every second and
// little changes: making an item anew means to read JSON. Items are shared by all
// answers and never change.
type keptItems struct {
	mu    sync.Mutex
	items map[pod.ID]keptItem // guarded by mu
}

// keptItem holds as long as the pod has the same spec and state.
type keptItem struct {
	spec  *pod.Spec
	state pod.State
	item  *runtimeapi.PodSandbox
}

func (l *keptItems) item(p *pod.Pod) (*runtimeapi.PodSandbox, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if got, ok := l.items[p.ID]; ok && got.spec == p.Spec && got.state == p.State {
		return got.item, nil
	}
	kept, err := extraOf(p.Spec)
	if err != nil {
		return nil, err
	}
	item := &runtimeapi.PodSandbox{
		Id:             string(p.ID),
		Metadata:       metadata(p),
		State:          stateOf(p),
		CreatedAt:      p.CreatedAt.UnixNano(),
		Labels:         p.Spec.Labels,
		Annotations:    p.Spec.Annotations,
		RuntimeHandler: kept.Handler,
	}
	if l.items == nil || len(l.items) >= maxKept {
		l.items = map[pod.ID]keptItem{}
	}
	l.items[p.ID] = keptItem{p.Spec, p.State, item}
	return item, nil
}

func matches(p *pod.Pod, f *runtimeapi.PodSandboxFilter) bool {
	if p.State != pod.Running && p.State != pod.Exited {
		return false
	}
	if f.GetId() != "" && f.GetId() != string(p.ID) {
		return false
	}
	if f.GetState() != nil && f.GetState().State != stateOf(p) {
		return false
	}
	for key, value := range f.GetLabelSelector() {
		if got, ok := p.Spec.Labels[key]; !ok || got != value {
			return false
		}
	}
	return true
}
