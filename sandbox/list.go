package sandbox

import (
	"context"
	"fmt"

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
		p := &pods[i]
		kept, err := extraOf(p.Spec)
		if err != nil {
			return nil, fmt.Errorf("list sandbox %s: %w", p.ID, err)
		}
		out = append(out, &runtimeapi.PodSandbox{
			Id:             string(p.ID),
			Metadata:       metadata(p),
			State:          stateOf(p),
			CreatedAt:      p.CreatedAt.UnixNano(),
			Labels:         p.Spec.Labels,
			Annotations:    p.Spec.Annotations,
			RuntimeHandler: kept.Handler,
		})
	}
	return out, nil
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
