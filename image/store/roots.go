package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/idtools"
	"go.podman.io/storage/types"
	"golang.org/x/sys/unix"
)

// Root is the writable root filesystem of one container.
type Root struct {
	// ID is the container's id, given by the caller.
	ID string
	// ImageID is the id of the image below, as Image.ID.
	ImageID string
	// Created is when the root was made.
	Created time.Time

	layer string // the topmost of those that it stands on, or its own above these
	diff  string // path of what was written to it
}

// RootOptions are what a root is made with.
type RootOptions struct {
	// MountLabel is the SELinux label of its files, empty for none.
	MountLabel string
	// MountOptions are overlay's, for example "nodev".
	MountOptions []string
	// UIDMap and GIDMap shift the owners of all files, for user namespaces.
	UIDMap, GIDMap []idtools.IDMap
}

// CreateRoot makes a writable root on top of an image's layers. It is not yet
// mounted. The error is NotFound if the image is absent and AlreadyExists if
// there is a root of that id.
func (s *Store) CreateRoot(ctx context.Context, id, imageID string, opts RootOptions) (Root, error) {
	if err := ctx.Err(); err != nil {
		return Root{}, fmt.Errorf("create root %s: %w", id, err)
	}
	if !isRootID(id) {
		return Root{}, fmt.Errorf("create root: %q is no id: %w", id, errdefs.ErrInvalidArgument)
	}
	img, unlock, err := s.holdImage(imageID)
	if err != nil {
		return Root{}, fmt.Errorf("create root %s: %w", id, err)
	}
	defer unlock()
	var r Root
	if s.fitsPlain(id, img, &opts) {
		r, err = s.createPlain(id, img)
	} else {
		r, err = s.createContainer(id, img, &opts)
	}
	if err != nil {
		return Root{}, fmt.Errorf("create root %s of image %s: %w", id, img.ID, err)
	}
	s.touch(img)
	return r, nil
}

// holdImage finds an image and sees that it stays, and that the root which is made
// of it is not swept, until unlock.
func (s *Store) holdImage(imageID string) (_ *Image, unlock func(), err error) {
	img, err := s.Get(imageID)
	if err != nil {
		return nil, nil, err
	}
	unlockImage, err := s.lockImage(img, unix.LOCK_SH)
	if err != nil {
		return nil, nil, err
	}
	unlockRoots, err := s.lockRoots(unix.LOCK_SH)
	if err != nil {
		unlockImage()
		return nil, nil, err
	}
	unlock = func() { unlockRoots(); unlockImage() }
	if img, err = s.Get(img.ID); err != nil { // it may have gone meanwhile
		unlock()
		return nil, nil, err
	}
	return img, unlock, nil
}

// createContainer makes a root that is a container of the library.
func (s *Store) createContainer(id string, img *Image, opts *RootOptions) (Root, error) {
	if s.hasPlain(id) {
		return Root{}, errdefs.ErrAlreadyExists
	}
	co := &storage.ContainerOptions{MountOpts: opts.MountOptions}
	if len(opts.UIDMap) > 0 || len(opts.GIDMap) > 0 {
		co.IDMappingOptions = types.IDMappingOptions{UIDMap: opts.UIDMap, GIDMap: opts.GIDMap}
	} else {
		co.IDMappingOptions = types.IDMappingOptions{HostUIDMapping: true, HostGIDMapping: true}
	}
	if opts.MountLabel != "" {
		co.Flags = map[string]any{"MountLabel": opts.MountLabel}
	}
	c, err := s.lib.CreateContainer(id, nil, img.Hex(), "", "", co)
	switch {
	case errors.Is(err, storage.ErrDuplicateID):
		return Root{}, fmt.Errorf("%w: %w", err, errdefs.ErrAlreadyExists)
	case errors.Is(err, storage.ErrImageUnknown):
		return Root{}, errdefs.ErrNotFound
	case err != nil:
		return Root{}, err
	}
	return s.rootOf(c), nil
}

func (s *Store) rootOf(c *storage.Container) Root {
	return Root{ID: c.ID, ImageID: "sha256:" + c.ImageID, Created: c.Created, layer: c.LayerID, diff: s.diffPath(c.LayerID)}
}

// Mount mounts a root, unless it is mounted, and gives the path of its filesystem.
// The error is NotFound if there is no such root.
func (s *Store) Mount(ctx context.Context, id string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("mount root %s: %w", id, err)
	}
	if r, ok := s.plain(id); ok {
		path, err := s.mountPlain(&r)
		if err != nil {
			return "", fmt.Errorf("mount root %s: %w", id, err)
		}
		return path, nil
	}
	c, err := s.container(id)
	if err != nil {
		return "", fmt.Errorf("mount root %s: %w", id, err)
	}
	label, _ := c.Flags["MountLabel"].(string)
	// The library gives "/" to user 0 at each mount, whatever the image says.
	var owner unix.Stat_t
	if err := unix.Stat(s.diffPath(c.LayerID), &owner); err != nil {
		return "", fmt.Errorf("mount root %s: stat its files: %w", id, err)
	}
	path, err := s.lib.Mount(c.ID, label)
	if err != nil {
		return "", fmt.Errorf("mount root %s: %w", id, err)
	}
	if (owner.Uid|owner.Gid) != 0 && len(c.UIDMap)+len(c.GIDMap) == 0 {
		if err := os.Lchown(path, int(owner.Uid), int(owner.Gid)); err != nil {
			return "", fmt.Errorf("mount root %s: %w", id, errors.Join(err, s.Unmount(ctx, id)))
		}
	}
	return path, nil
}

// Unmount takes back a Mount; a root with shifted owners, a label or options needs
// one for each. A root that is not mounted, or gone, gives nil.
func (s *Store) Unmount(_ context.Context, id string) error {
	return s.unmount(id, false)
}

func (s *Store) unmount(id string, all bool) error {
	if s.hasPlain(id) {
		if err := s.unmountPlain(id); err != nil {
			return fmt.Errorf("unmount root %s: %w", id, err)
		}
		return nil
	}
	c, err := s.container(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("unmount root %s: %w", id, err)
	}
	_, err = s.lib.Unmount(c.ID, all)
	if err != nil && !errors.Is(err, storage.ErrLayerNotMounted) && !errors.Is(err, storage.ErrLayerUnknown) {
		return fmt.Errorf("unmount root %s: %w", id, err)
	}
	return nil
}

// RemoveRoot unmounts a root, however often it was mounted, and deletes it with
// everything that was written to it. Removing one that is not there gives nil.
func (s *Store) RemoveRoot(_ context.Context, id string) error {
	if s.hasPlain(id) {
		if err := s.removePlain(id); err != nil {
			return fmt.Errorf("remove root %s: %w", id, err)
		}
		s.usage.dropRoot(id)
		return nil
	}
	c, err := s.container(id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove root %s: %w", id, err)
	}
	if err := s.unmount(id, true); err != nil {
		return fmt.Errorf("remove root: %w", err)
	}
	err = s.withReserve(func() error { return s.lib.DeleteContainer(c.ID) })
	if err != nil && !errors.Is(err, storage.ErrContainerUnknown) {
		return fmt.Errorf("remove root %s: %w", id, err)
	}
	s.usage.dropRoot(id)
	return nil
}

// Roots lists all roots.
func (s *Store) Roots() ([]Root, error) {
	containers, err := s.lib.Containers()
	if err != nil {
		return nil, fmt.Errorf("list roots: %w", err)
	}
	roots, err := s.plains()
	if err != nil {
		return nil, fmt.Errorf("list roots: %w", err)
	}
	for i := range containers {
		roots = append(roots, s.rootOf(&containers[i]))
	}
	return roots, nil
}

// RootsOf lists the ids of the roots made from an image.
func (s *Store) RootsOf(imageID string) ([]string, error) {
	roots, err := s.Roots()
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, r := range roots {
		if r.ImageID == imageID {
			ids = append(ids, r.ID)
		}
	}
	return ids, nil
}

// container finds a root by its whole id; the library would take a prefix too.
func (s *Store) container(id string) (*storage.Container, error) {
	c, err := s.lib.Container(id)
	if errors.Is(err, storage.ErrContainerUnknown) || (err == nil && c.ID != id) {
		return nil, fmt.Errorf("no such root: %w", errdefs.ErrNotFound)
	}
	return c, err
}

// MountImage mounts an image's own files read-only, for image volumes. Each
// call needs an UnmountImage. The error is NotFound if the image is absent.
func (s *Store) MountImage(ctx context.Context, imageID string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", fmt.Errorf("mount image %s: %w", imageID, err)
	}
	img, err := s.Get(imageID)
	if err != nil {
		return "", fmt.Errorf("mount image %s: %w", imageID, err)
	}
	if img.TopLayer == "" {
		return "", fmt.Errorf("mount image %s: it has no layers: %w", imageID, errdefs.ErrFailedPrecondition)
	}
	path, err := s.lib.MountImage(img.Hex(), nil, "")
	if err != nil {
		return "", fmt.Errorf("mount image %s: %w", imageID, err)
	}
	s.touch(img)
	return path, nil
}

// UnmountImage takes back one MountImage. An image that is not mounted, or
// gone, gives nil.
func (s *Store) UnmountImage(_ context.Context, imageID string) error {
	_, err := s.lib.UnmountImage(strings.TrimPrefix(imageID, "sha256:"), false)
	if err != nil && !errors.Is(err, storage.ErrLayerNotMounted) && !errors.Is(err, storage.ErrImageUnknown) {
		return fmt.Errorf("unmount image %s: %w", imageID, err)
	}
	return nil
}
