package cli

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"go.podman.io/storage"

	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/rundir"
)

// folders tells where the node of --dir keeps its data.
func (g *global) folders() (rundir.Folders, error) {
	switch {
	case g.dir == "": // else it would be the current folder
		return rundir.Folders{}, errors.New("--dir: it is empty, give the folder of rkt's data")
	case g.runDir != "" && !filepath.IsAbs(g.runDir):
		return rundir.Folders{}, fmt.Errorf("--run-dir: %q is not an absolute path", g.runDir)
	}
	f, err := rundir.Find(g.dir, g.runDir)
	if err == nil && os.Geteuid() != 0 {
		err = errors.New("pods and images belong to root: run this as root")
	}
	return f, err
}

// storeOf tells where a node's image store is, as the kubelet does.
func storeOf(f rundir.Folders) store.Config {
	return store.Config{Root: f.Images(), RunRoot: f.ImagesRun()}
}

// withStore runs work on the opened store, which is made if it is not there.
func (g *global) withStore(ctx context.Context, work func(*store.Store) error) error {
	f, err := g.folders()
	if err != nil {
		return err
	}
	return onStore(ctx, f, work)
}

// withStoreIfAny is withStore for commands that have no reason to make a store.
// Where none is, work gets nil and must do as with an empty one.
func (g *global) withStoreIfAny(ctx context.Context, work func(*store.Store) error) error {
	f, err := g.folders()
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(storeOf(f).Root)
	if errors.Is(err, os.ErrNotExist) || err == nil && len(entries) == 0 {
		return work(nil)
	}
	return onStore(ctx, f, work) // it says more of what cannot be read
}

func onStore(ctx context.Context, f rundir.Folders, work func(*store.Store) error) (err error) {
	cfg := storeOf(f)
	if err := f.Record(); err != nil {
		return fmt.Errorf("open image store %s: %w", cfg.Root, err)
	}
	s, err := store.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return work(s)
}

// find looks an image up by what an operator types: an id, the start of one, or
// a name, which may carry rkt's prefix docker://. Without a store there is none.
func find(s *store.Store, arg string) (*store.Image, error) {
	if s == nil {
		return nil, notFound(arg)
	}
	img, err := s.Get(strings.TrimPrefix(arg, dockerPrefix))
	if errdefs.IsNotFound(err) {
		return nil, notFound(arg)
	}
	return img, err
}

// findID is find for what is done to an image whose records on the disk are
// damaged as well. Such a one is found by a name or by its whole id.
func findID(s *store.Store, arg string) (string, error) {
	img, err := find(s, arg)
	if err == nil {
		return img.ID, nil
	}
	if s == nil || !errdefs.IsNotFound(err) {
		return "", err
	}
	key := strings.TrimPrefix(arg, "sha256:")
	if len(key) != sha256.Size*2 {
		named, parseErr := store.ParseReference(strings.TrimPrefix(arg, dockerPrefix))
		if parseErr != nil {
			return "", err // the start of an id
		}
		key = named.String()
	}
	rec, recErr := s.Library().Image(key)
	switch {
	case errors.Is(recErr, storage.ErrImageUnknown):
		return "", err
	case recErr != nil:
		return "", fmt.Errorf("find image %q: %w", arg, recErr)
	}
	return "sha256:" + rec.ID, nil
}

func notFound(arg string) error {
	return fmt.Errorf("cannot find an image satisfying %q in the local store: %w", arg, errdefs.ErrNotFound)
}

const dockerPrefix = "docker://"

// shortID is an id as it is shown without --full. Every command accepts it.
func shortID(id string) string { return id[:min(len(id), len("sha256:")+12)] }

func showID(id string, full bool) string {
	if full {
		return id
	}
	return shortID(id)
}
