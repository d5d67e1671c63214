package store

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"go.podman.io/storage/pkg/directory"
)

// Usage is how much of a filesystem something takes.
type Usage struct {
	Bytes, Inodes uint64
	// Measured is when this was found out.
	Measured time.Time
}

type usageCache struct {
	mu     sync.Mutex
	file   fileID           // guarded by mu; state of layers.json when layers was summed
	layers Usage            // guarded by mu
	roots  map[string]Usage // guarded by mu; by root id, from the last MeasureRoots
}

func (c *usageCache) dropRoot(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.roots, id)
}

// ImageUsage sums what was counted when the layers were unpacked. It reads no
// more than one file's stat unless layers were added or removed. Layers that
// another tool wrote count with the size of their tar stream and no inodes.
func (s *Store) ImageUsage() (Usage, error) {
	path := filepath.Join(s.cfg.Root, "overlay-layers", "layers.json")
	file, err := identify(path)
	if err != nil {
		return Usage{}, fmt.Errorf("measure images: %w", err)
	}
	now := time.Now()
	s.usage.mu.Lock()
	cached, same := s.usage.layers, s.usage.file == file
	s.usage.mu.Unlock()
	if same {
		cached.Measured = now
		return cached, nil
	}
	sum, err := s.sumLayers()
	if err != nil {
		return Usage{}, fmt.Errorf("measure images: %w", err)
	}
	s.usage.mu.Lock()
	s.usage.file, s.usage.layers = file, sum
	s.usage.mu.Unlock()
	sum.Measured = now
	return sum, nil
}

func (s *Store) sumLayers() (Usage, error) {
	layers, err := s.lib.Layers()
	if err != nil {
		return Usage{}, err
	}
	var sum Usage
	for _, l := range layers {
		var rec LayerRecord
		if err := json.Unmarshal([]byte(l.Metadata), &rec); err == nil && rec.Version == recordVersion {
			sum.Bytes += uint64(rec.Bytes)
			sum.Inodes += uint64(rec.Inodes)
		} else if l.UncompressedSize > 0 {
			sum.Bytes += uint64(l.UncompressedSize)
		}
	}
	return sum, nil
}

// MeasureRoots walks what containers have written to their roots, but for roots
// that were measured within maxAge; young ones, which are still being filled, have
// less. It costs one stat per file written, so it runs now and then in the
// background and the other methods answer from its last result.
func (s *Store) MeasureRoots(ctx context.Context, maxAge time.Duration) error {
	roots, err := s.Roots()
	if err != nil {
		return fmt.Errorf("measure roots: %w", err)
	}
	found := make(map[string]Usage, len(roots))
	for _, r := range roots {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("measure roots: %w", err)
		}
		if known, ok := s.RootUsage(r.ID); ok && !due(r.Created, known.Measured, time.Now(), maxAge) {
			found[r.ID] = known
			continue
		}
		u, err := directory.Usage(r.diff)
		if isNotExist(err) {
			continue // removed meanwhile
		}
		if err != nil {
			return fmt.Errorf("measure root %s: %w", r.ID, err)
		}
		found[r.ID] = Usage{Bytes: uint64(u.Size), Inodes: uint64(u.InodeCount), Measured: time.Now()}
	}
	s.usage.mu.Lock()
	s.usage.roots = found
	s.usage.mu.Unlock()
	return nil
}

// due says whether a root must be measured again: maxAge after it was, or when it
// has twice the age that it had then.
func due(created, measured, now time.Time, maxAge time.Duration) bool {
	return now.Sub(measured) >= min(maxAge, measured.Sub(created))
}

// RootUsage is what the last MeasureRoots found of one root; false if it has
// not been measured yet.
func (s *Store) RootUsage(id string) (Usage, bool) {
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	u, ok := s.usage.roots[id]
	return u, ok
}

// RootsUsage sums the last MeasureRoots.
func (s *Store) RootsUsage() Usage {
	s.usage.mu.Lock()
	defer s.usage.mu.Unlock()
	sum := Usage{Measured: time.Now()}
	for _, u := range slices.Collect(maps.Values(s.usage.roots)) {
		sum.Bytes += u.Bytes
		sum.Inodes += u.Inodes
	}
	return sum
}
