package image

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/image/store"
)

// ImageStatus finds one image by tag, digest, id or unique prefix of its id;
// without one the answer's image is nil. An image that Verify has found
// damaged counts as absent, so that the kubelet pulls it again, which repairs it.
func (s *Service) ImageStatus(_ context.Context, req *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	name := req.GetImage().GetImage()
	if name == "" {
		return nil, fmt.Errorf("image status: image.image is empty: %w", errdefs.ErrInvalidArgument)
	}
	img, err := s.store.Get(name)
	if errdefs.IsNotFound(err) {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("image status: %w", err)
	}
	damaged, err := s.store.Damaged(img)
	if err != nil {
		return nil, fmt.Errorf("image status: %w", err)
	}
	if damaged {
		return &runtimeapi.ImageStatusResponse{}, nil
	}
	resp := &runtimeapi.ImageStatusResponse{Image: toCRI(img)}
	if req.GetVerbose() {
		if resp.Info, err = verbose(img); err != nil {
			return nil, fmt.Errorf("image status: %w", err)
		}
	}
	return resp, nil
}

// verboseInfo is the value of "info" in a verbose status. Others' tools read
// chainID and imageSpec from it.
type verboseInfo struct {
	ChainID   string   `json:"chainID,omitempty"`
	Manifest  string   `json:"manifest"`
	MediaType string   `json:"mediaType"`
	ImageSpec v1.Image `json:"imageSpec"`
}

func verbose(img *store.Image) (map[string]string, error) {
	info := verboseInfo{Manifest: img.Manifest.String(), MediaType: img.MediaType, ImageSpec: img.Config}
	if img.TopLayer != "" {
		info.ChainID = "sha256:" + img.TopLayer
	}
	data, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("describe image %s: %w", img.ID, err)
	}
	return map[string]string{"info": string(data)}, nil
}

// toCRI is an image as CRI describes it.
func toCRI(img *store.Image) *runtimeapi.Image {
	out := &runtimeapi.Image{
		Id:          img.ID,
		RepoTags:    img.Tags,
		RepoDigests: img.Digests,
		Size:        uint64(img.Size),
		Spec:        &runtimeapi.ImageSpec{Image: img.ID, Annotations: img.Annotations},
		Pinned:      img.Pinned,
	}
	out.Uid, out.Username = userOf(img.Config.Config.User)
	return out
}

// userOf splits a config's "user[:group]": a number is a uid, all else a name.
// Without a user both are empty, which the kubelet takes for root.
func userOf(user string) (*runtimeapi.Int64Value, string) {
	user, _, _ = strings.Cut(user, ":")
	if user == "" {
		return nil, ""
	}
	if uid, err := strconv.ParseInt(user, 10, 64); err == nil {
		return &runtimeapi.Int64Value{Value: uid}, ""
	}
	return nil, user
}
