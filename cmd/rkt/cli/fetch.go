package cli

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/image/archive"
	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
)

type fetchFlags struct {
	full     bool
	policy   choice
	names    []string
	authFile string
}

func fetchCommand(g *global) *cobra.Command {
	f := &fetchFlags{policy: choice{value: "update", allowed: []string{"never", "new", "update"}}}
	cmd := &cobra.Command{
		Use:   "fetch IMAGE...",
		Short: "Fetch images from registries or from local files",
		Long: `Fetches images into the local store and prints their ids, one a line; each is
the last line on standard output when its image is done.

IMAGE is a name in a registry, with or without docker:// in front, or a local
file or folder: an ACI, an OCI layout, or what docker save writes, compressed or
not; its content tells which. A path that starts with / or . is always local,
docker:// is always a registry; anything else is local if a file of that name
or an OCI layout is in the current folder. All images of a file are imported.

Registries and their mirrors are configured in registries.conf, signatures in
policy.json, both in /etc/containers. Credentials come from the containers auth
file, as skopeo login and podman login write it.`,
		Example: `  rkt fetch registry.example.com/app:1.2
  rkt fetch --insecure-options=image,http docker://localhost:5000/app
  rkt fetch ./app.aci
  rkt fetch ./saved.tar.gz --name=example.com/app:1.2
  rkt fetch --pull-policy=never --full app:1.2`,
		Args: atLeastOne("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := f.config(g)
			if err != nil {
				return err
			}
			return g.withStore(cmd.Context(), func(s *store.Store) error {
				return g.withScratch(func(dir string) error {
					return (&fetcher{fetchFlags: f, cmd: cmd, store: s, cfg: cfg, scratch: dir}).all(cmd.Context(), args)
				})
			})
		},
	}
	flags := cmd.Flags()
	flags.BoolVar(&f.full, "full", false, "print full ids")
	flags.Var(&f.policy, "pull-policy", "ask the registry never, only for a new image, or always; local files are always read")
	flags.StringArrayVar(&f.names, "name", nil, "`NAME` for the image of a local file, instead of its own; may be repeated")
	flags.StringVar(&f.authFile, "auth-file", "", "`FILE` with credentials for registries (default: the containers auth file)")
	return cmd
}

func (f *fetchFlags) config(g *global) (pull.Config, error) {
	cfg := pull.Config{AuthFile: f.authFile, Insecure: g.insecure.tls || g.insecure.http}
	if g.insecure.image {
		cfg.Policy = os.DevNull // accepts all
	}
	if f.authFile != "" {
		if _, err := os.Stat(f.authFile); err != nil {
			return cfg, fmt.Errorf("--auth-file: %w", err)
		}
	}
	for i, name := range f.names {
		named, err := store.ParseReference(name)
		if err != nil {
			return cfg, fmt.Errorf("--name: %w", err)
		}
		f.names[i] = named.String()
	}
	return cfg, nil
}

// fetcher does the work of one fetch command.
type fetcher struct {
	*fetchFlags
	cmd     *cobra.Command
	store   *store.Store
	cfg     pull.Config
	scratch string // for large temporary files
}

func (f *fetcher) all(ctx context.Context, args []string) error {
	if len(f.names) > 0 && len(args) != 1 {
		return errors.New("--name: want one IMAGE with it")
	}
	for _, arg := range args {
		path, err := localPath(arg)
		if err == nil && path != "" {
			err = f.file(ctx, path)
		} else if err == nil {
			err = f.registry(ctx, arg)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// localPath returns the path that arg means, or "" where it names an image in a
// registry.
func localPath(arg string) (string, error) {
	switch scheme, rest, found := strings.Cut(arg, "://"); {
	case found && scheme == "file":
		return rest, nil
	case found && scheme == "docker":
		return "", nil
	case found:
		return "", fmt.Errorf("%s: cannot fetch from %s://, download the file and give its path", arg, scheme)
	case strings.HasPrefix(arg, "/"), strings.HasPrefix(arg, "."):
		return arg, nil
	}
	info, err := os.Stat(arg)
	if err != nil {
		return "", nil
	}
	if _, err := os.Stat(filepath.Join(arg, "oci-layout")); info.Mode().IsRegular() || err == nil {
		return arg, nil
	}
	return "", nil
}

func (f *fetcher) file(ctx context.Context, path string) error {
	kind, images, err := archive.Open(ctx, path)
	if err != nil {
		return err
	}
	if len(f.names) > 0 && len(images) != 1 {
		return fmt.Errorf("--name: %s holds %d images, a name is for one", path, len(images))
	}
	note(f.cmd, "reading %s as %s", path, kind)
	cfg := f.cfg
	cfg.StallTimeout = math.MaxInt64 // a file cannot stall, but to look through it may take minutes
	engine := pull.New(f.store, cfg)
	for _, img := range images {
		ref, err := archive.ParseReference(img.Ref)
		if err != nil {
			return err
		}
		names := img.Names
		if len(f.names) > 0 {
			names = f.names
		} else if img.Note != "" {
			note(f.cmd, "%s, --name gives one", img.Note)
		}
		err = f.run(engine, func(p pull.Progress) (pull.Result, error) {
			return engine.Import(ctx, archive.Within(ref, f.scratch), names, p)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (f *fetcher) registry(ctx context.Context, arg string) error {
	if len(f.names) > 0 {
		return fmt.Errorf("--name: %s is not a local file, its name is given", arg)
	}
	name := strings.TrimPrefix(arg, dockerPrefix)
	if f.policy.value != "update" {
		img, err := f.store.Get(name)
		switch {
		case err == nil:
			return f.print(img.ID)
		case !errdefs.IsNotFound(err):
			return err
		case f.policy.value == "never":
			return fmt.Errorf("%s is not in the local store, and --pull-policy=never forbids to ask its registry", arg)
		}
	}
	named, err := store.ParseReference(name)
	if err != nil {
		return err
	}
	note(f.cmd, "fetching %s", named)
	engine := pull.New(f.store, f.cfg)
	return f.run(engine, func(p pull.Progress) (pull.Result, error) {
		return engine.Pull(ctx, pull.Request{Image: name}, p)
	})
}

// run shows the progress of one fetch and prints its id.
func (f *fetcher) run(engine *pull.Engine, fetch func(pull.Progress) (pull.Result, error)) error {
	shown := showProgress(f.cmd)
	res, err := fetch(shown.event)
	engine.Wait() // for what it gave up, if it failed
	shown.stop()
	if err != nil {
		return err
	}
	for _, name := range res.Names {
		note(f.cmd, "named %s", name)
	}
	if err := f.checkPlatform(res.ID); err != nil {
		return err
	}
	return f.print(res.ID)
}

// checkPlatform notes an image that was made for other machines. It may still
// be wanted here, to be exported or run by emulation.
func (f *fetcher) checkPlatform(id string) error {
	img, err := f.store.Get(id)
	if err != nil {
		return err
	}
	if arch := img.Config.Architecture; arch != "" && arch != runtime.GOARCH {
		note(f.cmd, "the image is for %s, this machine is %s", arch, runtime.GOARCH)
	}
	return nil
}

func (f *fetcher) print(id string) error {
	_, err := fmt.Fprintln(f.cmd.OutOrStdout(), showID(id, f.full))
	return err
}
