package aci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ociv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/types"
)

// Transport reads ACI files as "aci:PATH". It only reads. It is not registered
// anywhere: who wants it, names it.
var Transport types.ImageTransport = transport{}

type transport struct{}

// Name is the prefix of the transport's references and its key in policy.json.
func (transport) Name() string { return "aci" }

// ParseReference takes a path.
func (transport) ParseReference(ref string) (types.ImageReference, error) { return NewReference(ref) }

// ValidatePolicyConfigurationScope accepts clean absolute paths.
func (transport) ValidatePolicyConfigurationScope(scope string) error {
	if !path.IsAbs(scope) || path.Clean(scope) != scope || scope == "/" {
		return fmt.Errorf("invalid scope %q: want an absolute path without dots", scope)
	}
	return nil
}

// NewReference names the image in the ACI file at path, which need not exist yet.
func NewReference(path string) (types.ImageReference, error) {
	if path == "" {
		return nil, errors.New("aci reference: the path is empty")
	}
	resolved, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("aci reference %s: %w", path, err)
	}
	if real, err := filepath.EvalSymlinks(resolved); err == nil {
		resolved = real
	}
	return fileReference{path: path, resolved: resolved}, nil
}

type fileReference struct {
	path     string // as it was given
	resolved string // absolute, for policy.json
}

// Transport implements types.ImageReference, as all the methods below.
func (fileReference) Transport() types.ImageTransport { return Transport }

// StringWithinTransport is the path.
func (r fileReference) StringWithinTransport() string { return r.path }

// DockerReference is nil: a file has no name of its own.
func (fileReference) DockerReference() reference.Named { return nil }

// PolicyConfigurationIdentity is the absolute path.
func (r fileReference) PolicyConfigurationIdentity() string { return r.resolved }

// PolicyConfigurationNamespaces are the folders above the file.
func (r fileReference) PolicyConfigurationNamespaces() []string {
	var out []string
	for dir := path.Dir(r.resolved); dir != "/" && dir != "."; dir = path.Dir(dir) {
		out = append(out, dir)
	}
	return out
}

// NewImage parses the file; the caller closes the result.
func (r fileReference) NewImage(ctx context.Context, sys *types.SystemContext) (types.ImageCloser, error) {
	src, err := r.NewImageSource(ctx, sys)
	if err != nil {
		return nil, err
	}
	img, err := image.FromSource(ctx, sys, src)
	if err != nil {
		return nil, errors.Join(err, src.Close())
	}
	return img, nil
}

// NewImageSource opens and scans the file; the caller closes the result.
func (r fileReference) NewImageSource(ctx context.Context, _ *types.SystemContext) (types.ImageSource, error) {
	img, err := Open(ctx, r.path, DefaultLimits)
	if err != nil {
		return nil, err
	}
	return &source{ref: r, img: img}, nil
}

// NewImageDestination always fails.
func (r fileReference) NewImageDestination(context.Context, *types.SystemContext) (types.ImageDestination, error) {
	return nil, fmt.Errorf("write %s: ACI files are only read", r.path)
}

// DeleteImage always fails.
func (r fileReference) DeleteImage(context.Context, *types.SystemContext) error {
	return fmt.Errorf("delete %s: ACI files are only read", r.path)
}

// source is an opened ACI as go.podman.io/image sees it.
type source struct {
	ref fileReference
	img *Image
}

// Reference implements types.ImageSource, as all the methods below.
func (s *source) Reference() types.ImageReference { return s.ref }

// Close closes the file.
func (s *source) Close() error { return s.img.Close() }

// GetManifest returns the one manifest; an ACI is never a list.
func (s *source) GetManifest(_ context.Context, instance *digest.Digest) ([]byte, string, error) {
	if instance != nil {
		return nil, "", fmt.Errorf("manifest %s of %s: an ACI holds one image", *instance, s.ref.path)
	}
	return s.img.OCI, ociv1.MediaTypeImageManifest, nil
}

// GetBlob returns the config or the layer.
func (s *source) GetBlob(ctx context.Context, info types.BlobInfo, _ types.BlobInfoCache) (io.ReadCloser, int64, error) {
	return s.img.blob(ctx, info.Digest)
}

// HasThreadSafeGetBlob is true: each reader has its own offset.
func (*source) HasThreadSafeGetBlob() bool { return true }

// GetSignatures returns none: an .aci.asc file signs the ACI, not this image.
func (*source) GetSignatures(context.Context, *digest.Digest) ([][]byte, error) { return nil, nil }

// LayerInfosForCopy returns nil: the manifest's own values hold.
func (*source) LayerInfosForCopy(context.Context, *digest.Digest) ([]types.BlobInfo, error) {
	return nil, nil
}
