package sandbox

import (
	"context"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// ListMetricDescriptors implements runtime.v1.RuntimeService. The names are
// cAdvisor's, which dashboards know; so are the labels.
func (s *Service) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	resp := &runtimeapi.ListMetricDescriptorsResponse{}
	for i := range metrics {
		m := &metrics[i]
		resp.Descriptors = append(resp.Descriptors, &runtimeapi.MetricDescriptor{
			Name: m.name, Help: m.help, LabelKeys: slices.Concat(commonLabels, m.labels),
		})
	}
	return resp, nil
}

// ListPodSandboxMetrics implements runtime.v1.RuntimeService: of sandboxes that are
// ready, and of their containers that live. It opens every file of every cgroup,
// for a scrape every few seconds at most.
func (s *Service) ListPodSandboxMetrics(context.Context, *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	resp := &runtimeapi.ListPodSandboxMetricsResponse{}
	err := s.eachMetrics(func(m *runtimeapi.PodSandboxMetrics) error {
		resp.PodMetrics = append(resp.PodMetrics, m)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list sandbox metrics: %w", err)
	}
	return resp, nil
}

// StreamPodSandboxMetrics implements runtime.v1.RuntimeService: what
// ListPodSandboxMetrics answers, a message for each sandbox.
func (s *Service) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	err := s.eachMetrics(func(m *runtimeapi.PodSandboxMetrics) error {
		return stream.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: []*runtimeapi.PodSandboxMetrics{m}})
	})
	if err != nil {
		return fmt.Errorf("stream sandbox metrics: %w", err)
	}
	return nil
}

func (s *Service) eachMetrics(send func(*runtimeapi.PodSandboxMetrics) error) error {
	for _, p := range s.pods.Pods(func(p *pod.Pod) bool { return p.State == pod.Running }) {
		m, err := s.podMetrics(p.ID)
		if ended(err) {
			continue
		}
		if err == nil {
			err = send(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// ended says whether an error is of something that has ended since it was listed.
func ended(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) }

func (s *Service) podMetrics(id pod.ID) (*runtimeapi.PodSandboxMetrics, error) {
	snap, err := s.pods.Snapshot(id)
	if err != nil {
		return nil, err
	}
	own := sample{group: snap.Pod.OwnCgroup(), name: string(id), pod: snap.Pod.Spec, created: snap.Pod.CreatedAt}
	if own.detail, err = s.pods.PodDetail(id); err != nil {
		return nil, err
	}
	if own.traffic, err = s.pods.PodTraffic(id); err != nil {
		return nil, err
	}
	layers, err := s.layers(id)
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.PodSandboxMetrics{PodSandboxId: string(id), Metrics: own.metrics()}
	for i := range snap.Apps {
		a := &snap.Apps[i]
		if a.Pod != id || a.State == pod.Exited {
			continue
		}
		of := sample{group: a.Cgroup, name: string(a.ID), pod: snap.Pod.Spec, app: a.Spec, pid: a.PID, created: a.CreatedAt, layer: layers[string(a.ID)]}
		of.detail, err = s.pods.AppDetail(a.ID)
		if ended(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out.ContainerMetrics = append(out.ContainerMetrics, &runtimeapi.ContainerMetrics{ContainerId: string(a.ID), Metrics: of.metrics()})
	}
	return out, nil
}

// layers are the writable layers of a pod's apps, by id.
func (s *Service) layers(id pod.ID) (map[string]*runtimeapi.FilesystemUsage, error) {
	stats, err := s.usages.SandboxStats(id)
	layers := map[string]*runtimeapi.FilesystemUsage{}
	for _, st := range stats {
		layers[st.GetAttributes().GetId()] = st.GetWritableLayer()
	}
	return layers, err
}
