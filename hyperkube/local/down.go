package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"
)

// NewDownCommand makes the command local-down.
func NewDownCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:          "local-down",
		Short:        "stop the node that local-up started and remove it",
		Long:         "Local-down stops the node and removes its folder, mounts and cgroups. It\nsays what it removed. A node that does not exist is no error.",
		Example:      "  hyperkube local-down\n  hyperkube local-down --dir=/srv/node",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
	}
	get := dirFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		n, err := get()
		if err != nil {
			return err
		}
		return n.down(cmd.Context(), cmd.OutOrStdout())
	}
	return cmd
}

// down refuses a folder that no local-up has made: it is going to be removed.
func (n node) down(ctx context.Context, out io.Writer) error {
	if _, err := os.Stat(n.dir); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(out, "nothing to stop: there is no %s\n", n.dir)
		return nil
	}
	if err := n.check(); err != nil {
		return err
	}
	lock, err := n.lock()
	if errors.Is(err, errRunning) {
		lock, err = n.stop(ctx, out)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := n.endKubelet(ctx); err != nil {
		return err
	}
	removed, err := n.removeTraces()
	for _, what := range removed {
		fmt.Fprintf(out, "removed %s\n", what)
	}
	return err
}

// stop ends the local-up that runs the node and returns with its lock.
func (n node) stop(ctx context.Context, out io.Writer) (*os.File, error) {
	pid, err := n.pid()
	if err != nil {
		return nil, err
	}
	if err := end(ctx, pid, func() bool { return runsLocalUp(pid) }); err != nil {
		return nil, fmt.Errorf("stop local-up: %w", err)
	}
	lock, err := n.lock()
	if errors.Is(err, errRunning) {
		return nil, fmt.Errorf("another process than local-up holds %s: find it with fuser(1) and end it", n.lockFile())
	}
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "stopped the node (process %d)\n", pid)
	return lock, nil
}
