package image

import (
	"context"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// streamBatch is how many images one message of a stream holds: far below
// gRPC's limit even if each has many names.
const streamBatch = 100

// ListImages lists all images, or the one that the filter names.
func (s *Service) ListImages(_ context.Context, req *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	images, err := s.list(req.GetFilter())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ListImagesResponse{Images: images}, nil
}

// StreamImages sends what ListImages lists, each image once, in batches.
func (s *Service) StreamImages(req *runtimeapi.StreamImagesRequest, stream grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	images, err := s.list(req.GetFilter())
	if err != nil {
		return err
	}
	for len(images) > 0 {
		n := min(streamBatch, len(images))
		if err := stream.Send(&runtimeapi.StreamImagesResponse{Images: images[:n]}); err != nil {
			return err
		}
		images = images[n:]
	}
	return nil
}

func (s *Service) list(filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if name := filter.GetImage().GetImage(); name != "" {
		img, err := s.store.Get(name)
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return []*runtimeapi.Image{toCRI(img)}, nil
	}
	all, err := s.store.Images()
	if err != nil {
		return nil, err
	}
	images := make([]*runtimeapi.Image, 0, len(all))
	for _, img := range all {
		images = append(images, toCRI(img))
	}
	return images, nil
}
