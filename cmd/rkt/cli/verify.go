package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/image/store"
)

// errDamaged is of a verify that worked and found damage.
var errDamaged = errors.New("damaged images found, fetch them again to repair them")

func verifyCommand(g *global) *cobra.Command {
	format := jsonFormat()
	cmd := &cobra.Command{
		Use:   "verify [IMAGE...]",
		Short: "Compare images on disk with what was fetched",
		Long: `Reads every file of the images, of all if none is named, and compares it with
what was fetched. Damage is printed, and marked in the store: fetching the image
again then replaces exactly the damaged layers. The exit code is 254 if any
image is damaged.`,
		Example: `  rkt image verify
  rkt image verify registry.example.com/app:1.2 --format=json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withStoreIfAny(cmd.Context(), func(s *store.Store) error { return verify(cmd, s, args, format.value) })
		},
	}
	cmd.Flags().Var(&format, "format", "print JSON instead of lines, on one line or indented")
	return cmd
}

func verify(cmd *cobra.Command, s *store.Store, args []string, format string) error {
	found := []store.Verified{}
	if len(args) == 0 && s != nil {
		args = []string{""}
	}
	for _, arg := range args {
		id := ""
		if arg != "" {
			var err error
			if id, err = findID(s, arg); err != nil {
				return err
			}
		}
		v, err := s.Verify(cmd.Context(), id)
		if err != nil {
			return err
		}
		found = append(found, v...)
	}
	if format != "" {
		if err := printJSON(cmd.OutOrStdout(), found, format == "json-pretty"); err != nil {
			return err
		}
	}
	var err error
	for _, v := range found {
		if len(v.Damage) > 0 {
			err = errDamaged
		}
		if format == "" {
			printVerified(cmd, v)
		}
	}
	return err
}

func printVerified(cmd *cobra.Command, v store.Verified) {
	if len(v.Damage) == 0 {
		fmt.Fprintf(cmd.OutOrStdout(), "%s ok\n", v.ID)
		return
	}
	for _, d := range v.Damage {
		where := "the image's own"
		if d.Layer != "" {
			where = "layer " + d.Layer[:min(len(d.Layer), 12)]
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s damaged: %s %s: %s\n", v.ID, where, d.Path, d.Problem)
	}
}
