package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"go.podman.io/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sys/unix"
)

// LayerRecord is what we keep with each layer, in storage's layer metadata.
type LayerRecord struct {
	Version int `json:"v"`
	// Bytes are the blocks that the layer's files take, Inodes how many there are.
	Bytes  int64 `json:"bytes"`
	Inodes int64 `json:"inodes"`
	// Boot is the boot in which the layer was written (see Recover).
	Boot string `json:"boot"`
}

// ChainID is the id of a layer on top of its parents: the storage id of a
// layer is its hex part. Parent is empty for the lowest layer.
func ChainID(parent, diffID digest.Digest) digest.Digest {
	if parent == "" {
		return diffID
	}
	return digest.Canonical.FromString(parent.String() + " " + diffID.String())
}

// StagedLayer is a layer unpacked into a folder of its own, not yet in the store.
// It is given back with CommitLayer, ReplaceLayer or Discard, exactly once.
type StagedLayer struct {
	out *graphdriver.DriverWithDifferOutput
}

// Stage makes a folder on the store's filesystem and lets the differ unpack a
// layer into it. Nothing is left of it if that fails.
func (s *Store) Stage(differ graphdriver.Differ) (*StagedLayer, error) {
	out, err := s.lib.PrepareStagedLayer(nil, differ)
	if err != nil {
		if out != nil && out.Target != "" {
			if derr := s.Discard(&StagedLayer{out}); derr != nil {
				err = fmt.Errorf("%w (clean up: %v)", err, derr)
			}
		}
		return nil, err
	}
	return &StagedLayer{out}, nil
}

// Discard removes a staged layer.
func (s *Store) Discard(l *StagedLayer) error {
	// The library removes files under its lock, which would stop every pull
	// for seconds: take the bulk away first.
	rerr := os.RemoveAll(l.out.Target)
	return errors.Join(rerr, s.lib.CleanupStagedLayer(l.out))
}

// HasLayer says whether the layer is in the store, and whether Verify has found it damaged.
func (s *Store) HasLayer(chain digest.Digest) (present, damaged bool) {
	if _, err := s.lib.Layer(chain.Encoded()); err != nil {
		return false, false
	}
	return true, s.isDamaged(chain.Encoded())
}

// CommitLayer gives a staged layer its place on top of parent, which is empty
// for the lowest. If another process has committed the same layer, that one is
// kept. The error is NotFound if parent has gone.
func (s *Store) CommitLayer(chain, parent digest.Digest, l *StagedLayer, rec LayerRecord) error {
	rec.Version, rec.Boot = recordVersion, s.bootID
	meta, err := json.Marshal(rec)
	if err != nil {
		return fmt.Errorf("commit layer %s: %w", chain, err)
	}
	l.out.Metadata = string(meta)
	below := ""
	if parent != "" {
		below = parent.Encoded()
		if err := s.inheritRoot(below, l); err != nil {
			return errors.Join(fmt.Errorf("commit layer %s: %w", chain, err), s.Discard(l))
		}
	}
	_, err = s.lib.ApplyStagedLayer(storage.ApplyStagedLayerOptions{ID: chain.Encoded(), ParentLayer: below, DiffOutput: l.out})
	if err != nil {
		if errors.Is(err, storage.ErrLayerUnknown) {
			err = fmt.Errorf("parent %s: %w", parent, errdefs.ErrNotFound)
		}
		return errors.Join(fmt.Errorf("commit layer %s: %w", chain, err), s.Discard(l))
	}
	return s.dropStaging(l)
}

// inheritRoot gives a staged layer without an entry for "/" its parent's owner;
// the library does the same for the mode. Overlay shows the topmost layer's.
func (s *Store) inheritRoot(parent string, l *StagedLayer) error {
	if l.out.RootDirMode != nil {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(s.diffPath(parent), &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("parent %s: %w", parent, errdefs.ErrNotFound)
		}
		return fmt.Errorf("stat root of layer %s: %w", parent, err)
	}
	return os.Lchown(l.out.Target, int(st.Uid), int(st.Gid))
}

// ReplaceLayer puts a freshly staged layer in place of a damaged one of the
// same content, in one step, and forgets the damage. The old files are kept
// for the containers that have them mounted, and removed when those are gone.
// No other layer or image is touched.
func (s *Store) ReplaceLayer(chain digest.Digest, l *StagedLayer) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("replace layer %s: %w", chain, err)
		}
		err = errors.Join(err, s.Discard(l)) // by now it holds the old files
	}()
	diff := s.diffPath(chain.Encoded())
	if err := s.inheritRootOf(diff, l); err != nil {
		return err
	}
	if err := replaceTarSplit(s.tarSplitPath(chain.Encoded()), l.out.TarSplit); err != nil {
		return err
	}
	err = unix.Renameat2(unix.AT_FDCWD, l.out.Target, unix.AT_FDCWD, diff, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) { // the damage took the whole folder
		err = os.Rename(l.out.Target, diff)
	}
	if err != nil {
		return err
	}
	if err := s.keepReplaced(chain.Encoded(), l); err != nil {
		return err
	}
	return s.clearDamage(chain.Encoded())
}

// keepReplaced sets a layer's old files aside if a root stands on the layer.
func (s *Store) keepReplaced(layer string, l *StagedLayer) error {
	used, err := s.rootsOn(layer)
	if err != nil || !used {
		return err
	}
	dir, err := os.MkdirTemp(s.own(replacedDir), layer+".")
	if err != nil {
		return err
	}
	err = os.Rename(l.out.Target, filepath.Join(dir, "diff"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there were no old files
	}
	return err
}

// dropReplaced removes old files that no root can have mounted any more.
func (s *Store) dropReplaced() error {
	entries, err := os.ReadDir(s.own(replacedDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		layer, _, _ := strings.Cut(e.Name(), ".")
		used, err := s.rootsOn(layer)
		if err != nil {
			return err
		}
		if used {
			continue
		}
		if err := os.RemoveAll(s.own(replacedDir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// rootsOn says whether any root stands on a layer.
func (s *Store) rootsOn(layer string) (bool, error) {
	roots, err := s.Roots()
	if err != nil {
		return false, err
	}
	for _, r := range roots {
		for id := r.layer; id != ""; {
			if id == layer {
				return true, nil
			}
			l, err := s.lib.Layer(id)
			if err != nil {
				return false, err
			}
			id = l.Parent
		}
	}
	return false, nil
}

// inheritRootOf gives the staged root the owner and mode of the folder that it
// replaces, unless the layer has an entry for "/".
func (s *Store) inheritRootOf(diff string, l *StagedLayer) error {
	var st unix.Stat_t
	if l.out.RootDirMode != nil || unix.Stat(diff, &st) != nil {
		return nil
	}
	if err := os.Lchown(l.out.Target, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	return unix.Chmod(l.out.Target, st.Mode&0o7777)
}

// dropStaging removes what the library leaves of a staging folder after its
// content has moved out.
func (s *Store) dropStaging(l *StagedLayer) error {
	if err := os.RemoveAll(filepath.Dir(l.out.Target)); err != nil {
		return fmt.Errorf("remove staging folder: %w", err)
	}
	return nil
}

func (s *Store) diffPath(layer string) string {
	return filepath.Join(s.cfg.Root, "overlay", layer, "diff")
}

func (s *Store) tarSplitPath(layer string) string {
	return filepath.Join(s.cfg.Root, "overlay-layers", layer+".tar-split.gz")
}

// layerExists says whether the layer's folder is there at all.
func (s *Store) layerExists(layer string) (bool, error) {
	_, err := os.Lstat(s.diffPath(layer))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Size is the bytes of the layer's tar stream.
func (l *StagedLayer) Size() int64 { return l.out.Size }

// SetBlob notes under which digest registries serve the layer, if it was not
// unpacked from a registry's blob.
func (l *StagedLayer) SetBlob(d digest.Digest) { l.out.CompressedDigest = d }

// LayerSize is the bytes of a layer's tar stream.
func (s *Store) LayerSize(chain digest.Digest) (int64, error) {
	l, err := s.lib.Layer(chain.Encoded())
	if errors.Is(err, storage.ErrLayerUnknown) {
		return 0, fmt.Errorf("read layer %s: %w", chain, errdefs.ErrNotFound)
	}
	if err != nil {
		return 0, fmt.Errorf("read layer %s: %w", chain, err)
	}
	return max(l.UncompressedSize, 0), nil
}

// OpenContent is the tar stream of a layer with this content, wherever it
// stands, rebuilt bit for bit. The error is NotFound if no undamaged layer has it.
func (s *Store) OpenContent(diff digest.Digest) (io.ReadCloser, error) {
	layers, err := s.lib.LayersByUncompressedDigest(diff)
	if err != nil && !errors.Is(err, storage.ErrLayerUnknown) {
		return nil, fmt.Errorf("find content %s: %w", diff, err)
	}
	for _, l := range layers {
		if s.isDamaged(l.ID) {
			continue
		}
		plain := archive.Uncompressed
		r, err := s.lib.Diff("", l.ID, &storage.DiffOptions{Compression: &plain})
		if err != nil {
			return nil, fmt.Errorf("read layer %s: %w", l.ID, err)
		}
		return r, nil
	}
	return nil, fmt.Errorf("find content %s: %w", diff, errdefs.ErrNotFound)
}
