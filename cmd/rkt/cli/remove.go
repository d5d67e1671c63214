package cli

import (
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/image/store"
)

func rmCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove images from the local store",
		Long: `Removes each image with all its names, and the layers that no other image uses.

IMAGE is an id, the start of one, or a name. An image that is not there is
reported and is no error, as with rkt. One that a container uses stays, and
the command fails after it has tried the others.`,
		Example: `  rkt image rm sha256:2f0a7c4d91be
  rkt image rm registry.example.com/app:1.2`,
		Args: atLeastOne("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withStoreIfAny(cmd.Context(), func(s *store.Store) error { return remove(cmd, s, args) })
		},
	}
}

func remove(cmd *cobra.Command, s *store.Store, args []string) error {
	var errs []error
	done := 0
	for _, arg := range args {
		id, err := findID(s, arg)
		if errdefs.IsNotFound(err) {
			note(cmd, "%v", err)
			continue
		}
		if err == nil {
			err = s.Remove(id)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		done++
		fmt.Fprintf(cmd.OutOrStdout(), "successfully removed image: %q\n", id)
	}
	if done > 0 {
		note(cmd, "%d image(s) successfully removed", done)
	}
	return errors.Join(errs...)
}

func gcCommand(g *global) *cobra.Command {
	var grace time.Duration
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove images that have not been used for a while",
		Long: `Removes images that no container uses and that were last pulled or given to a
container before the grace period, and layers that no image uses. What a killed
pull has left is removed too. While a pull runs, layers cannot be collected and
the command fails; try again later.

Images that the kubelet pins are the kubelet's to know: on a node, prefer its
own image garbage collection.`,
		Example: `  rkt image gc
  rkt image gc --grace-period=0s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if grace < 0 {
				return fmt.Errorf("--grace-period: %v is negative", grace)
			}
			return g.withStoreIfAny(cmd.Context(), func(s *store.Store) error {
				var res store.GCResult
				var err error
				if s != nil {
					res, err = s.GC(cmd.Context(), store.GCOptions{Grace: grace, Images: true})
				}
				for _, id := range res.Images {
					fmt.Fprintf(cmd.OutOrStdout(), "successfully removed image: %q\n", id)
				}
				note(cmd, "%d image(s) and %d unused layer(s) removed", len(res.Images), res.Layers)
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&grace, "grace-period", 24*time.Hour, "how long an image must have been unused")
	return cmd
}
