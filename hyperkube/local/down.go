package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
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
	if _, err := os.Stat(n.lockFile()); err != nil {
		return fmt.Errorf("%s is not the folder of a node: %w", n.dir, err)
	}
	lock, err := n.lock()
	if errors.Is(err, errRunning) {
		lock, err = n.stop(ctx, out)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
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
	if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("stop local-up (process %d): %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*stopPatience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		lock, err := n.lock()
		if !errors.Is(err, errRunning) {
			fmt.Fprintf(out, "stopped the node (process %d)\n", pid)
			return lock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("local-up (process %d) did not end within %s", pid, 2*stopPatience)
		case <-tick.C:
		}
	}
}
