package sandbox

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/cristats"
	"github.com/rktnetes/rktshim/pod"
)

// defaultInterface is the pod's interface on its network, by the name that CNI
// plugins are told; the kubelet looks for it too.
const defaultInterface = "eth0"

// PodSandboxStats implements runtime.v1.RuntimeService. It reads open files. An
// unknown sandbox is NotFound; of one that is not ready there are attributes only.
func (s *Service) PodSandboxStats(_ context.Context, req *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	snap, err := s.pods.Snapshot(pod.ID(req.GetPodSandboxId()))
	if err != nil {
		return nil, err
	}
	st, err := s.stats(&snap.Pod)
	if errdefs.IsNotFound(err) {
		return nil, err
	}
	if err != nil && !errdefs.IsFailedPrecondition(err) {
		return nil, fmt.Errorf("sandbox stats: %w", err)
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: st}, nil
}

// ListPodSandboxStats implements runtime.v1.RuntimeService. Sandboxes that are not
// ready are not listed: they use nothing.
func (s *Service) ListPodSandboxStats(_ context.Context, req *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	stats, err := s.listStats(req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: stats}, nil
}

// StreamPodSandboxStats implements runtime.v1.RuntimeService: what
// ListPodSandboxStats answers, each sandbox once, in messages of bounded size.
func (s *Service) StreamPodSandboxStats(req *runtimeapi.StreamPodSandboxStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	stats, err := s.listStats(req.GetFilter())
	if err != nil {
		return err
	}
	for len(stats) > 0 {
		n := min(batch, len(stats))
		if err := stream.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: stats[:n]}); err != nil {
			return fmt.Errorf("stream sandbox stats: %w", err)
		}
		stats = stats[n:]
	}
	return nil
}

func (s *Service) listStats(f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	filter := &runtimeapi.PodSandboxFilter{Id: f.GetId(), LabelSelector: f.GetLabelSelector()}
	pods := s.pods.Pods(func(p *pod.Pod) bool { return p.State == pod.Running && matches(p, filter) })
	out := make([]*runtimeapi.PodSandboxStats, 0, len(pods))
	for i := range pods {
		st, err := s.stats(&pods[i])
		if ended(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list sandbox stats: %w", err)
		}
		out = append(out, st)
	}
	return out, nil
}

// stats returns what there is to say of a sandbox, also beside the error that says
// why there is no more.
func (s *Service) stats(p *pod.Pod) (*runtimeapi.PodSandboxStats, error) {
	st := &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{
			Id:          string(p.ID),
			Metadata:    metadata(p),
			Labels:      p.Spec.Labels,
			Annotations: p.Spec.Annotations,
		},
		Linux: &runtimeapi.LinuxPodSandboxStats{},
	}
	u, err := s.pods.PodUsage(p.ID)
	if err != nil {
		return st, err
	}
	traffic, err := s.pods.PodTraffic(p.ID)
	if err != nil {
		return st, err
	}
	containers, err := s.usages.SandboxStats(p.ID)
	if err != nil {
		return st, err
	}
	st.Linux.Cpu = cristats.CPU(&u.Usage, u.Cores, u.HasCores)
	st.Linux.Memory = cristats.Memory(&u.Usage)
	st.Linux.Io = cristats.IO(&u.Usage)
	// Threads, as the kernel counts them against the pod's limit of "pids".
	st.Linux.Process = &runtimeapi.ProcessUsage{Timestamp: u.Time.UnixNano(), ProcessCount: &runtimeapi.UInt64Value{Value: u.Tasks}}
	st.Linux.Network = networkUsage(traffic)
	st.Linux.Containers = containers
	return st, nil
}

// networkUsage is nil on the node's network, whose traffic is nobody's own.
func networkUsage(traffic []pod.Traffic) *runtimeapi.NetworkUsage {
	if len(traffic) == 0 {
		return nil
	}
	n := &runtimeapi.NetworkUsage{Timestamp: time.Now().UnixNano()}
	for _, t := range traffic {
		i := &runtimeapi.NetworkInterfaceUsage{
			Name:     t.Name,
			RxBytes:  &runtimeapi.UInt64Value{Value: t.RxBytes},
			RxErrors: &runtimeapi.UInt64Value{Value: t.RxErrors},
			TxBytes:  &runtimeapi.UInt64Value{Value: t.TxBytes},
			TxErrors: &runtimeapi.UInt64Value{Value: t.TxErrors},
		}
		if t.Name == defaultInterface {
			n.DefaultInterface = i
		} else {
			n.Interfaces = append(n.Interfaces, i)
		}
	}
	if n.DefaultInterface == nil {
		n.DefaultInterface, n.Interfaces = n.Interfaces[0], n.Interfaces[1:]
	}
	return n
}
