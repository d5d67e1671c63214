package container

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

// Layer is what a container has written to its root, as it was measured lately.
type Layer struct {
	Mountpoint    string // of the filesystem's store
	Bytes, Inodes uint64
	Measured      time.Time
}

// ContainerStats implements runtime.v1.RuntimeService. It reads open files of the
// container's cgroup and walks no folder. An unknown container is NotFound; one
// that has exited has a writable layer only.
func (s *Service) ContainerStats(_ context.Context, req *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	app, err := s.apps.App(pod.AppID(req.GetContainerId()))
	if err != nil {
		return nil, err
	}
	st, err := s.stats(&app)
	if errdefs.IsNotFound(err) {
		return nil, err
	}
	if err != nil && !errdefs.IsFailedPrecondition(err) {
		return nil, fmt.Errorf("container stats: %w", err)
	}
	return &runtimeapi.ContainerStatsResponse{Stats: st}, nil
}

// ListContainerStats implements runtime.v1.RuntimeService. Containers that have
// exited are not listed: they use nothing, and the kubelet sums what is listed.
func (s *Service) ListContainerStats(_ context.Context, req *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	stats, err := s.listStats(req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainerStatsResponse{Stats: stats}, nil
}

// StreamContainerStats implements runtime.v1.RuntimeService: what
// ListContainerStats answers, each container once, in messages of bounded size.
func (s *Service) StreamContainerStats(req *runtimeapi.StreamContainerStatsRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	stats, err := s.listStats(req.GetFilter())
	if err != nil {
		return err
	}
	for len(stats) > 0 {
		n := min(batch, len(stats))
		if err := stream.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: stats[:n]}); err != nil {
			return fmt.Errorf("stream container stats: %w", err)
		}
		stats = stats[n:]
	}
	return nil
}

// SandboxStats returns the stats of all containers of a sandbox that live.
func (s *Service) SandboxStats(id pod.ID) ([]*runtimeapi.ContainerStats, error) {
	return s.listStats(&runtimeapi.ContainerStatsFilter{PodSandboxId: string(id)})
}

func (s *Service) listStats(f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	filter := &runtimeapi.ContainerFilter{Id: f.GetId(), PodSandboxId: f.GetPodSandboxId(), LabelSelector: f.GetLabelSelector()}
	apps := s.apps.Apps(func(a *pod.App) bool { return a.State != pod.Exited && matches(a, filter) })
	out := make([]*runtimeapi.ContainerStats, 0, len(apps))
	for i := range apps {
		st, err := s.stats(&apps[i])
		if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) { // it has ended since
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("list container stats: %w", err)
		}
		out = append(out, st)
	}
	return out, nil
}

// stats returns what there is to say of a container, also beside the error that
// says why there is no more.
func (s *Service) stats(app *pod.App) (*runtimeapi.ContainerStats, error) {
	st := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id:          string(app.ID),
			Metadata:    metadata(app),
			Labels:      app.Spec.Labels,
			Annotations: app.Spec.Annotations,
		},
	}
	if l, ok := s.images.Layer(app.ID); ok {
		st.WritableLayer = &runtimeapi.FilesystemUsage{
			Timestamp:  l.Measured.UnixNano(),
			FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: l.Mountpoint},
			UsedBytes:  &runtimeapi.UInt64Value{Value: l.Bytes},
			InodesUsed: &runtimeapi.UInt64Value{Value: l.Inodes},
		}
	}
	u, err := s.apps.AppUsage(app.ID)
	if err != nil {
		return st, err
	}
	st.Cpu = cristats.CPU(&u.Usage, u.Cores, u.HasCores)
	st.Memory = cristats.Memory(&u.Usage)
	st.Swap = cristats.Swap(&u.Usage)
	st.Io = cristats.IO(&u.Usage)
	return st, nil
}
