package cli

import (
	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/image/archive"
	"github.com/rktnetes/rktshim/image/worker"
)

// workerCommand is what the kubelet starts to pull images outside of itself.
func workerCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "image-worker",
		Short:   "Pull images on behalf of the kubelet",
		Long:    "Serves pulls over the socket that it was started with as file descriptor 3. It is no use to operators.",
		Example: "  rkt image-worker",
		Hidden:  true,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return worker.Main(cmd.Context(), archive.ParseReference)
		},
	}
}
