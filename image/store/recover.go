package store

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

const (
	lockFile   = "pull.lock"
	damagedDir = "damaged"
	usedDir    = "used"
	// replacedDir keeps old files of repaired layers, see ReplaceLayer.
	replacedDir = "replaced"
)

// errBusy says that a pull is running, here or in another process.
var errBusy = fmt.Errorf("a pull is running: %w", errdefs.ErrUnavailable)

// BeginPull keeps Recover and GC, in any process, from removing layers that no
// image uses yet. It waits while one of them runs. The caller calls the
// returned function when its images are committed; so does the kernel if the
// process dies.
func (s *Store) BeginPull() (end func(), err error) { return s.lock(unix.LOCK_SH) }

func (s *Store) lock(how int) (func(), error) {
	f, err := os.OpenFile(s.own(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock image store: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errBusy
		}
		return nil, fmt.Errorf("lock image store: %w", err)
	}
	return func() { f.Close() }, nil
}

// Recover removes what killed processes left: staging folders, half written
// layers and images, and layers without an image that were written before the
// last boot. It does nothing and returns an Unavailable error while a pull
// runs in any process. Open calls it.
func (s *Store) Recover(ctx context.Context) error {
	unlock, err := s.lock(unix.LOCK_EX | unix.LOCK_NB)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = s.clean(ctx, func(_ storage.Layer, rec LayerRecord) bool { return rec.Boot != s.bootID })
	if err != nil {
		return fmt.Errorf("recover image store %s: %w", s.cfg.Root, err)
	}
	return nil
}

// clean removes leftovers and the layers that nothing needs and that match says
// to, and tells how many layers. It needs the exclusive lock.
func (s *Store) clean(ctx context.Context, match func(storage.Layer, LayerRecord) bool) (removed int, err error) {
	err = s.withReserve(func() error {
		if err := s.removeLeftovers(); err != nil {
			return err
		}
		n, err := s.removeLayers(ctx, match)
		removed += n
		return err
	})
	return removed, err
}

// removeLeftovers needs the exclusive lock: every staging folder is garbage then.
func (s *Store) removeLeftovers() error {
	staging := filepath.Join(s.cfg.Root, "overlay", "staging")
	entries, err := os.ReadDir(staging)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(staging, e.Name())); err != nil {
			return err
		}
	}
	if err := s.sweepRoots(); err != nil {
		return err
	}
	if err := s.removeHalfImages(); err != nil {
		return err
	}
	if err := s.dropReplaced(); err != nil {
		return err
	}
	if err := s.lib.GarbageCollect(); err != nil {
		return err
	}
	return s.restoreLinks()
}

// restoreLinks makes the short names of layers anew if some are missing, and
// removes those that lead nowhere. When the library removes a layer whose making
// was killed before the layer's name was written, it keeps that name or removes
// the folder of all names.
func (s *Store) restoreLinks() error {
	overlay := filepath.Join(s.cfg.Root, "overlay")
	links, err := os.ReadDir(filepath.Join(overlay, "l"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	known := 0
	for _, l := range links {
		path := filepath.Join(overlay, "l", l.Name())
		_, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) { // a layer has its folder before it has a name
			err = os.Remove(path)
		} else {
			known++
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	layers, err := s.lib.Layers()
	if err != nil || known >= len(layers) {
		return err
	}
	if err := os.MkdirAll(filepath.Join(overlay, "l"), 0o755); err != nil {
		return err
	}
	for _, l := range layers {
		name, err := os.ReadFile(filepath.Join(overlay, l.ID, "link"))
		if err != nil || len(name) == 0 || strings.ContainsRune(string(name), '/') {
			continue // nobody knows its name
		}
		err = os.Symlink(filepath.Join("..", l.ID, "diff"), filepath.Join(overlay, "l", string(name)))
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}

// removeHalfImages deletes image records whose making was cut off: they have
// neither our record nor a name (see CommitImage).
func (s *Store) removeHalfImages() error {
	images, err := s.lib.Images()
	if err != nil {
		return err
	}
	for _, img := range images {
		if img.Metadata != "" || len(img.Names) > 0 {
			continue
		}
		if _, err := s.lib.DeleteImage(img.ID, true); err != nil && !errors.Is(err, storage.ErrImageUnknown) {
			return fmt.Errorf("remove incomplete image %s: %w", img.ID, err)
		}
	}
	return nil
}

// removeLayers deletes, topmost first, the layers that no image, root or other
// layer needs and that match says to. It needs the exclusive lock.
func (s *Store) removeLayers(ctx context.Context, match func(storage.Layer, LayerRecord) bool) (int, error) {
	layers, err := s.lib.Layers()
	if err != nil {
		return 0, err
	}
	needed, err := s.neededLayers(layers)
	if err != nil {
		return 0, err
	}
	parents := map[string]int{} // how many layers stand on this one
	byID := map[string]storage.Layer{}
	for _, l := range layers {
		byID[l.ID] = l
		parents[l.Parent]++
	}
	removed := 0
	for _, l := range layers {
		for ; l.ID != "" && !needed[l.ID] && parents[l.ID] == 0; l = byID[l.Parent] {
			var rec LayerRecord
			if json.Unmarshal([]byte(l.Metadata), &rec) != nil || rec.Version != recordVersion || !match(l, rec) {
				break // not ours, or not due
			}
			if err := ctx.Err(); err != nil {
				return removed, err
			}
			if err := s.lib.DeleteLayer(l.ID); err != nil && !errors.Is(err, storage.ErrLayerUnknown) {
				return removed, fmt.Errorf("remove layer %s: %w", l.ID, err)
			}
			needed[l.ID] = true // done with it
			parents[l.Parent]--
			removed++
			if err := s.clearDamage(l.ID); err != nil {
				return removed, err
			}
		}
	}
	return removed, nil
}

// neededLayers are those below an image or a root.
func (s *Store) neededLayers(layers []storage.Layer) (map[string]bool, error) {
	images, err := s.lib.Images()
	if err != nil {
		return nil, err
	}
	roots, err := s.Roots()
	if err != nil {
		return nil, err
	}
	parent := map[string]string{}
	for _, l := range layers {
		parent[l.ID] = l.Parent
	}
	needed := map[string]bool{}
	mark := func(id string) {
		for ; id != "" && !needed[id]; id = parent[id] {
			needed[id] = true
		}
	}
	for _, img := range images {
		mark(img.TopLayer)
		for _, id := range img.MappedTopLayers {
			mark(id)
		}
	}
	for _, r := range roots {
		mark(r.layer)
	}
	return needed, nil
}

// GCOptions say what GC may remove.
type GCOptions struct {
	// Grace is how long something must have been unused.
	Grace time.Duration
	// Images lets GC remove whole images that no root uses and that are not
	// pinned; else only layers without an image go.
	Images bool
	// InUse, if set, names who else uses an image.
	InUse func(imageID string) []string
}

// GCResult is what GC removed.
type GCResult struct {
	Images []string // their ids
	Layers int      // layers that no image used
}

// GC removes what has not been used for a while. The error is Unavailable
// while a pull runs.
func (s *Store) GC(ctx context.Context, opts GCOptions) (GCResult, error) {
	var res GCResult
	if opts.Images {
		removed, err := s.removeUnused(ctx, opts)
		res.Images = removed
		if err != nil {
			return res, fmt.Errorf("collect garbage: %w", err)
		}
	}
	unlock, err := s.lock(unix.LOCK_EX | unix.LOCK_NB)
	if err != nil {
		return res, fmt.Errorf("collect garbage: %w", err)
	}
	defer unlock()
	old := time.Now().Add(-opts.Grace)
	res.Layers, err = s.clean(ctx, func(l storage.Layer, _ LayerRecord) bool { return !l.Created.After(old) })
	if err != nil {
		return res, fmt.Errorf("collect garbage: %w", err)
	}
	return res, nil
}

func (s *Store) removeUnused(ctx context.Context, opts GCOptions) ([]string, error) {
	images, err := s.Images()
	if err != nil {
		return nil, err
	}
	old := time.Now().Add(-opts.Grace)
	var removed []string
	for _, img := range images {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		if img.Pinned || s.LastUsed(img).After(old) || (opts.InUse != nil && len(opts.InUse(img.ID)) > 0) {
			continue
		}
		err := s.Remove(img.ID)
		if errdefs.IsFailedPrecondition(err) {
			continue
		}
		if err != nil {
			return removed, err
		}
		removed = append(removed, img.ID)
	}
	return removed, nil
}

// touch notes that an image is used now. It is advice for GC, so a failure to
// write it must not fail the caller.
func (s *Store) touch(img *Image) {
	path := s.own(usedDir, img.Hex())
	now := time.Now()
	if err := os.Chtimes(path, now, now); errors.Is(err, fs.ErrNotExist) {
		os.WriteFile(path, nil, 0o600) //nolint:errcheck // advice only
	}
}

// LastUsed is when an image was last pulled or given to a container.
func (s *Store) LastUsed(img *Image) time.Time {
	fi, err := os.Stat(s.own(usedDir, img.Hex()))
	if err != nil || fi.ModTime().Before(img.Stored) {
		return img.Stored
	}
	return fi.ModTime()
}

// forget removes our own files about an image that is gone.
func (s *Store) forget(img *Image) {
	os.Remove(s.own(usedDir, img.Hex())) //nolint:errcheck // advice only
	os.Remove(s.own(damagedDir, damagedImage+img.Hex()))
	for _, layer := range s.orphanMarks() {
		os.Remove(s.own(damagedDir, layer))
	}
}

// orphanMarks are damage marks of layers that are gone.
func (s *Store) orphanMarks() []string {
	entries, err := os.ReadDir(s.own(damagedDir))
	if err != nil {
		return nil
	}
	var gone []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), damagedImage) {
			continue
		}
		if _, err := s.lib.Layer(e.Name()); errors.Is(err, storage.ErrLayerUnknown) {
			gone = append(gone, e.Name())
		}
	}
	return gone
}
