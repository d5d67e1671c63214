// Package aci reads appc image files (ACI: a tar of a manifest and a rootfs,
// optionally compressed), the native format of rkt, as OCI images.
//
// Nothing is unpacked to disk. Open reads the file once to find the manifest and
// the digest of the layer to be, twice where a manifest at the end changes what
// comes before it; Image.Layer reads it again and yields that layer. Transport
// makes this an image source for go.podman.io/image.
//
// What OCI has a field for is carried over to it: exec (the entrypoint), user
// and group, environment, ports, mount points (volumes), working directory, the
// labels version, os and arch, the annotations authors, created, homepage and
// documentation. All else is kept in labels and annotations, see LabelPrefix.
// Refused, because running the image without them would not be the same image:
// dependencies and event handlers.
//
// Format: https://github.com/appc/spec/blob/v0.8.11/spec/aci.md
package aci

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ociv1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an opened ACI file. It is safe for concurrent use.
type Image struct {
	Manifest *Manifest // as it is in the file
	Config   []byte    // OCI image config
	OCI      []byte    // OCI manifest over Config and one uncompressed layer

	layer  ociv1.Descriptor
	file   *os.File
	size   int64
	limits Limits
}

// Open reads and validates the ACI file at path. Faults of its content are of
// class InvalidArgument. The same file always gives the same OCI image, except
// that an image without the label arch takes the architecture of this host.
func Open(ctx context.Context, path string, limits Limits) (*Image, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	img, err := open(ctx, file, limits)
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	return img, nil
}

func open(ctx context.Context, file *os.File, limits Limits) (*Image, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is not a regular file: %w", errdefs.ErrInvalidArgument)
	}
	img := &Image{file: file, size: info.Size(), limits: limits}
	scan, layer, err := img.scan(ctx, nil)
	if err == nil && scan.incomplete() {
		scan, layer, err = img.scan(ctx, scan.manifest)
	}
	if err != nil {
		return nil, err
	}
	user, err := scan.user()
	if err != nil {
		return nil, fmt.Errorf("appc manifest: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	img.Manifest, img.layer = scan.manifest, layer
	if img.Config, err = json.Marshal(img.Manifest.config(user, layer.Digest)); err != nil {
		return nil, fmt.Errorf("encode the OCI config: %w", err)
	}
	if img.OCI, err = json.Marshal(img.Manifest.manifest(img.Config, layer)); err != nil {
		return nil, fmt.Errorf("encode the OCI manifest: %w", err)
	}
	return img, nil
}

// ReadManifest reads the ACI file at path up to its manifest, and no further:
// quick where that comes first, and no promise that Open takes the file.
func ReadManifest(ctx context.Context, path string, limits Limits) (*Manifest, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	defer file.Close()
	m, err := readManifest(ctx, file, limits)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", path, err)
	}
	return m, nil
}

func readManifest(ctx context.Context, r io.Reader, limits Limits) (*Manifest, error) {
	scan, err := newScanner(ctx, r, limits, nil)
	if err != nil {
		return nil, err
	}
	defer scan.Close()
	for scan.manifest == nil {
		scan.buf.Reset() // the files before it are not wanted
		if err := scan.step(); err != nil {
			return nil, err // io.EOF cannot come first: finish refuses that
		}
	}
	return scan.manifest, nil
}

// scan reads the whole file and describes the layer that comes out of it.
func (i *Image) scan(ctx context.Context, known *Manifest) (*scanner, ociv1.Descriptor, error) {
	var layer ociv1.Descriptor
	scan, err := newScanner(ctx, i.raw(), i.limits, known)
	if err != nil {
		return nil, layer, err
	}
	defer scan.Close()
	hash := digest.SHA256.Digester()
	n, err := io.Copy(hash.Hash(), scan)
	if err != nil {
		return nil, layer, err
	}
	layer = ociv1.Descriptor{MediaType: ociv1.MediaTypeImageLayer, Digest: hash.Digest(), Size: n}
	return scan, layer, nil
}

func (i *Image) raw() io.Reader { return io.NewSectionReader(i.file, 0, i.size) }

// Layer returns the layer's tar, uncompressed. The caller closes it. Whether it
// still is what Open has seen is for the reader to test, by its digest.
func (i *Image) Layer(ctx context.Context) (io.ReadCloser, error) {
	return newScanner(ctx, i.raw(), i.limits, i.Manifest)
}

// blob returns config or layer by digest, with its size.
func (i *Image) blob(ctx context.Context, d digest.Digest) (io.ReadCloser, int64, error) {
	switch d {
	case i.layer.Digest:
		r, err := i.Layer(ctx)
		return r, i.layer.Size, err
	case digest.FromBytes(i.Config):
		return io.NopCloser(bytes.NewReader(i.Config)), int64(len(i.Config)), nil
	}
	return nil, 0, fmt.Errorf("blob %s of image %s: %w", d, i.file.Name(), errdefs.ErrNotFound)
}

// Close closes the file. Readers that Layer returned fail from then on.
func (i *Image) Close() error { return i.file.Close() }

// user returns the OCI user of the image. appc allows a path for user and for
// group, which then are the owner and the group of that file.
func (s *scanner) user() (string, error) {
	if s.manifest.App == nil {
		return "", nil
	}
	a := s.manifest.App
	user, err := s.owner("app.user", a.User, func(o *owner) int { return o.uid })
	if err != nil {
		return "", err
	}
	group, err := s.owner("app.group", a.Group, func(o *owner) int { return o.gid })
	if err != nil {
		return "", err
	}
	return user + ":" + group, nil
}

func (s *scanner) owner(field, id string, pick func(*owner) int) (string, error) {
	if !strings.HasPrefix(id, "/") {
		return id, nil
	}
	o := s.owners[strings.Trim(id, "/")]
	if !o.found {
		return "", fmt.Errorf("%s: no file %s in rootfs to take the owner from", field, id)
	}
	return strconv.Itoa(pick(o)), nil
}
