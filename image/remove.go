package image

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/image/store"
)

// RemoveImage removes the image that any of its names or its id finds, with
// all its names. Removing one that is not there returns no error; one that a
// container uses gives FailedPrecondition.
func (s *Service) RemoveImage(_ context.Context, req *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	name := req.GetImage().GetImage()
	if name == "" {
		return nil, fmt.Errorf("remove image: image.image is empty: %w", errdefs.ErrInvalidArgument)
	}
	img, err := s.store.Get(name)
	if errdefs.IsNotFound(err) { // or its records are damaged: Remove finds it all the same
		if err := s.store.Remove(name); err != nil {
			return nil, err
		}
		return &runtimeapi.RemoveImageResponse{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("remove image: %w", err)
	}
	if s.cfg.InUse != nil {
		if users := s.cfg.InUse(img.ID); len(users) > 0 {
			return nil, fmt.Errorf("remove image %s: used by %s: %w", name, strings.Join(users, ", "), errdefs.ErrFailedPrecondition)
		}
	}
	if err := s.store.Remove(img.ID); err != nil {
		return nil, err
	}
	return &runtimeapi.RemoveImageResponse{}, nil
}

// collect removes layers that no image has used for a while.
func (s *Service) collect(ctx context.Context) {
	res, err := s.store.GC(ctx, store.GCOptions{Grace: s.cfg.UnusedLayers})
	if err != nil && !errdefs.IsUnavailable(err) && ctx.Err() == nil { // a pull runs: next time
		klog.FromContext(ctx).Error(err, "Unused layers not removed")
	}
	if res.Layers > 0 {
		klog.FromContext(ctx).Info("Unused layers removed", "layers", res.Layers)
	}
}
