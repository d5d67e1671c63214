package registrytest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of Docker's registry, beside OCI's in v1.
const (
	DockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	DockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
	DockerConfig   = "application/vnd.docker.container.image.v1+json"
	DockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// Files are regular files of a layer by name; folders are made as needed.
type Files map[string]string

// Compression of a layer.
type Compression int

// The compressions that registries serve.
const (
	Gzip Compression = iota
	Zstd
	None
)

// Layer is made of Files, or of whatever Tar writes.
type Layer struct {
	Files       Files
	Tar         func(*tar.Writer) error
	Raw         []byte // the tar stream itself
	Compression Compression
	// MediaType, if set, replaces the one that goes with the compression.
	MediaType string
}

// Image is what Push makes.
type Image struct {
	Layers []Layer
	Config v1.Image // platform and root filesystem are filled in
	// Docker makes a Docker manifest instead of an OCI one.
	Docker      bool
	Annotations map[string]string
	// Edit may change the manifest before it is stored.
	Edit func(*v1.Manifest)
	// EditConfig may change the config before it is stored.
	EditConfig func(*v1.Image)
}

// Pushed tells what an image became.
type Pushed struct {
	Manifest  digest.Digest
	MediaType string
	Size      int64
	Config    digest.Digest // what image ids are made of
	Layers    []digest.Digest
	DiffIDs   []digest.Digest
}

// ID is the image's id.
func (p Pushed) ID() string { return p.Config.String() }

// Push stores an image, under a tag unless that is empty. It panics on images
// that cannot be made, as only a mistake in a test can cause that.
func (r *Registry) Push(repo, tag string, img Image) Pushed {
	p := Pushed{MediaType: v1.MediaTypeImageManifest}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Annotations: img.Annotations}
	configType := v1.MediaTypeImageConfig
	if img.Docker {
		m.MediaType, p.MediaType, configType = DockerManifest, DockerManifest, DockerConfig
	}
	config := img.Config
	if config.OS == "" {
		config.OS, config.Architecture = "linux", runtime.GOARCH
	}
	config.RootFS.Type = "layers"
	config.RootFS.DiffIDs = []digest.Digest{}
	m.Layers = []v1.Descriptor{}
	for _, l := range img.Layers {
		data, diff, mediaType := l.build(img.Docker)
		d := r.AddBlob(data)
		p.Layers = append(p.Layers, d)
		p.DiffIDs = append(p.DiffIDs, diff)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diff)
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))})
	}
	if img.EditConfig != nil {
		img.EditConfig(&config)
	}
	raw := mustJSON(config)
	p.Config = r.AddBlob(raw)
	m.Config = v1.Descriptor{MediaType: configType, Digest: p.Config, Size: int64(len(raw))}
	if img.Edit != nil {
		img.Edit(&m)
	}
	raw = mustJSON(m)
	p.Manifest = r.AddManifest(repo, tag, m.MediaType, raw)
	p.Size = int64(len(raw))
	return p
}

// PushIndex stores an index over images of platforms, given as "os/arch" or
// "os/arch/variant", and returns its digest.
func (r *Registry) PushIndex(repo, tag string, docker bool, images map[string]Pushed) digest.Digest {
	idx := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	if docker {
		idx.MediaType = DockerList
	}
	for _, platform := range slices.Sorted(maps.Keys(images)) {
		p, img := strings.Split(platform, "/"), images[platform]
		d := v1.Descriptor{MediaType: img.MediaType, Digest: img.Manifest, Size: img.Size, Platform: &v1.Platform{OS: p[0], Architecture: p[1]}}
		if len(p) > 2 {
			d.Platform.Variant = p[2]
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	return r.AddManifest(repo, tag, idx.MediaType, mustJSON(idx))
}

// AddManifest stores a manifest as it is.
func (r *Registry) AddManifest(repo, tag, mediaType string, raw []byte) digest.Digest {
	d := digest.FromBytes(raw)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.manifests[repo+"@"+d.String()] = blob{mediaType, raw}
	if tag != "" {
		r.manifests[repo+":"+tag] = blob{mediaType, raw}
	}
	return d
}

// AddBlob stores a blob.
func (r *Registry) AddBlob(data []byte) digest.Digest {
	d := digest.FromBytes(data)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[d] = data
	return d
}

// SetBlob makes the registry serve other content under a digest.
func (r *Registry) SetBlob(d digest.Digest, data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.blobs[d] = data
}

// Blob is a blob's content.
func (r *Registry) Blob(d digest.Digest) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.blobs[d]
}

func mustJSON(v any) []byte {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return raw
}

func (l Layer) build(docker bool) (data []byte, diff digest.Digest, mediaType string) {
	plain := l.Raw
	if plain == nil {
		plain = l.tar()
	}
	diff = digest.FromBytes(plain)
	var out bytes.Buffer
	switch l.Compression {
	case Gzip:
		w := gzip.NewWriter(&out)
		w.Write(plain)
		w.Close()
		mediaType = v1.MediaTypeImageLayerGzip
	case Zstd:
		w, err := zstd.NewWriter(&out)
		if err != nil {
			panic(err)
		}
		w.Write(plain)
		w.Close()
		mediaType = v1.MediaTypeImageLayerZstd
	case None:
		out.Write(plain)
		mediaType = v1.MediaTypeImageLayer
	}
	if docker {
		mediaType = map[Compression]string{Gzip: DockerLayer, Zstd: DockerLayer, None: "application/vnd.docker.image.rootfs.diff.tar"}[l.Compression]
	}
	if l.MediaType != "" {
		mediaType = l.MediaType
	}
	return out.Bytes(), diff, mediaType
}

// Epoch is the modification time of the files that Layer.Files makes.
var Epoch = time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC)

func (l Layer) tar() []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	write := l.Tar
	if write == nil {
		write = l.Files.write
	}
	if err := write(w); err != nil {
		panic(fmt.Errorf("make layer: %w", err))
	}
	if err := w.Close(); err != nil {
		panic(fmt.Errorf("make layer: %w", err))
	}
	return out.Bytes()
}

func (f Files) write(w *tar.Writer) error {
	made := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		for i, c := range name {
			if dir := name[:i]; c == '/' && !made[dir] {
				made[dir] = true
				if err := w.WriteHeader(&tar.Header{Name: dir + "/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: Epoch}); err != nil {
					return err
				}
			}
		}
		hdr := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(f[name])), ModTime: Epoch}
		if err := w.WriteHeader(hdr); err != nil {
			return err
		}
		if _, err := w.Write([]byte(f[name])); err != nil {
			return err
		}
	}
	return nil
}
