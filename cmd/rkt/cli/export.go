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
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/rktnetes/rktshim/image/archive"
	"github.com/rktnetes/rktshim/image/store"
)

func exportCommand(g *global) *cobra.Command {
	kind := oneOf(string(archive.OCITar), string(archive.Docker))
	format := jsonFormat()
	var overwrite bool
	cmd := &cobra.Command{
		Use:   "export IMAGE FILE",
		Short: "Write an image to a file",
		Long: `Writes the image as a tar archive: an OCI layout, or what docker load reads.
The file appears whole or not at all. rkt fetch FILE, skopeo, podman and ctr read
both; the image's first tag goes with it.`,
		Example: `  rkt image export registry.example.com/app:1.2 app.oci.tar
  rkt image export sha256:2f0a7c4d91be app.tar --archive=docker-archive`,
		Args: exactly("IMAGE", "FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			file, err := filepath.Abs(args[1])
			if err != nil {
				return err
			}
			if _, err := os.Lstat(file); err == nil && !overwrite {
				return fmt.Errorf("%s exists already, give --overwrite to replace it", args[1])
			}
			return g.withStoreIfAny(cmd.Context(), func(s *store.Store) error {
				img, err := find(s, args[0])
				if err != nil {
					return err
				}
				err = g.withScratch(func(dir string) error {
					return export(cmd.Context(), s, img, target{archive.Kind(kind.value), file, dir})
				})
				if err != nil || format.value == "" {
					return err
				}
				return printJSON(cmd.OutOrStdout(), exported{img.ID, file, kind.value}, format.value == "json-pretty")
			})
		},
	}
	cmd.Flags().Var(&kind, "archive", "what to write")
	cmd.Flags().Var(&format, "format", "print what was written as JSON, on one line or indented")
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace FILE if it exists")
	return cmd
}

// exported is what the command says in JSON.
type exported struct {
	ID      string `json:"id"`
	File    string `json:"file"`
	Archive string `json:"archive"`
}

// target is the file that an export writes.
type target struct {
	kind    archive.Kind
	file    string
	scratch string // for large temporary files
}

// export writes beside the file and renames at the end.
func export(ctx context.Context, s *store.Store, img *store.Image, to target) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("export image %s: %w", img.ID, err)
		}
	}()
	dir, err := os.MkdirTemp(filepath.Dir(to.file), ".rkt-export-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	tmp := filepath.Join(dir, "image")
	dst, err := to.reference(tmp, img)
	if err != nil {
		return err
	}
	src, err := s.Reference(img.ID)
	if err != nil {
		return err
	}
	// The policy is about what comes in.
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, policy.Destroy()) }()
	sys := &types.SystemContext{BigFilesTemporaryDir: to.scratch}
	_, err = copy.Image(ctx, policy, dst, src, &copy.Options{SourceCtx: sys, DestinationCtx: sys, RemoveSignatures: true})
	if err != nil {
		return err
	}
	return os.Rename(tmp, to.file)
}

// reference is the archive at path, under the image's first tag.
func (to target) reference(path string, img *store.Image) (types.ImageReference, error) {
	if strings.Contains(path, ":") {
		return nil, errors.New("the folder of FILE has a colon in its path, choose another")
	}
	name := ""
	if len(img.Tags) > 0 {
		name = img.Tags[0]
	}
	if to.kind == archive.Docker && name == "" {
		return nil, errors.New("a docker-archive needs a tag and the image has none, use --archive=oci-archive")
	}
	return archive.ParseReference(fmt.Sprintf("%s:%s:%s", to.kind, path, name))
}
