package sandbox

import (
	"fmt"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// GetContainerEvents implements runtime.v1.RuntimeService: the lives of sandboxes
// and containers, as they go on; a sandbox is told of as a container with its id.
//
// A stream begins with an event for each pod that there is, so that who connects
// anew has missed nothing but removals; the kubelet lists again in that case. A
// reader that is too slow gets ResourceExhausted, rather than a stream with gaps.
// What each event says of the pod as a whole is true at the time that it names, of
// the newest sandbox of the pod (see pod.Event).
func (s *Service) GetContainerEvents(_ *runtimeapi.GetEventsRequest, stream grpc.ServerStreamingServer[runtimeapi.ContainerEventResponse]) error {
	if err := stream.SendHeader(nil); err != nil { // an idle node may have nothing else to send for long
		return fmt.Errorf("stream events: %w", err)
	}
	return s.pods.Watch(stream.Context(), func(ev pod.Event) error {
		resp, err := s.eventOf(&ev)
		if err != nil {
			return fmt.Errorf("stream events: %w", err)
		}
		if err := stream.Send(resp); err != nil {
			return fmt.Errorf("stream events: %w", err)
		}
		return nil
	})
}

var eventTypes = map[pod.EventKind]runtimeapi.ContainerEventType{
	pod.EventCreated: runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT,
	pod.EventStarted: runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT,
	pod.EventExited:  runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT,
	pod.EventRemoved: runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT,
}

func (s *Service) eventOf(ev *pod.Event) (*runtimeapi.ContainerEventResponse, error) {
	status, containers, err := s.statusOf(&ev.Snapshot)
	if err != nil {
		return nil, err
	}
	id := string(ev.App)
	if id == "" {
		id = string(ev.Pod)
	}
	return &runtimeapi.ContainerEventResponse{
		ContainerId:        id,
		ContainerEventType: eventTypes[ev.Kind],
		CreatedAt:          ev.At.UnixNano(),
		PodSandboxStatus:   status,
		ContainersStatuses: containers,
	}, nil
}
