package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/manifest"
	istorage "go.podman.io/image/v5/storage"
	"go.podman.io/image/v5/types"
	"go.podman.io/storage"
)

// Image is one image of the store. Values are shared with the index: treat
// them, and all that they hold, as read only.
type Image struct {
	// ID is "sha256:" and the hex digest of the image's config.
	ID string
	// Tags are the fully qualified names with a tag that point here, and
	// Digests those with a digest: of the manifest and, if it was pulled
	// through one, of the index. Both are sorted.
	Tags, Digests []string
	// Manifest is the digest of the image's own manifest, MediaType its type.
	Manifest  digest.Digest
	MediaType string
	// Annotations are the manifest's.
	Annotations map[string]string
	// Config is the image's config; Docker's is converted.
	Config v1.Image
	// Size is the bytes of the unpacked layers, the config and the manifest.
	Size int64
	// Stored is when the image was first stored here.
	Stored time.Time
	// TopLayer is the storage id of the last layer, empty if there is none.
	TopLayer string
	// Pinned says that a tag matches the config's pinned patterns.
	Pinned bool
}

// Hex is the image's id as the storage library spells it.
func (i *Image) Hex() string { return strings.TrimPrefix(i.ID, "sha256:") }

// imageRecord is kept in storage's image metadata.
type imageRecord struct {
	Version int   `json:"v"`
	Size    int64 `json:"size"`
}

const recordVersion = 1

// NewImage is what CommitImage records.
type NewImage struct {
	Config   []byte
	Manifest []byte
	TopLayer string
	Names    []string // normalised, each with a tag or a digest
	Size     int64
}

// CommitImage records an image whose layers are in the store, or adds names to
// it if it is there. A name that another image bears moves to this one, in one
// write. A process killed at any point leaves either no name pointing at the
// image or a complete one. It returns the image's id.
//
// The layers' files must have reached the disk before (see Writeback).
func (s *Store) CommitImage(n NewImage) (string, error) {
	id := digest.FromBytes(n.Config)
	mdigest, err := manifest.Digest(n.Manifest)
	if err != nil {
		return "", fmt.Errorf("commit image %s: %w", id, err)
	}
	record, err := json.Marshal(imageRecord{Version: recordVersion, Size: n.Size + int64(len(n.Config)+len(n.Manifest))})
	if err != nil {
		return "", fmt.Errorf("commit image %s: %w", id, err)
	}
	_, err = s.lib.CreateImage(id.Encoded(), nil, n.TopLayer, "", &storage.ImageOptions{Digest: mdigest})
	if errors.Is(err, storage.ErrLayerUnknown) {
		return "", fmt.Errorf("commit image %s: layer %s: %w", id, n.TopLayer, errdefs.ErrNotFound)
	}
	if err != nil && !errors.Is(err, storage.ErrDuplicateID) {
		return "", fmt.Errorf("commit image %s: %w", id, err)
	}
	// The library writes these one after the other. The record comes last but
	// for the names: an image without one is incomplete, and removed by Recover.
	for _, item := range []struct {
		key    string
		data   []byte
		digest func([]byte) (digest.Digest, error)
	}{
		{id.String(), n.Config, nil},
		{manifestKey(mdigest), n.Manifest, manifest.Digest},
		{storage.ImageDigestBigDataKey, n.Manifest, manifest.Digest},
	} {
		if err := s.lib.SetImageBigData(id.Encoded(), item.key, item.data, item.digest); err != nil {
			return "", fmt.Errorf("commit image %s: store %s: %w", id, item.key, err)
		}
	}
	if err := s.lib.SetMetadata(id.Encoded(), string(record)); err != nil {
		return "", fmt.Errorf("commit image %s: %w", id, err)
	}
	if len(n.Names) > 0 {
		if err := s.lib.AddNames(id.Encoded(), n.Names); err != nil {
			return "", fmt.Errorf("commit image %s: name it: %w", id, err)
		}
	}
	return id.String(), s.clearDamage(damagedImage + id.Encoded())
}

// Rename gives an image that is in the store, whole, the names that it lacks,
// and returns its id; it returns "" if the image has to be committed.
func (s *Store) Rename(n NewImage) (string, error) {
	id := digest.FromBytes(n.Config).String()
	sn, err := s.snapshot()
	if err != nil {
		return "", err
	}
	img := sn.byID(id)
	if img == nil || img.Manifest != digest.FromBytes(n.Manifest) || s.isDamaged(damagedImage+img.Hex()) {
		return "", nil
	}
	s.touch(img)
	missing := slices.DeleteFunc(slices.Clone(n.Names), func(name string) bool { return sn.byName[name] == img })
	if len(missing) == 0 {
		return id, nil
	}
	if err := s.lib.AddNames(img.Hex(), missing); err != nil {
		if errors.Is(err, storage.ErrImageUnknown) {
			return "", nil // removed meanwhile
		}
		return "", fmt.Errorf("name image %s: %w", id, err)
	}
	return id, nil
}

// manifestKey is where the containers-storage transport looks a manifest up by digest.
func manifestKey(d digest.Digest) string {
	return storage.ImageDigestManifestBigDataNamePrefix + "-" + d.String()
}

// load reads one image whole. An image that is not complete, or whose config or
// manifest is damaged or unreadable, gives nil: it counts as absent until a pull
// makes it whole. An error is the whole store's, as the library takes a file that
// it cannot read for a missing one: no single image may take the others away.
func (s *Store) load(rec *storage.Image) (*Image, error) {
	raw, err := s.lib.ImageBigData(rec.ID, storage.ImageDigestBigDataKey)
	if errors.Is(err, storage.ErrImageUnknown) || isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest of image %s: %w", rec.ID, err)
	}
	config, err := s.lib.ImageBigData(rec.ID, "sha256:"+rec.ID)
	if errors.Is(err, storage.ErrImageUnknown) || isNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read config of image %s: %w", rec.ID, err)
	}
	if digest.FromBytes(config).Encoded() != rec.ID || digest.FromBytes(raw) != rec.BigDataDigests[storage.ImageDigestBigDataKey] {
		return nil, nil
	}
	img := &Image{ID: "sha256:" + rec.ID, Stored: rec.Created, TopLayer: rec.TopLayer, MediaType: manifest.GuessMIMEType(raw)}
	if img.Manifest, err = manifest.Digest(raw); err != nil {
		return nil, nil
	}
	if err := json.Unmarshal(config, &img.Config); err != nil || !json.Valid(raw) {
		return nil, nil
	}
	if img.Annotations, err = Annotations(raw); err != nil {
		img.Annotations = nil // Docker's manifests have none, so nobody has checked them
	}
	img.Size = s.recordedSize(rec) // an image by another tool has no record of ours
	s.setNames(img, rec.Names)
	return img, nil
}

// Annotations are those of a manifest, whatever its type.
func Annotations(raw []byte) (map[string]string, error) {
	var annotated struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(raw, &annotated); err != nil {
		return nil, fmt.Errorf("parse annotations of manifest: %w", err)
	}
	return annotated.Annotations, nil
}

func (s *Store) recordedSize(rec *storage.Image) int64 {
	var r imageRecord
	if err := json.Unmarshal([]byte(rec.Metadata), &r); err == nil && r.Version == recordVersion && r.Size > 0 {
		return r.Size
	}
	if size, err := s.lib.ImageSize(rec.ID); err == nil && size > 0 {
		return size
	}
	return 1 // the kubelet takes 0 for an error
}

func (s *Store) setNames(img *Image, names []string) {
	img.Tags, img.Digests = nil, nil
	for _, name := range names {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			continue // not an image name: nobody can ask for it
		}
		if _, ok := ref.(reference.Canonical); ok {
			img.Digests = append(img.Digests, name)
		} else {
			img.Tags = append(img.Tags, name)
		}
	}
	img.Pinned = s.pinned(img.Tags)
}

// RawManifest is the manifest of an image as the registry served it.
func (s *Store) RawManifest(id string) ([]byte, error) {
	return s.bigData(id, storage.ImageDigestBigDataKey)
}

// RawConfig is the config of an image as the registry served it.
func (s *Store) RawConfig(id string) ([]byte, error) {
	return s.bigData(id, "sha256:"+strings.TrimPrefix(id, "sha256:"))
}

func (s *Store) bigData(id, key string) ([]byte, error) {
	data, err := s.lib.ImageBigData(strings.TrimPrefix(id, "sha256:"), key)
	if errors.Is(err, storage.ErrImageUnknown) || isNotExist(err) {
		return nil, fmt.Errorf("read %s of image %s: %w", key, id, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of image %s: %w", key, id, err)
	}
	return data, nil
}

// Reference is the image as the containers-storage transport names it, for
// copy.Image and for inspecting.
func (s *Store) Reference(id string) (types.ImageReference, error) {
	ref, err := istorage.Transport.NewStoreReference(s.lib, nil, strings.TrimPrefix(id, "sha256:"))
	if err != nil {
		return nil, fmt.Errorf("refer to image %s: %w", id, err)
	}
	return ref, nil
}
