package transport

import (
	"context"
	"errors"
	"io"
	"strconv"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A workload is one call, over any path.
type workload struct {
	name  string
	small bool // a call whose cost is the way, not its content
	call  func(context.Context, *path) error
}

var workloads = []workload{
	{"Version", true, func(ctx context.Context, p *path) (err error) {
		if p.client == nil {
			_, err = p.direct.Version(ctx, &runtimeapi.VersionRequest{})
		} else {
			_, err = p.client.Version(ctx, &runtimeapi.VersionRequest{})
		}
		return err
	}},
	{"ContainerStatus", true, func(ctx context.Context, p *path) (err error) {
		if p.client == nil {
			_, err = p.direct.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: "c"})
		} else {
			_, err = p.client.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: "c"})
		}
		return err
	}},
	list(10), list(100), list(1000),
	{"StreamContainers, 1000", false, streamAll},
}

func list(n int) workload {
	req := &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: strconv.Itoa(n)}}
	return workload{"ListContainers, " + strconv.Itoa(n), false, func(ctx context.Context, p *path) (err error) {
		if p.client == nil {
			_, err = p.direct.ListContainers(ctx, req)
		} else {
			_, err = p.client.ListContainers(ctx, req)
		}
		return err
	}}
}

func streamAll(ctx context.Context, p *path) error {
	if p.client == nil {
		return p.direct.StreamContainers(nil, discard{})
	}
	s, err := p.client.StreamContainers(ctx, &runtimeapi.StreamContainersRequest{})
	for err == nil {
		_, err = s.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// discard is the stream of a direct call.
type discard struct{ grpc.ServerStream }

func (discard) Send(*runtimeapi.StreamContainersResponse) error { return nil }
