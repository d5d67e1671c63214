package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/containerd/errdefs"
	"go.podman.io/image/v5/docker/reference"
)

// index holds what reads answer from. The library replaces images.json at each
// change and then writes something unique into images.lock, so looking at both
// tells whether the index still holds.
type index struct {
	current atomic.Pointer[snapshot]
	mu      sync.Mutex // held while a new snapshot is made
}

// snapshot is one state of the store's images; it never changes.
type snapshot struct {
	file   fileID
	images []*Image // sorted by id
	byName map[string]*Image
	// sources tell which parts of the last snapshot can be kept.
	sources map[string]string // hex id to what the image was made from
}

// fileID changes whenever one of the library's files is replaced.
type fileID struct {
	ino          uint64
	size         int64
	mtime, ctime syscall.Timespec
	writer       string // who wrote last, and when
}

func identify(path string) (fileID, error) {
	writer, err := os.ReadFile(strings.TrimSuffix(path, ".json") + ".lock")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fileID{}, err
	}
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fileID{}, nil
	}
	if err != nil {
		return fileID{}, err
	}
	st := fi.Sys().(*syscall.Stat_t)
	return fileID{ino: st.Ino, size: st.Size, mtime: st.Mtim, ctime: st.Ctim, writer: string(writer)}, nil
}

func isNotExist(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// snapshot gives the images as they are now.
func (s *Store) snapshot() (*snapshot, error) {
	path := filepath.Join(s.cfg.Root, "overlay-images", "images.json")
	file, err := identify(path)
	if err != nil {
		return nil, fmt.Errorf("read image index: %w", err)
	}
	if cur := s.index.current.Load(); cur != nil && cur.file == file {
		return cur, nil
	}
	s.index.mu.Lock()
	defer s.index.mu.Unlock()
	// Identified before it is read: if it changes meanwhile, the next call reads again.
	if file, err = identify(path); err != nil {
		return nil, fmt.Errorf("read image index: %w", err)
	}
	old := s.index.current.Load()
	if old != nil && old.file == file {
		return old, nil
	}
	next, err := s.rebuild(file, old)
	if err != nil {
		return nil, fmt.Errorf("read image index: %w", err)
	}
	s.index.current.Store(next)
	return next, nil
}

func (s *Store) rebuild(file fileID, old *snapshot) (*snapshot, error) {
	records, err := s.lib.Images()
	if err != nil {
		return nil, err
	}
	next := &snapshot{file: file, byName: map[string]*Image{}, sources: map[string]string{}}
	for i := range records {
		rec := &records[i]
		source := fmt.Sprint(rec.Metadata, rec.BigDataDigests, rec.TopLayer)
		img := old.reuse(rec.ID, source)
		if img == nil {
			if img, err = s.load(rec); err != nil {
				return nil, err
			}
			if img == nil {
				continue
			}
		} else {
			renamed := *img
			img = &renamed
			s.setNames(img, rec.Names)
		}
		slices.Sort(img.Tags)
		slices.Sort(img.Digests)
		next.images = append(next.images, img)
		next.sources[rec.ID] = source
		for _, name := range rec.Names {
			next.byName[name] = img
		}
	}
	slices.SortFunc(next.images, func(a, b *Image) int { return cmp.Compare(a.ID, b.ID) })
	return next, nil
}

func (old *snapshot) reuse(hex, source string) *Image {
	if old == nil || old.sources[hex] != source {
		return nil
	}
	return old.byID("sha256:" + hex)
}

func (sn *snapshot) byID(id string) *Image {
	i, ok := slices.BinarySearchFunc(sn.images, id, func(img *Image, id string) int { return cmp.Compare(img.ID, id) })
	if !ok {
		return nil
	}
	return sn.images[i]
}

// Images lists all images, sorted by id.
func (s *Store) Images() ([]*Image, error) {
	sn, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	return sn.images, nil
}

// Get finds one image by tag, digest, id, or a prefix of its id that no other
// image shares: any prefix that starts with "sha256:", else at least 12 hex
// digits. Names win over prefixes. The error is NotFound if there is none and
// InvalidArgument if ref is no image name or its prefix is ambiguous.
func (s *Store) Get(ref string) (*Image, error) {
	sn, err := s.snapshot()
	if err != nil {
		return nil, err
	}
	named, parseErr := ParseReference(ref)
	if parseErr == nil {
		if img := sn.find(named); img != nil {
			return img, nil
		}
	}
	digits, ok := idPrefix(ref)
	if !ok {
		if parseErr != nil {
			return nil, parseErr
		}
		return nil, fmt.Errorf("find image %q: %w", ref, errdefs.ErrNotFound)
	}
	return sn.byPrefix(ref, digits)
}

// find looks a name up. One with a digest also finds an image that was pulled
// under another repository name only if that name is recorded: what one
// registry may serve, another may not.
func (sn *snapshot) find(named reference.Named) *Image {
	return sn.byName[named.String()]
}

func (sn *snapshot) byPrefix(ref, digits string) (*Image, error) {
	id := "sha256:" + digits
	i, _ := slices.BinarySearchFunc(sn.images, id, func(img *Image, id string) int { return cmp.Compare(img.ID, id) })
	if i == len(sn.images) || !strings.HasPrefix(sn.images[i].ID, id) {
		return nil, fmt.Errorf("find image %q: %w", ref, errdefs.ErrNotFound)
	}
	if i+1 < len(sn.images) && strings.HasPrefix(sn.images[i+1].ID, id) {
		return nil, fmt.Errorf("find image %q: more than one image id begins so, give more digits: %w", ref, errdefs.ErrInvalidArgument)
	}
	return sn.images[i], nil
}
