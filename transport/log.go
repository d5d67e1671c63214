package transport

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
)

// readVerbosity is the klog level of calls that change nothing.
const readVerbosity = 5

// reads are the calls that change nothing. ExecSync is among them though its
// command may do anything: exec probes call it every few seconds per container.
var reads = map[string]bool{
	"Version": true, "Status": true, "RuntimeConfig": true,
	"ListPodSandbox": true, "StreamPodSandboxes": true, "PodSandboxStatus": true,
	"ListContainers": true, "StreamContainers": true, "ContainerStatus": true,
	"ContainerStats": true, "ListContainerStats": true, "StreamContainerStats": true,
	"PodSandboxStats": true, "ListPodSandboxStats": true, "StreamPodSandboxStats": true,
	"ListMetricDescriptors": true, "ListPodSandboxMetrics": true, "StreamPodSandboxMetrics": true,
	"GetContainerEvents": true, "ExecSync": true,
	"ListImages": true, "StreamImages": true, "ImageStatus": true, "ImageFsInfo": true,
}

// logCall writes the one line of a call.
func logCall(logger klog.Logger, method string, resp any, err error, took time.Duration) {
	if reads[method] {
		logger = logger.V(readVerbosity)
	}
	if !logger.Enabled() {
		return
	}
	kv := append([]any{"method", method, "took", took}, newIDsOf(resp)...)
	if err != nil {
		kv = append(kv, "err", err)
	}
	logger.Info("CRI call", kv...)
}

// idsOf gives the keys and values that name what a request is about.
func idsOf(req any) (kv []any) {
	if r, ok := req.(interface{ GetPodSandboxId() string }); ok {
		kv = append(kv, "podID", r.GetPodSandboxId())
	}
	if r, ok := req.(interface{ GetContainerId() string }); ok {
		kv = append(kv, "containerID", r.GetContainerId())
	}
	switch r := req.(type) {
	case *runtimeapi.RunPodSandboxRequest:
		m := r.GetConfig().GetMetadata()
		kv = append(kv, "pod", klog.KRef(m.GetNamespace(), m.GetName()))
	case *runtimeapi.CreateContainerRequest:
		kv = append(kv, "container", r.GetConfig().GetMetadata().GetName())
	case interface{ GetImage() *runtimeapi.ImageSpec }:
		kv = append(kv, "image", r.GetImage().GetImage())
	}
	return kv
}

// newIDsOf gives the id that a call has just made.
func newIDsOf(resp any) []any {
	switch r := resp.(type) {
	case *runtimeapi.RunPodSandboxResponse:
		return []any{"podID", r.GetPodSandboxId()}
	case *runtimeapi.CreateContainerResponse:
		return []any{"containerID", r.GetContainerId()}
	case *runtimeapi.PullImageResponse:
		return []any{"imageID", r.GetImageRef()}
	}
	return nil
}
