package preflight

import (
	"errors"

	"github.com/spf13/cobra"
)

// NewCommand makes the command preflight; config gives what is asked about, once
// the flags are parsed.
func NewCommand(addFlags func(*cobra.Command) func() (Config, error)) *cobra.Command {
	cmd := &cobra.Command{
		Use:           "preflight",
		Short:         "check whether this machine can run a cluster of local-up",
		Long:          "Preflight prints what local-up needs of this machine, what it found, and what to do\nabout what is missing. It changes nothing. It takes local-up's environment and flags.",
		Example:       "  hyperkube preflight\n  RKT_STAGE1_IMAGE=lean hyperkube preflight --dir=/srv/cluster",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	config := addFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := config()
		if err != nil {
			return err
		}
		results := Run(cmd.Context(), c)
		Print(cmd.OutOrStdout(), results)
		for _, r := range results {
			if r.Status == Missing {
				return errors.New("something is missing: see the remedies")
			}
		}
		return nil
	}
	return cmd
}
