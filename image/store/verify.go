package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
)

// damagedImage is the start of a mark's name when the image's own config or
// manifest is damaged; marks of layers are named by the layer.
const damagedImage = "image-"

// Damage is one thing that Verify found wrong.
type Damage struct {
	// Layer is the storage id of the layer, empty if it is the image's own
	// config or manifest.
	Layer string `json:"layer,omitempty"`
	// Path is the file within the layer, or the name of the item.
	Path string `json:"path"`
	// Problem says what is wrong with it.
	Problem string `json:"problem"`
}

// Verified is what Verify found about one image.
type Verified struct {
	ID     string   `json:"id"`
	Damage []Damage `json:"damage,omitempty"`
}

// Verify reads every file of an image, or of all images if ref is empty, and
// compares its content and metadata with what the registry served; whole
// layers must have the digest that the config names. What is damaged is
// marked, and replaced when the image is pulled again. An undamaged layer
// loses its mark. Extended attributes other than overlay's are not compared.
func (s *Store) Verify(ctx context.Context, ref string) ([]Verified, error) {
	images, err := s.toVerify(ref)
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	checked := map[string][]Damage{} // by layer, for those that images share
	var all []Verified
	for _, img := range images {
		v, err := s.verifyImage(ctx, img, checked)
		if err != nil {
			return all, fmt.Errorf("verify image %s: %w", img.ID, err)
		}
		all = append(all, v)
	}
	return all, nil
}

// toVerify are the images that ref means, with those that the index leaves out
// because it cannot read them.
func (s *Store) toVerify(ref string) ([]*Image, error) {
	if ref != "" {
		img, err := s.Get(ref)
		if errdefs.IsNotFound(err) {
			broken, berr := s.unreadable(ref)
			if berr != nil {
				return nil, berr
			}
			if broken != nil {
				return []*Image{broken}, nil
			}
		}
		return []*Image{img}, err
	}
	sn, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	images := slices.Clone(sn.images)
	records, err := s.lib.Images()
	if err != nil {
		return nil, err
	}
	for i := range records {
		if rec := &records[i]; rec.Metadata != "" && sn.byID("sha256:"+rec.ID) == nil {
			images = append(images, unread(rec))
		}
	}
	return images, nil
}

func (s *Store) verifyImage(ctx context.Context, img *Image, checked map[string][]Damage) (Verified, error) {
	v := Verified{ID: img.ID, Damage: s.verifyItems(img)}
	if err := s.mark(damagedImage+img.Hex(), v.Damage); err != nil {
		return v, err
	}
	for id := img.TopLayer; id != ""; {
		layer, err := s.lib.Layer(id)
		if errors.Is(err, storage.ErrLayerUnknown) {
			lost := []Damage{{Layer: id, Path: "/", Problem: "the layer is missing"}}
			v.Damage = append(v.Damage, lost...)
			return v, s.mark(damagedImage+img.Hex(), v.Damage)
		}
		if err != nil {
			return v, fmt.Errorf("layer %s: %w", id, err)
		}
		damage, done := checked[id]
		if !done {
			if damage, err = s.verifyLayer(ctx, layer); err != nil {
				return v, fmt.Errorf("layer %s: %w", id, err)
			}
			checked[id] = damage
			if err := s.mark(id, damage); err != nil {
				return v, err
			}
		}
		v.Damage = append(v.Damage, damage...)
		id = layer.Parent
	}
	return v, nil
}

// verifyItems checks the config and the manifest as they are on the disk.
func (s *Store) verifyItems(img *Image) []Damage {
	var found []Damage
	for _, item := range []struct {
		name string
		read func(string) ([]byte, error)
		want digest.Digest
	}{
		{"config", s.RawConfig, digest.Digest(img.ID)},
		{"manifest", s.RawManifest, img.Manifest},
	} {
		data, err := item.read(img.ID)
		if err != nil {
			found = append(found, Damage{Path: item.name, Problem: err.Error()})
		} else if got := digest.FromBytes(data); got != item.want {
			found = append(found, Damage{Path: item.name, Problem: fmt.Sprintf("has digest %s, not %s", got, item.want)})
		}
	}
	return found
}

func isDamaged(dir, name string) bool {
	_, err := os.Lstat(filepath.Join(dir, name))
	return err == nil
}

func (s *Store) isDamaged(layer string) bool { return isDamaged(s.own(damagedDir), layer) }

// Damaged says whether Verify has marked the image's own records or one of its
// layers, and no pull has repaired them yet.
func (s *Store) Damaged(img *Image) (bool, error) {
	entries, err := os.ReadDir(s.own(damagedDir))
	if err != nil {
		return false, fmt.Errorf("read damage marks: %w", err)
	}
	if len(entries) == 0 {
		return false, nil
	}
	if s.isDamaged(damagedImage + img.Hex()) {
		return true, nil
	}
	for id := img.TopLayer; id != ""; {
		if s.isDamaged(id) {
			return true, nil
		}
		layer, err := s.lib.Layer(id)
		if errors.Is(err, storage.ErrLayerUnknown) {
			return true, nil
		}
		if err != nil {
			return false, fmt.Errorf("read layer %s: %w", id, err)
		}
		id = layer.Parent
	}
	return false, nil
}

// mark records damage, or that there is none.
func (s *Store) mark(name string, found []Damage) error {
	if len(found) == 0 {
		return s.clearDamage(name)
	}
	data, err := json.Marshal(found)
	if err != nil {
		return fmt.Errorf("mark %s as damaged: %w", name, err)
	}
	if err := os.WriteFile(s.own(damagedDir, name), data, 0o600); err != nil {
		return fmt.Errorf("mark %s as damaged: %w", name, err)
	}
	return nil
}

func (s *Store) clearDamage(name string) error {
	err := os.Remove(s.own(damagedDir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("clear damage mark of %s: %w", name, err)
	}
	return nil
}
