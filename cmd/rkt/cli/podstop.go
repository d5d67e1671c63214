package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/pod/operator"
)

func stopCommand(g *global) *cobra.Command {
	var u uuids
	var force bool
	cmd := &cobra.Command{
		Use:   "stop UUID ...",
		Short: "Stop pods",
		Long: `Asks running pods to end, prints their UUIDs and returns at once: apps get SIGTERM,
and SIGKILL ten seconds later; "rkt status --wait" waits for the end. With --force a
pod is killed, and is over when the command returns: its supervisor has ended, and
with it all apps.

It works with the kubelet up, hanging or down. A kubelet that is up starts the
containers of a pod that it should run in a new pod. A pod that has exited is left
as it is and is no error.`,
		Example: `  rkt stop 5bc080ca
  rkt stop --force=true 5bc080ca 3089337c`,
		Args: u.args(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := u.list(args)
			if err != nil {
				return err
			}
			n, err := g.node()
			if err != nil {
				return err
			}
			failed := 0
			for _, arg := range args {
				if err := stopOne(cmd, n, arg, force); err != nil {
					note(cmd, "%v", err)
					failed++
				}
			}
			if failed > 0 {
				return fmt.Errorf("failed to stop %d pod(s)", failed)
			}
			return nil
		},
	}
	u.bind(cmd)
	cmd.Flags().BoolVar(&force, "force", false, "kill the pod and wait until it is over")
	return cmd
}

func stopOne(cmd *cobra.Command, n *operator.Node, arg string, force bool) error {
	ctx := cmd.Context()
	s, err := look(ctx, n, arg)
	if err != nil {
		return fmt.Errorf("cannot get pod: %w", err)
	}
	switch {
	case s.Doomed || s.State == pod.Exited:
		fmt.Fprintf(cmd.OutOrStdout(), "pod %q is already stopped\n", s.ID)
		return nil
	case s.State != pod.Running:
		return fmt.Errorf("pod %q is not running", s.ID)
	case force:
		err = n.Kill(ctx, s.Pod)
	default:
		err = n.Terminate(ctx, s.ID)
	}
	if err != nil {
		return fmt.Errorf("error stopping pod: %w", err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%q\n", s.ID)
	return nil
}

func podRmCommand(g *global) *cobra.Command {
	var u uuids
	cmd := &cobra.Command{
		Use:   "rm UUID ...",
		Short: "Remove exited pods",
		Long: `Removes pods that have exited with all there is of them: apps, root filesystems,
network, records. Logs are the kubelet's and stay.

Where a kubelet runs, its engine removes the pod on behalf of the command; where
none runs, the command does so itself. A kubelet that holds the pods and hangs is an
error: end it first.`,
		Example: `  rkt rm 5bc080ca 3089337c
  rkt rm --uuid-file=/run/pod.uuid`,
		Args: u.args(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := u.list(args)
			if err != nil {
				return err
			}
			n, err := g.node()
			if err != nil {
				return err
			}
			failed := false
			for _, arg := range args {
				if err := removeOne(cmd, n, arg); err != nil {
					note(cmd, "%v", err)
					failed = true
				}
			}
			if failed {
				return errors.New("failed to remove one or more pods")
			}
			return nil
		},
	}
	u.bind(cmd)
	return cmd
}

func removeOne(cmd *cobra.Command, n *operator.Node, arg string) error {
	id, err := n.Find(arg)
	if err != nil {
		return fmt.Errorf("cannot get pod: %w", err)
	}
	s, err := n.Pod(cmd.Context(), id)
	switch {
	case err != nil && !errdefs.IsNotFound(err):
		return fmt.Errorf("pod %q is left alone, its record cannot be read: %w", id, err)
	case s.State == pod.Running:
		return fmt.Errorf("pod %q is currently running", id)
	}
	if err := n.RemoveExited(cmd.Context(), id); err != nil && !errdefs.IsNotFound(err) { // NotFound: gone by now
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%q\n", id)
	return nil
}

func podGCCommand(g *global) *cobra.Command {
	var spec pod.GCSpec
	var prepared time.Duration
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Remove pods that exited a while ago, and what no record explains",
		Long: `Marks pods that have exited as garbage, and removes those that were marked before
the grace period; with 0s it does both at once. It also finishes launches and
removals that were cut short, and removes what no record explains: cgroups and units
with all that lives in them, folders, mounts, network namespaces and root
filesystems of apps.

Where a kubelet runs, its engine does so on behalf of the command; where none runs,
the command does so itself. Running pods are left alone. Images have a collection of
their own, "rkt image gc".`,
		Example: `  rkt gc
  rkt gc --grace-period=0s
  rkt gc --mark-only`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if spec.Grace < 0 {
				return fmt.Errorf("--grace-period: %v is negative", spec.Grace)
			}
			n, err := g.node()
			if err != nil {
				return err
			}
			return gcPods(cmd.Context(), cmd, n, spec)
		},
	}
	cmd.Flags().DurationVar(&spec.Grace, "grace-period", 30*time.Minute, "how long an exited pod is kept after it was marked")
	cmd.Flags().DurationVar(&prepared, "expire-prepared", 24*time.Hour, "accepted for rkt's sake: no pod stays prepared here")
	cmd.Flags().BoolVar(&spec.MarkOnly, "mark-only", false, "mark exited pods and remove nothing")
	return cmd
}

func gcPods(ctx context.Context, cmd *cobra.Command, n *operator.Node, spec pod.GCSpec) error {
	c, err := n.GC(ctx, spec)
	for _, id := range c.Marked {
		note(cmd, "moving pod %q to garbage", id)
	}
	for _, id := range c.Waiting {
		note(cmd, "pod %q not removed: still within grace period (%v)", id, spec.Grace)
	}
	w := cmd.OutOrStdout()
	for _, id := range c.Removed {
		fmt.Fprintf(w, "Garbage collecting pod %q\n", id)
	}
	for _, kind := range []struct {
		what  string
		names []string
	}{{"cgroup of pod", c.Groups}, {"folder", c.RunFolders}, {"network namespace", c.Namespaces}, {"root filesystem", c.Roots}} {
		for _, name := range kind.names {
			fmt.Fprintf(w, "Garbage collecting %s %q\n", kind.what, name)
		}
	}
	return err
}
