package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version is rkt's version. The build sets it with -ldflags -X; else it is the
// one that the Go tool recorded.
var Version = buildVersion()

// appcVersion is the version of the appc specification that image/aci reads.
const appcVersion = "0.8.11"

func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "unknown"
	}
	return info.Main.Version
}

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version of rkt and of what it is made with",
		Long:    "Prints one line each for the versions of rkt, of appc's image format and of Go, and for the platform.",
		Example: "  rkt version",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "rkt Version: %s\nappc Version: %s\nGo Version: %s\nGo OS/Arch: %s/%s\n",
				Version, appcVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
