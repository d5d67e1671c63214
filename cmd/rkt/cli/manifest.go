package cli

import (
	"bytes"
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/image/store"
)

func catManifestCommand(g *global) *cobra.Command {
	var config, pretty bool
	cmd := &cobra.Command{
		Use:   "cat-manifest IMAGE",
		Short: "Print the manifest of an image",
		Long: `Prints the image's manifest, or with --config its config, as the registry
served it: an OCI or a Docker one. An image that was imported from an ACI has an
OCI manifest; what OCI has no field for is in its annotations, see appc.io/.`,
		Example: `  rkt image cat-manifest registry.example.com/app:1.2
  rkt image cat-manifest sha256:2f0a7c4d91be --config | jq .config.Entrypoint`,
		Args: exactly("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withStoreIfAny(cmd.Context(), func(s *store.Store) error {
				img, err := find(s, args[0])
				if err != nil {
					return err
				}
				raw, err := s.RawManifest(img.ID)
				if config {
					raw, err = s.RawConfig(img.ID)
				}
				if err != nil {
					return err
				}
				return printRaw(cmd, raw, pretty)
			})
		},
	}
	cmd.Flags().BoolVar(&config, "config", false, "print the image's config instead")
	cmd.Flags().BoolVar(&pretty, "pretty-print", true, "indent the JSON; false prints the bytes that the digest is of")
	return cmd
}

func printRaw(cmd *cobra.Command, raw []byte, pretty bool) error {
	if pretty {
		var out bytes.Buffer
		if err := json.Indent(&out, raw, "", "\t"); err != nil {
			return fmt.Errorf("indent the manifest: %w", err)
		}
		out.WriteByte('\n')
		raw = out.Bytes()
	}
	_, err := cmd.OutOrStdout().Write(raw)
	return err
}
