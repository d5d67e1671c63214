package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/rktnetes/rktshim/image/archive"
	"github.com/rktnetes/rktshim/image/store"
)

func exportCommand(g *global) *cobra.Command {
	format := oneOf(string(archive.OCITar), string(archive.Docker))
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "export IMAGE FILE",
		Short: "Write an image to a file",
		Long: `Writes the image as a tar archive: an OCI layout, or what docker load reads.
The file appears whole or not at all. rkt fetch FILE, skopeo, podman and ctr read
both; the image's first tag goes with it.`,
		Example: `  rkt image export registry.example.com/app:1.2 app.oci.tar
  rkt image export sha256:2f0a7c4d91be app.tar --format=docker-archive`,
		Args: exactly("IMAGE", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			if _, err := os.Lstat(file); err == nil && !overwrite {
				return fmt.Errorf("%s exists already, give --overwrite to replace it", args[1])
			}
			return g.withStore(cmd.Context(), func(s *store.Store) error {
				img, err := find(s, args[0])
				if err != nil {
					return err
				}
				return export(cmd.Context(), s, img, archive.Kind(format.value), file)
			})
		},
	}
	cmd.Flags().Var(&format, "format", "what to write")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace FILE if it exists")
	return cmd
}

// export writes beside file and renames at the end.
func export(ctx context.Context, s *store.Store, img *store.Image, kind archive.Kind, file string) (err error) {
	dir, err := os.MkdirTemp(filepath.Dir(file), ".rkt-export-")
	if err != nil {
		return fmt.Errorf("export image %s: %w", img.ID, err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tmp := filepath.Join(dir, "image")
	dst, err := target(kind, tmp, img)
	if err != nil {
		return fmt.Errorf("export image %s: %w", img.ID, err)
	}
	src, err := s.Reference(img.ID)
	if err != nil {
		return err
	}
	// The policy is about what comes in.
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return fmt.Errorf("export image %s: %w", img.ID, err)
	}
	defer func() { err = errors.Join(err, policy.Destroy()) }()
	sys := &types.SystemContext{BigFilesTemporaryDir: dir}
	_, err = copy.Image(ctx, policy, dst, src, &copy.Options{SourceCtx: sys, DestinationCtx: sys, RemoveSignatures: true})
	if err != nil {
		return fmt.Errorf("export image %s: %w", img.ID, err)
	}
	if err := os.Rename(tmp, file); err != nil {
		return fmt.Errorf("export image %s: %w", img.ID, err)
	}
	return nil
}

// target is the archive at path, under the image's first tag.
func target(kind archive.Kind, path string, img *store.Image) (types.ImageReference, error) {
	if strings.Contains(path, ":") {
		return nil, errors.New("the folder of FILE has a colon in its path, choose another")
	}
	name := ""
	for _, tag := range img.Tags {
		named, err := reference.ParseNormalizedNamed(tag)
		if _, isTag := named.(reference.NamedTagged); err == nil && isTag {
			name = tag
			break
		}
	}
	if kind == archive.Docker && name == "" {
		return nil, errors.New("a docker-archive needs a tag and the image has none, use --format=oci-archive")
	}
	return archive.ParseReference(fmt.Sprintf("%s:%s:%s", kind, path, name))
}
