// Package container answers CRI's Container calls: it translates a ContainerConfig
// into a pod.AppSpec and a config for the OCI runtime, and an app's state into
// CRI's. A container's id is its app's.
//
// What a configuration asks for is done or refused by an error that names the
// field; nothing is left out silently. No annotation of a pod or container reaches
// the OCI runtime, which would take some of them for orders.
package container

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// Image is what a container needs to know of its image.
type Image struct {
	ID         string // as CRI's Image.id
	Ref        string // by digest, or the id if it has none
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
	User       string
	StopSignal string
	Volumes    []string // folders that stay writable
}

// images finds images that were pulled, and knows what containers have written on
// top of them.
type images interface {
	// ContainerImage returns an image. An absent one is NotFound.
	ContainerImage(ctx context.Context, ref string) (Image, error)
	// Layer returns a container's writable layer, false before it was measured.
	Layer(id pod.AppID) (Layer, bool)
}

// apps is all that the service needs of the engine.
type apps interface {
	Pod(id pod.ID) (pod.Pod, error)
	App(id pod.AppID) (pod.App, error)
	Apps(match func(*pod.App) bool) []pod.App
	AppUsage(id pod.AppID) (pod.Usage, error)
	AppProcess(id pod.AppID) (json.RawMessage, error)
	CreateApp(ctx context.Context, id pod.ID, spec pod.AppSpec, configure pod.Configure) (pod.AppID, error)
	StartApp(ctx context.Context, id pod.AppID) error
	StopApp(ctx context.Context, id pod.AppID, grace time.Duration) error
	RemoveApp(ctx context.Context, id pod.AppID) error
	UpdateApp(ctx context.Context, id pod.AppID, change func(*pod.AppSpec) (pod.Change, error)) error
	ReopenLog(ctx context.Context, id pod.AppID) error
	ExecSync(ctx context.Context, id pod.AppID, process []byte, timeout time.Duration, limit int) (pod.ExecOutput, error)
}

// Service answers CRI's Container calls. Its methods are safe for concurrent use.
type Service struct {
	node   Node
	apps   apps
	images images

	filters filters
	kept    keptItems
}

// New returns a service for a node, see LocalNode.
func New(node Node, apps apps, images images) *Service {
	return &Service{node: node, apps: apps, images: images}
}

// extra is what the service keeps with an app beside its spec.
type extra struct {
	ImageRef   string                              `json:"imageRef"`
	Image      *runtimeapi.ImageSpec               `json:"image"`
	Mounts     []*runtimeapi.Mount                 `json:"mounts,omitempty"`
	Resources  *runtimeapi.LinuxContainerResources `json:"resources,omitempty"`
	User       *runtimeapi.LinuxContainerUser      `json:"user"`
	StopSignal runtimeapi.Signal                   `json:"stopSignal"`
}

func extraOf(spec *pod.AppSpec) (x extra, err error) {
	if len(spec.Extra) == 0 {
		return x, nil
	}
	if err := json.Unmarshal(spec.Extra, &x); err != nil {
		return x, fmt.Errorf("read what was kept of the container: %w", err)
	}
	return x, nil
}

// notYet is the error for what CRI has and this program does not do yet.
func notYet(field, what string) error {
	return fmt.Errorf("%s: %s: %w", field, what, errdefs.ErrNotImplemented)
}

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}
