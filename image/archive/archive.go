// Package archive finds the images in local files: OCI layouts, as a directory
// or a tar, archives of docker save, and appc images. What a file is, its
// content tells; its name is never looked at. Tars may be compressed with gzip,
// bzip2, xz or zstd.
package archive

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"go.podman.io/image/v5/docker"
	dockerarchive "go.podman.io/image/v5/docker/archive"
	"go.podman.io/image/v5/docker/reference"
	ociarchive "go.podman.io/image/v5/oci/archive"
	ocilayout "go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/types"

	"github.com/rktnetes/rktshim/image/aci"
)

// Kind is a format of a local image file. Its value is the prefix of the
// references that read it.
type Kind string

// The kinds that Open tells apart.
const (
	ACI       Kind = "aci"
	OCILayout Kind = "oci"
	OCITar    Kind = "oci-archive"
	Docker    Kind = "docker-archive"
)

// Image is one image in a local file.
type Image struct {
	Ref   string   // for ParseReference, for example "oci-archive:/tmp/x.tar:1.0"
	Names []string // complete names that the file gives it, tag included; may be none
	Note  string   // what an operator should know about the import, or empty
}

// Open tells what the file or directory at path is and lists its images, in the
// order of the file and never none. A content that is none of the kinds is of
// class InvalidArgument.
func Open(ctx context.Context, path string) (Kind, []Image, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", nil, fmt.Errorf("image %s: %w", path, err)
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", nil, fmt.Errorf("image: %w", err)
	}
	kind, images, err := open(ctx, abs, info)
	if err != nil {
		return "", nil, fmt.Errorf("image %s: %w", path, err)
	}
	return kind, images, nil
}

func open(ctx context.Context, path string, info os.FileInfo) (Kind, []Image, error) {
	var kind Kind
	var images []Image
	var err error
	switch {
	case info.IsDir():
		kind = OCILayout
		images, err = openLayout(path)
	case info.Mode().IsRegular():
		kind, images, err = openTar(ctx, path)
	default:
		err = fmt.Errorf("it is neither a file nor a directory: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return "", nil, err
	}
	if kind != ACI && strings.Contains(path, ":") {
		return "", nil, fmt.Errorf("%s cannot be read under a path with a colon in it, rename it: %w", kind, errdefs.ErrInvalidArgument)
	}
	return kind, images, nil
}

// transports are those that ParseReference knows.
var transports = map[string]types.ImageTransport{
	string(ACI):             aci.Transport,
	string(OCILayout):       ocilayout.Transport,
	string(OCITar):          ociarchive.Transport,
	string(Docker):          dockerarchive.Transport,
	docker.Transport.Name(): docker.Transport,
}

// ParseReference reads "TRANSPORT:REST" for the kinds above and for "docker", a
// registry. Faults are of class InvalidArgument.
func ParseReference(s string) (types.ImageReference, error) {
	name, rest, _ := strings.Cut(s, ":")
	transport, ok := transports[name]
	if !ok {
		return nil, fmt.Errorf("image reference %q: no transport %q: %w", s, name, errdefs.ErrInvalidArgument)
	}
	ref, err := transport.ParseReference(rest)
	if err != nil {
		return nil, fmt.Errorf("image reference %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return ref, nil
}

// openACI reads no more than the manifest. The rest is for the import to refuse.
func openACI(ctx context.Context, path string) ([]Image, error) {
	manifest, err := aci.ReadManifest(ctx, path, aci.DefaultLimits)
	if err != nil {
		return nil, err
	}
	out := Image{Ref: string(ACI) + ":" + path}
	name, err := manifest.Reference()
	if err != nil {
		out.Note = fmt.Sprintf("imported without a name: %v", err)
		return []Image{out}, nil
	}
	out.Names = []string{name.String()}
	return []Image{out}, nil
}

// complete normalises a name as the CRI reads it; ok is false for what is no
// name of one image.
func complete(name string) (string, bool) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", false
	}
	tagged, ok := reference.TagNameOnly(named).(reference.NamedTagged)
	if !ok {
		return "", false
	}
	return tagged.String(), true
}
