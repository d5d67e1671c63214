package transport

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fakeRuntime answers from memory, as the real one does, so that what is measured
// is the way there and back.
type fakeRuntime struct {
	runtimeapi.UnimplementedRuntimeServiceServer
	containers []*runtimeapi.Container
	status     *runtimeapi.ContainerStatus
}

// streamBatch is how many containers one message of StreamContainers carries.
const streamBatch = 100

func newFakeRuntime() *fakeRuntime {
	f := &fakeRuntime{}
	for i := range 1000 {
		f.containers = append(f.containers, container(i))
	}
	c := f.containers[0]
	f.status = &runtimeapi.ContainerStatus{
		Id: c.Id, Metadata: c.Metadata, State: c.State, CreatedAt: c.CreatedAt, StartedAt: c.CreatedAt + 5e6,
		Image: c.Image, ImageRef: c.ImageRef, ImageId: c.ImageId, Labels: c.Labels, Annotations: c.Annotations,
		LogPath: "/var/log/pods/default_web-0_5ad3/web/0.log",
		Mounts: []*runtimeapi.Mount{
			{ContainerPath: "/etc/hosts", HostPath: "/var/lib/kubelet/pods/5ad3/etc-hosts"},
			{ContainerPath: "/dev/termination-log", HostPath: "/var/lib/kubelet/pods/5ad3/containers/web/2b1c"},
			{ContainerPath: "/var/run/secrets/kubernetes.io/serviceaccount", HostPath: "/var/lib/kubelet/pods/5ad3/volumes/kubernetes.io~projected/kube-api-access-x2x4p", Readonly: true},
		},
		Resources: &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 256 << 20, OomScoreAdj: 979}},
	}
	return f
}

// container is the i-th container with the labels and annotations that a kubelet
// gives to each.
func container(i int) *runtimeapi.Container {
	hex := fmt.Sprintf("%08x", i*2654435761)
	id, pod, uid := hex+hex+hex+hex+hex+hex+hex+hex, hex+"9a4e"+hex, hex+"-7d1c-4e0e-9a0b-"+hex+"00aa"
	image := "sha256:" + id
	return &runtimeapi.Container{
		Id: id, PodSandboxId: pod, Metadata: &runtimeapi.ContainerMetadata{Name: "web", Attempt: uint32(i % 3)},
		Image:    &runtimeapi.ImageSpec{Image: image, UserSpecifiedImage: "registry.example/team/web:1.4.2"},
		ImageRef: image, ImageId: image, State: runtimeapi.ContainerState_CONTAINER_RUNNING, CreatedAt: 1_790_000_000_000_000_000 + int64(i),
		Labels: map[string]string{
			"io.kubernetes.container.name": "web", "io.kubernetes.pod.name": fmt.Sprintf("web-%d", i),
			"io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": uid,
		},
		Annotations: map[string]string{
			"io.kubernetes.container.hash": hex, "io.kubernetes.container.restartCount": "0",
			"io.kubernetes.container.terminationMessagePath":   "/dev/termination-log",
			"io.kubernetes.container.terminationMessagePolicy": "File",
			"io.kubernetes.container.ports":                    `[{"containerPort":8080,"protocol":"TCP"}]`,
			"io.kubernetes.pod.terminationGracePeriod":         "30",
		},
	}
}

func (f *fakeRuntime) Version(context.Context, *runtimeapi.VersionRequest) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "rktshim", RuntimeVersion: "0.1.0", RuntimeApiVersion: "v1"}, nil
}

func (f *fakeRuntime) ContainerStatus(context.Context, *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	return &runtimeapi.ContainerStatusResponse{Status: f.status}, nil
}

// ListContainers gives as many containers as the filter's id says: a number, so
// that one server serves all sizes.
func (f *fakeRuntime) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	var n int
	if _, err := fmt.Sscan(r.GetFilter().GetId(), &n); err != nil {
		return nil, err
	}
	return &runtimeapi.ListContainersResponse{Containers: f.containers[:n]}, nil
}

func (f *fakeRuntime) StreamContainers(_ *runtimeapi.StreamContainersRequest, s grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	for i := 0; i < len(f.containers); i += streamBatch {
		if err := s.Send(&runtimeapi.StreamContainersResponse{Containers: f.containers[i:min(i+streamBatch, len(f.containers))]}); err != nil {
			return err
		}
	}
	return nil
}
