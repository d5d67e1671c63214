package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/internal/version"
)

// appcVersion is the version of the appc specification that image/aci reads.
const appcVersion = "0.8.11"

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of rkt and of what it is made with",
		Long:    "Prints one line each for the versions of rkt, of appc's image format and of Go, and for the platform.",
		Example: "  rkt version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "rkt Version: %s\nappc Version: %s\nGo Version: %s\nGo OS/Arch: %s/%s\nFeatures: -TPM -SDJOURNAL\n",
				version.Version, appcVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
