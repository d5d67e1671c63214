package archive

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	ociv1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// errAmbiguous is of an OCI tar whose images have no names to choose them by.
var errAmbiguous = errors.New("several images under one name, unpack it and import the directory")

// containerdName is the annotation by which containerd and docker save an
// image's complete name.
const containerdName = "io.containerd.image.name"

func openLayout(dir string) ([]Image, error) {
	layout, err := readBounded(filepath.Join(dir, ociv1.ImageLayoutFile))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("the directory is no OCI layout, it has no file %s: %w", ociv1.ImageLayoutFile, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, err
	}
	index, err := readBounded(filepath.Join(dir, ociv1.ImageIndexFile))
	if err != nil {
		return nil, err
	}
	return indexImages(OCILayout, dir, layout, index)
}

func readBounded(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxIndex+1))
	if err == nil && len(raw) > maxIndex {
		err = fmt.Errorf("%s has more than %d bytes: %w", filepath.Base(path), maxIndex, errdefs.ErrInvalidArgument)
	}
	return raw, err
}

// indexImages lists the images of an OCI layout's index.json. Descriptors that
// are no images (attestations, signatures) are passed over.
func indexImages(kind Kind, path string, layout, index []byte) ([]Image, error) {
	var version ociv1.ImageLayout
	if err := json.Unmarshal(layout, &version); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", ociv1.ImageLayoutFile, err, errdefs.ErrInvalidArgument)
	}
	if version.Version != ociv1.ImageLayoutVersion {
		return nil, fmt.Errorf("%s: imageLayoutVersion %q, want %q: %w", ociv1.ImageLayoutFile, version.Version, ociv1.ImageLayoutVersion, errdefs.ErrInvalidArgument)
	}
	var list ociv1.Index
	if err := json.Unmarshal(index, &list); err != nil {
		return nil, fmt.Errorf("%s: %w: %w", ociv1.ImageIndexFile, err, errdefs.ErrInvalidArgument)
	}
	var images []Image
	tags := map[string]int{}
	for i, d := range list.Manifests {
		if !isImage(d) {
			continue
		}
		tag := d.Annotations[ociv1.AnnotationRefName]
		tags[tag]++
		img := Image{Ref: fmt.Sprintf("%s:%s:@%d", kind, path, i)}
		if kind == OCITar { // that transport chooses by name, or takes the only one
			img.Ref = fmt.Sprintf("%s:%s:", kind, path)
			if len(list.Manifests) > 1 {
				img.Ref += tag
			}
		}
		if name, ok := layoutName(d.Annotations); ok {
			img.Names = []string{name}
		}
		images = append(images, img)
	}
	switch {
	case len(images) == 0:
		return nil, fmt.Errorf("%s lists no image: %w", ociv1.ImageIndexFile, errdefs.ErrInvalidArgument)
	case kind == OCITar && len(list.Manifests) > 1 && (tags[""] > 0 || len(tags) < len(images)):
		return nil, fmt.Errorf("%s: %w: %w", ociv1.ImageIndexFile, errAmbiguous, errdefs.ErrInvalidArgument)
	}
	return images, nil
}

func isImage(d ociv1.Descriptor) bool {
	if d.Platform != nil && d.Platform.OS == "unknown" {
		return false
	}
	return d.ArtifactType == "" && d.Annotations["vnd.docker.reference.type"] == ""
}

// layoutName returns the name that a descriptor gives its image. The standard
// annotation is often a bare tag, which names nothing.
func layoutName(annotations map[string]string) (string, bool) {
	if name, ok := complete(annotations[containerdName]); ok {
		return name, true
	}
	ref := annotations[ociv1.AnnotationRefName]
	if !strings.ContainsAny(ref, "/:") {
		return "", false
	}
	return complete(ref)
}
