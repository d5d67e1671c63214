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
	format := jsonFormat()
	cmd := &cobra.Command{
		Use:   "rm IMAGE...",
		Short: "Remove images from the local store",
		Long: `Removes each image with all its names, and the layers that no other image uses.

IMAGE is an id, the start of one, or a name. An image that is not there is
reported and is no error, as with rkt. One that a container uses stays, and
the command fails after it has tried the others. JSON is the list of the ids
that were removed.`,
		Example: `  rkt image rm sha256:2f0a7c4d91be
  rkt image rm registry.example.com/app:1.2`,
		Args: atLeastOne("IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return g.withStoreIfAny(cmd.Context(), func(s *store.Store) error { return remove(cmd, s, args, format.value) })
		},
	}
	cmd.Flags().Var(&format, "format", "print JSON instead of lines, on one line or indented")
	return cmd
}

func remove(cmd *cobra.Command, s *store.Store, args []string, format string) error {
	var errs []error
	done := []string{}
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
		done = append(done, id)
		if format == "" {
			printRemoved(cmd, id)
		}
	}
	if format != "" {
		errs = append(errs, printJSON(cmd.OutOrStdout(), done, format == "json-pretty"))
	}
	if len(done) > 0 {
		note(cmd, "%d image(s) successfully removed", len(done))
	}
	return errors.Join(errs...)
}

func printRemoved(cmd *cobra.Command, id string) {
	fmt.Fprintf(cmd.OutOrStdout(), "successfully removed image: %q\n", id)
}

func gcCommand(g *global) *cobra.Command {
	var grace time.Duration
	format := jsonFormat()
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
				return collect(cmd, s, grace, format.value)
			})
		},
	}
	cmd.Flags().DurationVar(&grace, "grace-period", 24*time.Hour, "how long an image must have been unused")
	cmd.Flags().Var(&format, "format", "print JSON instead of lines, on one line or indented")
	return cmd
}

// collected is what a garbage collection says in JSON.
type collected struct {
	Images []string `json:"images"` // their ids
	Layers int      `json:"layers"` // removed beside those of the images
}

func collect(cmd *cobra.Command, s *store.Store, grace time.Duration, format string) (err error) {
	var res store.GCResult
	if s != nil {
		res, err = s.GC(cmd.Context(), store.GCOptions{Grace: grace, Images: true})
	}
	if format != "" {
		out := collected{append([]string{}, res.Images...), res.Layers}
		err = errors.Join(err, printJSON(cmd.OutOrStdout(), out, format == "json-pretty"))
	} else {
		for _, id := range res.Images {
			printRemoved(cmd, id)
		}
	}
	note(cmd, "%d image(s) and %d unused layer(s) removed", len(res.Images), res.Layers)
	return err
}
