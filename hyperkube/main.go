// Hyperkube is a Kubernetes node in one binary: each of its commands is reached
// as a subcommand ("hyperkube kubelet") or by the name of a symlink to it
// ("kubelet").
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"
	"go.podman.io/storage/pkg/reexec"
	"golang.org/x/sys/unix"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"          // the kubelet's --logging-format=json
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // the kubelet's client metrics
	_ "k8s.io/component-base/metrics/prometheus/version"  // the kubelet's version metric
	"k8s.io/component-base/version"

	rkt "github.com/rktnetes/rktshim/cmd/rkt/cli"
	"github.com/rktnetes/rktshim/hyperkube/kubelet"
	"github.com/rktnetes/rktshim/hyperkube/local"
	"github.com/rktnetes/rktshim/rktshim"
)

// A command is one of the programs in this binary.
type command struct {
	name    string
	summary string
	run     func(args []string) (exitCode int)
}

// commands lists what this binary can be, in the order of the help text.
func commands() []command {
	all := []command{{"kubelet", "the Kubernetes node agent, with a container runtime inside (feature gate " + kubelet.Gate + ")", runKubelet}}
	all = append(all, components()...)
	return append(all, []command{
		{"rkt", "the operator's view of the node's pods and images", runRkt},
		{"local-up", "start a one-node cluster on this machine", func(args []string) int { return runCobra(local.NewUpCommand(), args) }},
		{"local-down", "end that cluster and remove every trace of it", func(args []string) int { return runCobra(local.NewDownCommand(), args) }},
		{"preflight", "check whether this machine can run a cluster of local-up", func(args []string) int { return runCobra(local.NewPreflightCommand(), args) }},
		{"version", "print the versions of Kubernetes and of " + rktshim.Name, printVersion},
	}...)
}

func main() {
	if reexec.Init() { // the storage library runs this program for some of its work
		return
	}
	os.Exit(dispatch(os.Args, os.Stdout, os.Stderr))
}

// dispatch finds the command by the name that the binary was called by, else by
// the first argument.
func dispatch(argv []string, stdout, stderr io.Writer) (exitCode int) {
	all := commands()
	if len(argv) > 0 {
		if c, ok := find(all, filepath.Base(argv[0])); ok {
			return c.run(argv[1:])
		}
		argv = argv[1:]
	}
	if len(argv) == 0 {
		help(stdout, all)
		return 0
	}
	if c, ok := find(all, argv[0]); ok {
		return c.run(argv[1:])
	}
	switch argv[0] {
	case "help", "-h", "--help":
		help(stdout, all)
		return 0
	case "--version":
		return printVersion(nil)
	}
	fmt.Fprintf(stderr, "hyperkube: unknown command %q; \"hyperkube help\" lists the known ones\n", argv[0])
	return 2
}

func find(all []command, name string) (command, bool) {
	for _, c := range all {
		if c.name == name {
			return c, true
		}
	}
	return command{}, false
}

func help(w io.Writer, all []command) {
	fmt.Fprintf(w, "A Kubernetes node in one binary.\n\nUsage:\n  hyperkube COMMAND [FLAGS]\n  or a symlink named COMMAND that points to hyperkube\n\nCommands:\n")
	for _, c := range all {
		fmt.Fprintf(w, "  %-24s %s\n", c.name, c.summary)
	}
	fmt.Fprintf(w, "  %-24s %s\n", "help", "this text")
	fmt.Fprintf(w, "\n\"hyperkube COMMAND --help\" lists the flags of a command.\n\nExample:\n  hyperkube kubelet --container-runtime=rkt --config=/var/lib/kubelet/config.yaml\n")
}

func runKubelet(args []string) int {
	cmd := kubelet.NewCommand(context.Background())
	cmd.SetArgs(args)
	return cli.Run(cmd)
}

// runRkt is the command rkt, with its own exit codes and error texts.
func runRkt(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	cmd := rkt.New()
	cmd.SetArgs(args)
	last, err := cmd.ExecuteContextC(ctx)
	return rkt.Exit(last, err)
}

// runCobra runs a command that is no log stream: its error is one plain line.
func runCobra(cmd *cobra.Command, args []string) int {
	cmd.SetArgs(args)
	cmd.SilenceErrors = true
	if err := cmd.ExecuteContext(context.Background()); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", cmd.Name(), err)
		return 1
	}
	return 0
}

func printVersion([]string) int {
	v := version.Get()
	fmt.Printf("Kubernetes %s\n%s %s\n%s %s/%s\n", v.GitVersion, rktshim.Name, rktshim.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return 0
}
