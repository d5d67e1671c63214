package archive

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	ociv1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/rktnetes/rktshim/internal/decompress"
)

// maxIndex bounds index.json and manifest.json, in bytes.
const maxIndex = 1 << 20

// contents is what one pass over a tar has found.
type contents struct {
	aci     bool
	files   map[string][]byte // index.json, manifest.json and oci-layout, where present
	strange string            // first entry that an OCI layout must not have
	entries int
}

func openTar(ctx context.Context, path string) (Kind, []Image, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer file.Close()
	found, err := survey(ctx, file)
	if err != nil {
		return "", nil, err
	}
	if found.aci {
		images, err := openACI(ctx, path)
		return ACI, images, err
	}
	return found.images(path)
}

// survey reads the tar up to the entry that settles what it is. An uncompressed
// one is skipped through, not read.
func survey(ctx context.Context, file *os.File) (*contents, error) {
	stream, format, err := decompress.Reader(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	defer stream.Close()
	var in io.Reader = stream
	if format == decompress.None {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return nil, err
		}
		in = file // lets the tar reader seek
	}
	found := &contents{files: map[string][]byte{}}
	for archive := tar.NewReader(in); !found.aci; {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		hdr, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = found.add(hdr, archive)
		}
		if err != nil {
			return nil, fmt.Errorf("read it as a tar archive: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return found, nil
}

func (c *contents) add(hdr *tar.Header, body io.Reader) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	c.entries++
	name := path.Clean(hdr.Name)
	top, _, _ := strings.Cut(name, "/")
	if top == "manifest" || top == "rootfs" {
		c.aci = true
		return nil
	}
	plain := hdr.Typeflag == tar.TypeReg || hdr.Typeflag == tar.TypeDir
	if c.strange == "" && (!plain || !filepath.IsLocal(hdr.Name)) {
		c.strange = hdr.Name
	}
	switch name {
	case ociv1.ImageIndexFile, ociv1.ImageLayoutFile, "manifest.json":
	default:
		return nil
	}
	switch _, twice := c.files[name]; {
	case twice:
		return fmt.Errorf("entry %q is in it twice", name)
	case hdr.Typeflag != tar.TypeReg:
		return fmt.Errorf("entry %q is not a regular file", name)
	case hdr.Size > maxIndex:
		return fmt.Errorf("entry %q has %d bytes, the limit is %d", name, hdr.Size, maxIndex)
	}
	raw, err := io.ReadAll(body)
	c.files[name] = raw
	return err
}

// images lists what the tar holds. docker save writes both formats into one tar
// since version 25: then OCI's is read, which keeps the digests, except where
// only docker's tells several images apart.
func (c *contents) images(path string) (Kind, []Image, error) {
	index, isOCI := c.files[ociv1.ImageIndexFile]
	manifest, isDocker := c.files["manifest.json"]
	if isOCI {
		images, err := indexImages(OCITar, path, c.files[ociv1.ImageLayoutFile], index)
		if err == nil && c.strange != "" {
			err = fmt.Errorf("entry %q: an OCI layout has nothing but files and directories: %w", c.strange, errdefs.ErrInvalidArgument)
		}
		if !errors.Is(err, errAmbiguous) || !isDocker {
			return OCITar, images, err
		}
	}
	if isDocker {
		images, err := dockerImages(path, manifest)
		return Docker, images, err
	}
	if c.entries == 0 {
		return "", nil, fmt.Errorf("it is empty: %w", errdefs.ErrInvalidArgument)
	}
	return "", nil, fmt.Errorf("it is a tar, but neither an ACI (manifest, rootfs) nor an OCI layout (index.json) nor from docker save (manifest.json): %w",
		errdefs.ErrInvalidArgument)
}

// dockerImages lists the images of docker's manifest.json.
func dockerImages(path string, manifest []byte) ([]Image, error) {
	var items []struct{ RepoTags []string }
	if err := json.Unmarshal(manifest, &items); err != nil {
		return nil, fmt.Errorf("manifest.json: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(items) == 0 {
		return nil, fmt.Errorf("manifest.json lists no image: %w", errdefs.ErrInvalidArgument)
	}
	images := make([]Image, len(items))
	for i, item := range items {
		images[i].Ref = fmt.Sprintf("%s:%s:@%d", Docker, path, i)
		for _, tag := range item.RepoTags {
			name, ok := complete(tag)
			if !ok {
				return nil, fmt.Errorf("manifest.json: [%d].RepoTags: %q is no image name: %w", i, tag, errdefs.ErrInvalidArgument)
			}
			images[i].Names = append(images[i].Names, name)
		}
	}
	return images, nil
}
