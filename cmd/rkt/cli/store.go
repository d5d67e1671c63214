package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/rundir"
)

// config tells where the store of --dir is.
func (g *global) config() (store.Config, error) {
	dir, err := filepath.Abs(g.dir)
	if err != nil {
		return store.Config{}, fmt.Errorf("--dir: %w", err)
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	run := g.runDir
	switch {
	case run == "":
		if run, err = rundir.Of(dir); err != nil {
			return store.Config{}, fmt.Errorf("--dir: %w", err)
		}
	case !filepath.IsAbs(run):
		return store.Config{}, fmt.Errorf("--run-dir: %q is not an absolute path", run)
	}
	return store.Config{Root: filepath.Join(dir, "images"), RunRoot: filepath.Join(run, "images")}, nil
}

// withStore runs work on the opened store.
func (g *global) withStore(ctx context.Context, work func(*store.Store) error) (err error) {
	cfg, err := g.config()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("the image store belongs to root: run this as root")
	}
	s, err := store.Open(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	return work(s)
}

// find looks an image up by what an operator types: an id, the start of one, or
// a name, which may carry rkt's prefix docker://.
func find(s *store.Store, arg string) (*store.Image, error) {
	img, err := s.Get(strings.TrimPrefix(arg, dockerPrefix))
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("cannot find an image satisfying %q in the local store: %w", arg, errdefs.ErrNotFound)
	}
	return img, err
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
