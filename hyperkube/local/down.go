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
	"k8s.io/klog/v2"
)

// NewDownCommand makes the command local-down.
func NewDownCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "local-down",
		Short: "end that cluster and remove it",
		Long: "Local-down ends the cluster and its pods and removes every trace: processes, mounts,\n" +
			"networks, cgroups, the chains of iptables, sysctls that were changed, and its folder\n" +
			"with all data. It says what it removed. A cluster that does not exist is no error.",
		Example:      "  hyperkube local-down\n  hyperkube local-down --dir=/srv/cluster",
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
	if err := errors.Join(n.isCluster(), n.enter()); err != nil {
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
	if err := n.endOld(ctx); err != nil {
		return err
	}
	return n.remove(ctx, out)
}

// remove removes pods politely, then by force what is left of them, then the rest.
func (n node) remove(ctx context.Context, out io.Writer) error {
	note := func(done string, things ...string) {
		for _, thing := range things {
			fmt.Fprintln(out, done, thing)
		}
	}
	klog.LogToStderr(false) // of the runtime that removes the pods: errors are returned as well
	klog.SetOutput(io.Discard)
	pods, err := n.removePods(ctx)
	if pods > 0 {
		note("removed", fmt.Sprintf("%d pods with their networks", pods))
	}
	if err != nil {
		fmt.Fprintf(out, "some pods did not end in order, and are ended by force: %v\n", err)
	}
	return n.removeTraces(ctx, note)
}

// upPatience is how long local-up may take to end its components.
const upPatience = 2 * time.Minute

// stop ends the local-up that runs the cluster and returns with its lock.
func (n node) stop(ctx context.Context, out io.Writer) (*os.File, error) {
	pid, err := n.pid()
	if err != nil {
		return nil, err
	}
	if err := end(ctx, pid, upPatience, func() bool { return runsLocalUp(pid) }); err != nil {
		return nil, fmt.Errorf("stop local-up: %w", err)
	}
	lock, err := n.lock()
	if errors.Is(err, errRunning) {
		return nil, fmt.Errorf("another process than local-up holds %s: find it with fuser(1) and end it", n.lockFile())
	}
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(out, "stopped the cluster (process %d and its components)\n", pid)
	return lock, nil
}
