package container

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// CreateContainer implements runtime.v1.RuntimeService. The same container (sandbox,
// name, attempt) asked for again is the same container, see pod.Engine.CreateApp.
func (s *Service) CreateContainer(ctx context.Context, req *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	p, err := s.apps.Pod(pod.ID(req.GetPodSandboxId()))
	if err != nil {
		return nil, fmt.Errorf("create container: %w", err)
	}
	r := &request{config: req.GetConfig(), sandbox: req.GetSandboxConfig(), filters: &s.filters}
	if err := r.check(&s.node, &p); err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.config.GetMetadata().GetName(), err)
	}
	if r.image, err = s.images.ContainerImage(ctx, r.config.GetImage().GetImage()); err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.config.GetMetadata().GetName(), err)
	}
	spec, err := s.appSpec(r, &p)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", r.config.GetMetadata().GetName(), err)
	}
	id, err := s.apps.CreateApp(ctx, p.ID, spec, func(_ context.Context, place pod.Place) (pod.Configured, error) {
		return r.configure(&s.node, &place)
	})
	if err != nil {
		return nil, err
	}
	s.filters.learn(&r.filter)
	return &runtimeapi.CreateContainerResponse{ContainerId: string(id)}, nil
}

func (s *Service) appSpec(r *request, p *pod.Pod) (pod.AppSpec, error) {
	c := r.config
	spec := pod.AppSpec{
		Name:        c.GetMetadata().GetName(),
		Attempt:     c.GetMetadata().GetAttempt(),
		Image:       pick(c.GetImage().GetUserSpecifiedImage(), c.GetImage().GetImage()),
		ImageID:     r.image.ID,
		TTY:         c.GetTty(),
		Stdin:       c.GetStdin(),
		StdinOnce:   c.GetStdinOnce(),
		Labels:      c.GetLabels(),
		Annotations: c.GetAnnotations(),
	}
	if c.GetLogPath() != "" {
		dir := p.Spec.LogDir
		if dir == "" {
			return spec, invalid("log_path", "%q: the sandbox has no log_directory", c.GetLogPath())
		}
		spec.Log = filepath.Join(dir, c.GetLogPath())
		if !strings.HasPrefix(spec.Log, filepath.Clean(dir)+"/") {
			return spec, invalid("log_path", "%q leads out of the sandbox's log_directory", c.GetLogPath())
		}
	}
	if opts := r.security().GetNamespaceOptions(); opts.GetPid() == runtimeapi.NamespaceMode_TARGET {
		target, err := s.apps.App(pod.AppID(opts.GetTargetId()))
		const field = "linux.security_context.namespace_options.target_id"
		switch {
		case err != nil:
			return spec, fmt.Errorf("%s: %w", field, err)
		case target.Pod != p.ID:
			return spec, invalid(field, "container %s is of another sandbox", target.ID)
		case target.State != pod.Running:
			return spec, fmt.Errorf("%s: container %s does not run: %w", field, target.ID, errdefs.ErrFailedPrecondition)
		}
		spec.PIDOf = target.ID
	}
	return spec, nil
}
