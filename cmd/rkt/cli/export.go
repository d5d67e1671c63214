package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

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
					return export(cmd.Context(), s, img, target{archive.Kind(kind.value), file, overwrite, dir})
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
	kind      archive.Kind
	file      string
	overwrite bool
	scratch   string // for large temporary files
}

// export writes a file that has no name yet, and names it at the end.
func export(ctx context.Context, s *store.Store, img *store.Image, to target) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("export image %s: %w", img.ID, err)
		}
	}()
	out, err := newOutput(to.file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := to.write(ctx, s, img, out.File); err != nil {
		return err
	}
	return out.commit(to.overwrite)
}

// write copies the image to a file. The library makes docker's archive in place,
// but OCI's only by a name: that one is a layout, made beforehand, in a tar.
func (to target) write(ctx context.Context, s *store.Store, img *store.Image, out *os.File) error {
	name := ""
	if len(img.Tags) > 0 {
		name = img.Tags[0]
	}
	if to.kind == archive.Docker {
		if name == "" {
			return errors.New("a docker-archive needs a tag and the image has none, use --archive=oci-archive")
		}
		return to.copy(ctx, s, img, fmt.Sprintf("%s:/proc/self/fd/%d:%s", archive.Docker, out.Fd(), name))
	}
	layout := filepath.Join(to.scratch, "layout")
	if err := to.copy(ctx, s, img, fmt.Sprintf("%s:%s:%s", archive.OCILayout, layout, name)); err != nil {
		return err
	}
	w := tar.NewWriter(out)
	if err := w.AddFS(os.DirFS(layout)); err != nil {
		return err
	}
	return w.Close()
}

func (to target) copy(ctx context.Context, s *store.Store, img *store.Image, ref string) (err error) {
	dst, err := archive.ParseReference(ref)
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
	return err
}
