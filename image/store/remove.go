package store

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"go.podman.io/storage"
	"golang.org/x/sys/unix"
)

// Remove deletes the image that ref finds, with all its names, and the layers
// that nothing else uses. Removing what is not there returns nil. The error is
// FailedPrecondition if a root of this store was made from the image.
//
// An image whose records are damaged, which Get does not find, is removed by
// name or whole id. A full disk is no obstacle.
func (s *Store) Remove(ref string) error {
	img, err := s.Get(ref)
	if errdefs.IsNotFound(err) {
		img, err = s.unreadable(ref)
		if img == nil && err == nil {
			return nil
		}
	}
	if err != nil {
		return fmt.Errorf("remove image: %w", err)
	}
	unlock, err := s.lockImage(img, unix.LOCK_EX) // from the look for users on, until it is gone
	if err != nil {
		unlock, err = s.lockRoots(unix.LOCK_EX) // a full disk may have no room for the file: keep all makers out
	}
	if err != nil {
		return fmt.Errorf("remove image %s: %w", img.ID, err)
	}
	defer unlock()
	users, err := s.RootsOf(img.ID)
	if err != nil {
		return fmt.Errorf("remove image %s: %w", img.ID, err)
	}
	if len(users) > 0 {
		return fmt.Errorf("remove image %s: used by container %s: %w", img.ID, strings.Join(users, ", "), errdefs.ErrFailedPrecondition)
	}
	err = s.withReserve(func() error {
		_, err := s.lib.DeleteImage(img.Hex(), true)
		return err
	})
	switch {
	case errors.Is(err, storage.ErrImageUnknown), errors.Is(err, storage.ErrNotAnImage):
		return nil // another process was quicker
	case errors.Is(err, storage.ErrImageUsedByContainer):
		return fmt.Errorf("remove image %s: %w: %w", img.ID, err, errdefs.ErrFailedPrecondition)
	case err != nil:
		return fmt.Errorf("remove image %s: %w", img.ID, err)
	}
	s.forget(img)
	return nil
}

// unreadable finds an image that the index leaves out, nil if there is none.
func (s *Store) unreadable(ref string) (*Image, error) {
	name := strings.TrimPrefix(ref, "sha256:")
	if len(name) != 64 {
		named, err := ParseReference(ref)
		if err != nil {
			return nil, nil
		}
		name = named.String()
	}
	rec, err := s.lib.Image(name)
	if errors.Is(err, storage.ErrImageUnknown) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return unread(rec), nil
}

// unread is what is known of an image without its config and manifest.
func unread(rec *storage.Image) *Image {
	return &Image{ID: "sha256:" + rec.ID, TopLayer: rec.TopLayer, Manifest: rec.BigDataDigests[storage.ImageDigestBigDataKey]}
}
