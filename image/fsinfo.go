package image

import (
	"context"
	"fmt"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/image/store"
)

// ImageFsInfo tells how much images and containers take of the store's
// filesystem; both live on the same one. Images are counted when they are
// unpacked, containers once in Config.MeasureEvery: no call walks the disk.
func (s *Service) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	images, err := s.store.ImageUsage()
	if err != nil {
		return nil, fmt.Errorf("image filesystem info: %w", err)
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{s.usage(images)},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{s.usage(s.store.RootsUsage())},
	}, nil
}

func (s *Service) usage(u store.Usage) *runtimeapi.FilesystemUsage {
	return &runtimeapi.FilesystemUsage{
		Timestamp:  u.Measured.UnixNano(),
		FsId:       &runtimeapi.FilesystemIdentifier{Mountpoint: s.store.Root()},
		UsedBytes:  &runtimeapi.UInt64Value{Value: u.Bytes},
		InodesUsed: &runtimeapi.UInt64Value{Value: u.Inodes},
	}
}
