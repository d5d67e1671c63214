package image

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/image/pull"
)

// PullImage fetches an image, with all the request's credentials and no others
// but the node's own. Errors carry no class, unless the request itself is
// wrong: the kubelet recognises them by their text.
func (s *Service) PullImage(ctx context.Context, req *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	name := req.GetImage().GetImage()
	if name == "" {
		return nil, fmt.Errorf("pull image: image.image is empty: %w", errdefs.ErrInvalidArgument)
	}
	start := time.Now()
	res, err := s.puller.Pull(ctx, pull.Request{Image: name, Auth: authOf(req.GetAuth())}, nil)
	if s.cfg.Observe != nil {
		s.cfg.Observe(res.Fetched, time.Since(start), err)
	}
	if err != nil {
		return nil, classless(ctx, err)
	}
	return &runtimeapi.PullImageResponse{ImageRef: res.ID}, nil
}

// classless keeps the text of a pull's error only, as transport would turn a
// class into a code that hides it from the kubelet.
func classless(ctx context.Context, err error) error {
	if ctx.Err() != nil || errdefs.IsInvalidArgument(err) {
		return err
	}
	return fmt.Errorf("%v", err)
}

func authOf(a *runtimeapi.AuthConfig) *pull.Auth {
	if a == nil {
		return nil
	}
	return &pull.Auth{
		Username:      a.GetUsername(),
		Password:      a.GetPassword(),
		Auth:          a.GetAuth(),
		ServerAddress: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(),
		RegistryToken: a.GetRegistryToken(),
	}
}
