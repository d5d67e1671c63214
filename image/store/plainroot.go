package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/thread"
)

// A plain root is one that this package makes and mounts by itself, because the
// library's records of a container cost three synced files to write and three to
// delete. It has no shifted owners, label or mount options; other roots are the
// library's containers.
//
//	rkt/roots/<id>/record.json  the image and layer that it stands on
//	               diff/        what was written to it
//	               work/        overlay's own
//	               merged/      where it is mounted
//	          .new-<id>-*/      being made
//	          .old-<id>/        being deleted
//
// It appears and goes by one rename. Nothing of it is synced: after a power cut
// there is no container that could use it, and one whose record did not reach the
// disk is listed, without an image, and can be removed.
//
// An image cannot go while a root of it is made: makers share a lock of the image,
// which [Store.Remove] has for itself. They share one of the folder, too, so that
// what is being made is not swept.
const (
	rootsDir       = "roots"
	rootRecordName = "record.json"
	newRoot        = ".new-"
	oldRoot        = ".old-"
)

// rootRecord is record.json.
type rootRecord struct {
	Version int       `json:"v"`
	Image   string    `json:"image"` // "sha256:…"
	Layer   string    `json:"layer"` // the image's topmost, by its storage id
	Created time.Time `json:"created"`
}

func (s *Store) rootDir(id string) string { return s.own(rootsDir, id) }

// lockRoots locks the folder of plain roots: LOCK_SH for makers, LOCK_EX for who
// sweeps it.
func (s *Store) lockRoots(how int) (unlock func(), err error) {
	f, err := lockFileAt(s.own(rootsDir), os.O_RDONLY, how)
	if err != nil {
		return nil, fmt.Errorf("lock roots: %w", err)
	}
	return func() { f.Close() }, nil
}

// lockImage locks an image: LOCK_SH for who makes a root of it, LOCK_EX for who
// removes it. The file is the one that says when the image was last used.
func (s *Store) lockImage(img *Image, how int) (unlock func(), err error) {
	path := s.own(usedDir, img.Hex())
	for {
		f, err := lockFileAt(path, os.O_RDWR|os.O_CREATE, how)
		if err != nil {
			return nil, fmt.Errorf("lock image: %w", err)
		}
		locked, err := f.Stat()
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("lock image: %w", err)
		}
		if now, err := os.Stat(path); err == nil && os.SameFile(locked, now) {
			return func() { f.Close() }, nil
		}
		f.Close() // the image was removed meanwhile, and its file with it
	}
}

func lockFileAt(path string, flag, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// fitsPlain says whether a root of this image and these options can be plain.
func (s *Store) fitsPlain(id string, img *Image, opts *RootOptions) bool {
	if img.TopLayer == "" || opts.MountLabel != "" || len(opts.MountOptions)+len(opts.UIDMap)+len(opts.GIDMap) > 0 {
		return false
	}
	_, err := s.overlayOptions(id, img.TopLayer)
	return err == nil
}

// createPlain makes a plain root. The caller holds both locks.
func (s *Store) createPlain(id string, img *Image) (_ Root, err error) {
	rec := rootRecord{Version: recordVersion, Image: img.ID, Layer: img.TopLayer, Created: time.Now()}
	doc, err := json.Marshal(rec)
	if err != nil {
		return Root{}, err
	}
	var top unix.Stat_t // whose owner and mode the root's "/" gets
	if err := unix.Stat(s.diffPath(img.TopLayer), &top); err != nil {
		return Root{}, fmt.Errorf("stat layer %s: %w", img.TopLayer, err)
	}
	tmp, err := os.MkdirTemp(s.own(rootsDir), newRoot+id+"-")
	if err != nil {
		return Root{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	for _, dir := range []string{"diff", "work", "merged"} {
		if err := os.Mkdir(filepath.Join(tmp, dir), 0o700); err != nil {
			return Root{}, err
		}
	}
	diff := filepath.Join(tmp, "diff")
	if err := os.Lchown(diff, int(top.Uid), int(top.Gid)); err != nil {
		return Root{}, err
	}
	if err := unix.Chmod(diff, top.Mode&0o7777); err != nil {
		return Root{}, err
	}
	if err := os.WriteFile(filepath.Join(tmp, rootRecordName), doc, 0o600); err != nil {
		return Root{}, err
	}
	err = unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, s.rootDir(id), unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrExist) {
		err = fmt.Errorf("there is one: %w", errdefs.ErrAlreadyExists)
	}
	return s.plainRoot(id, &rec), err
}

func (s *Store) plainRoot(id string, rec *rootRecord) Root {
	return Root{ID: id, ImageID: rec.Image, Created: rec.Created, layer: rec.Layer, diff: filepath.Join(s.rootDir(id), "diff")}
}

// plain finds a plain root. One whose record is damaged has no image.
func (s *Store) plain(id string) (Root, bool) {
	if !isRootID(id) {
		return Root{}, false
	}
	doc, err := os.ReadFile(filepath.Join(s.rootDir(id), rootRecordName))
	if err != nil {
		if _, err := os.Lstat(s.rootDir(id)); err != nil {
			return Root{}, false
		}
	}
	var rec rootRecord
	if json.Unmarshal(doc, &rec) != nil || rec.Version != recordVersion {
		rec = rootRecord{}
	}
	return s.plainRoot(id, &rec), true
}

// isRootID says whether an id can be a file's name that is none of ours.
func isRootID(id string) bool {
	return id != "" && !strings.HasPrefix(id, ".") && !strings.Contains(id, "/")
}

// hasPlain says whether there is a plain root, or what a killed removal left of it.
func (s *Store) hasPlain(id string) bool {
	if !isRootID(id) {
		return false
	}
	for _, name := range []string{id, oldRoot + id} {
		if _, err := os.Lstat(s.own(rootsDir, name)); err == nil {
			return true
		}
	}
	return false
}

// plains lists the plain roots.
func (s *Store) plains() (roots []Root, err error) {
	entries, err := os.ReadDir(s.own(rootsDir))
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if r, ok := s.plain(e.Name()); ok { // else it was removed meanwhile
			roots = append(roots, r)
		}
	}
	return roots, nil
}

// overlayOptions are the mount options of a plain root, as seen from the library's
// folder of layers. Too many layers, or layers of an older library, are an error.
func (s *Store) overlayOptions(id, layer string) (string, error) {
	dir := filepath.Join(s.cfg.Root, "overlay", layer)
	below, err := os.ReadFile(filepath.Join(dir, "lower-layers"))
	if errors.Is(err, fs.ErrNotExist) {
		if _, lerr := os.Lstat(filepath.Join(dir, "lower")); !errors.Is(lerr, fs.ErrNotExist) {
			return "", fmt.Errorf("layer %s: does not name those below it: %w", layer, errdefs.ErrFailedPrecondition)
		}
		err = nil // it is the lowest
	}
	if err != nil {
		return "", err
	}
	layers := []string{layer}
	if len(below) > 0 {
		layers = append(layers, strings.Split(string(below), ":")...)
	}
	at := "../rkt/" + rootsDir + "/" + id
	text := "lowerdir=" + strings.Join(layers, "/diff:") + "/diff,upperdir=" + at + "/diff,workdir=" + at + "/work"
	if len(text) >= os.Getpagesize() {
		return "", fmt.Errorf("layer %s: the names of %d layers do not fit into a page: %w", layer, len(layers), errdefs.ErrFailedPrecondition)
	}
	return text, nil
}

// mountPlain mounts a plain root, unless it is mounted.
func (s *Store) mountPlain(r *Root) (string, error) {
	merged := filepath.Join(s.rootDir(r.ID), "merged")
	var st unix.Statfs_t
	if err := unix.Statfs(merged, &st); err != nil {
		return "", err
	}
	if st.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return merged, nil
	}
	if r.layer == "" {
		return "", fmt.Errorf("its record is damaged: %w", errdefs.ErrDataLoss)
	}
	options, err := s.overlayOptions(r.ID, r.layer)
	if err != nil {
		return "", err
	}
	// From the folder of layers, so that their names are short, on a thread that has a
	// working folder of its own.
	err = thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Chdir(filepath.Join(s.cfg.Root, "overlay")); err != nil {
			return err
		}
		return unix.Mount("overlay", merged, "overlay", 0, options)
	})
	if err != nil {
		return "", fmt.Errorf("mount overlay of %s: %w", options, err)
	}
	return merged, nil
}

func (s *Store) unmountPlain(id string) error {
	err := unix.Unmount(filepath.Join(s.rootDir(id), "merged"), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) { // not mounted, or gone
		return nil
	}
	return err
}

// removePlain deletes a plain root. From the rename on there is none.
func (s *Store) removePlain(id string) error {
	if err := s.unmountPlain(id); err != nil {
		return err
	}
	old := s.own(rootsDir, oldRoot+id)
	err := os.Rename(s.rootDir(id), old)
	if errors.Is(err, fs.ErrExist) { // of an earlier root of this id
		if err := deleteRoot(old); err != nil {
			return err
		}
		err = os.Rename(s.rootDir(id), old)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return deleteRoot(old)
}

// deleteRoot deletes the files of a root. It refuses one that is still mounted.
func deleteRoot(dir string) error {
	if err := unix.Rmdir(filepath.Join(dir, "merged")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove mount point of %s: %w", dir, err)
	}
	return os.RemoveAll(dir)
}

// sweepRoots deletes what killed makers and removers of plain roots have left,
// unless a root is just being made.
func (s *Store) sweepRoots() error {
	unlock, err := s.lockRoots(unix.LOCK_EX | unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	entries, err := os.ReadDir(s.own(rootsDir))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), newRoot) || strings.HasPrefix(e.Name(), oldRoot) {
			if err := os.RemoveAll(s.own(rootsDir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
