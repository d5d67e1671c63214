package container

import (
	"context"
	"encoding/json"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// ContainerStatus implements runtime.v1.RuntimeService, from memory. An unknown
// container is NotFound. Verbose adds "info": what the engine knows, as JSON.
func (s *Service) ContainerStatus(_ context.Context, req *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	app, err := s.apps.App(pod.AppID(req.GetContainerId()))
	if err != nil {
		return nil, err
	}
	st, err := StatusOf(&app)
	if err != nil {
		return nil, err
	}
	resp := &runtimeapi.ContainerStatusResponse{Status: st}
	if req.GetVerbose() {
		info, err := json.Marshal(map[string]any{"sandboxID": app.Pod, "pid": app.PID, "cgroup": app.Cgroup})
		if err != nil {
			return nil, err
		}
		resp.Info = map[string]string{"info": string(info)}
	}
	return resp, nil
}

// StatusOf translates an app into CRI's status.
func StatusOf(app *pod.App) (*runtimeapi.ContainerStatus, error) {
	kept, err := extraOf(app.Spec)
	if err != nil {
		return nil, err
	}
	st := &runtimeapi.ContainerStatus{
		Id:          string(app.ID),
		Metadata:    metadata(app),
		State:       stateOf(app),
		CreatedAt:   app.CreatedAt.UnixNano(),
		StartedAt:   nanos(app.StartedAt),
		Image:       imageSpec(app, kept.Image),
		ImageRef:    kept.ImageRef,
		ImageId:     app.Spec.ImageID,
		Labels:      app.Spec.Labels,
		Annotations: app.Spec.Annotations,
		Mounts:      kept.Mounts,
		LogPath:     app.Spec.Log,
		StopSignal:  kept.StopSignal,
	}
	if kept.Resources != nil {
		st.Resources = &runtimeapi.ContainerResources{Linux: kept.Resources}
	}
	if kept.User != nil {
		st.User = &runtimeapi.ContainerUser{Linux: kept.User}
	}
	if app.Exit != nil {
		st.FinishedAt = nanos(app.Exit.FinishedAt)
		st.ExitCode = int32(app.Exit.Code)
		st.Reason = reason(app.Exit)
	}
	return st, nil
}

// reason is what users read in "kubectl describe"; the kubelet depends on the first.
func reason(e *pod.Exit) string {
	switch {
	case e.OOMKilled:
		return "OOMKilled"
	case e.Code != 0:
		return "Error"
	}
	return "Completed"
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func metadata(app *pod.App) *runtimeapi.ContainerMetadata {
	return &runtimeapi.ContainerMetadata{Name: app.Spec.Name, Attempt: app.Spec.Attempt}
}

// imageSpec is the image as the container was asked for, which the kubelet compares.
func imageSpec(app *pod.App, kept *runtimeapi.ImageSpec) *runtimeapi.ImageSpec {
	if kept != nil {
		return &runtimeapi.ImageSpec{
			Image:              pick(kept.GetUserSpecifiedImage(), kept.GetImage()),
			Annotations:        kept.GetAnnotations(),
			UserSpecifiedImage: kept.GetUserSpecifiedImage(),
			RuntimeHandler:     kept.GetRuntimeHandler(),
			ImageRef:           kept.GetImageRef(),
		}
	}
	return &runtimeapi.ImageSpec{Image: app.Spec.Image}
}

func stateOf(app *pod.App) runtimeapi.ContainerState {
	switch app.State {
	case pod.Created:
		return runtimeapi.ContainerState_CONTAINER_CREATED
	case pod.Running:
		return runtimeapi.ContainerState_CONTAINER_RUNNING
	case pod.Exited:
		return runtimeapi.ContainerState_CONTAINER_EXITED
	}
	return runtimeapi.ContainerState_CONTAINER_UNKNOWN
}
