package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
)

// NewUpCommand makes the command local-up.
func NewUpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "local-up",
		Short: "start a one-node cluster on this machine",
		Long: "Local-up starts etcd, the Kubernetes control plane, kube-proxy and a kubelet with the\n" +
			"runtime in its process, waits until the node is ready, deploys a demo and returns; the\n" +
			"cluster goes on in the background until local-down. A component that dies ends it.\n" +
			"On a folder that has a cluster it continues that one, with its pods.\n\n" +
			"Environment: CONTAINER_RUNTIME=rkt, or remote with CONTAINER_RUNTIME_ENDPOINT; RKT_PATH;\n" +
			"RKT_STAGE1_IMAGE (nspawn, lean, ...); LOG_LEVEL (a number, 2 if unset).",
		Example:      "  hyperkube local-up\n  hyperkube local-up --foreground --dir=/srv/cluster\n  RKT_STAGE1_IMAGE=lean hyperkube local-up --demo=false",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
	}
	getDir, getOptions := dirFlag(cmd), addFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		n, err := getDir()
		if err != nil {
			return err
		}
		o, err := getOptions()
		if err != nil {
			return err
		}
		if o.foreground {
			return n.up(cmd.Context(), o, cmd.Flags().Changed, cmd.OutOrStdout())
		}
		args := []string{"local-up", "--foreground"}
		cmd.Flags().Visit(func(f *pflag.Flag) { args = append(args, "--"+f.Name+"="+f.Value.String()) })
		return n.upInBackground(args, cmd.OutOrStdout())
	}
	return cmd
}

// upInBackground starts local-up --foreground as a process of its own and shows
// its progress until the cluster works or has failed.
func (n node) upInBackground(args []string, out io.Writer) error {
	if err := n.claim(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(n.upLog()), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(n.upLog(), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	before, err := log.Stat()
	if err != nil {
		return err
	}
	progress, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer progress.Close()
	cmd := self(args...)
	cmd.Env = append(os.Environ(), progressEnv+"=1")
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	theirs.Close()
	if showProgress(progress, out) {
		return cmd.Process.Release()
	}
	if err := cmd.Wait(); err != nil {
		said, rerr := io.ReadAll(io.NewSectionReader(log, before.Size(), 1<<62))
		return errors.Join(errors.New(strings.TrimPrefix(strings.TrimSpace(string(said)), "local-up: ")), rerr)
	}
	return nil
}

// showProgress copies lines of any length until one says that the cluster is
// ready, or they end.
func showProgress(from io.Reader, out io.Writer) (ready bool) {
	for r := bufio.NewReader(from); ; {
		line, err := r.ReadString('\n')
		if line == readyLine+"\n" {
			return true
		}
		io.WriteString(out, line)
		if err != nil {
			return false
		}
	}
}

// A local-up with progressEnv set shows its progress on the descriptor progressFD,
// to the one that started it; readyLine is the last line there.
const (
	progressEnv = "RKTSHIM_LOCAL_PROGRESS"
	progressFD  = 3
	readyLine   = "\x00ready"
)

// up runs the cluster until ctx ends, a signal comes, or a component dies.
func (n node) up(ctx context.Context, o options, given func(flag string) bool, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := n.claim(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(n.upLog()), 0o755); err != nil {
		return err
	}
	lock, err := n.lock()
	if errors.Is(err, errRunning) {
		return fmt.Errorf("a cluster runs in %s already; hyperkube local-down --dir=%s ends it", n.dir, n.dir)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := errors.Join(lock.Truncate(0), writePid(lock)); err != nil {
		return err
	}
	if o.settings, err = n.settle(o.settings, given); err != nil {
		return err
	}
	c := &cluster{children: n.newChildren(), options: o, progress: newProgress(out)}
	defer c.progress.close()
	if err := c.endOld(ctx); err != nil {
		return err
	}
	defer c.children.stop()
	if err := c.start(ctx); err != nil {
		if ctx.Err() != nil {
			return nil // it was asked to end
		}
		return err
	}
	c.progress.ready()
	select {
	case <-ctx.Done():
		return nil
	case k := <-c.died:
		return fmt.Errorf("the cluster ends, because a component did: %w", k.died())
	}
}

func writePid(f *os.File) error {
	_, err := f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	return err
}
