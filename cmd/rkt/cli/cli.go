// Package cli holds the commands of rkt. They are linked into the program rkt
// and into hyperkube:
//
//	cmd, err := cli.New().ExecuteContextC(ctx)
//	os.Exit(cli.Exit(cmd, err))
//
// main must call reexec.Init of go.podman.io/storage first.
//
// Names, flags, exit codes and the split of output follow rkt 1.30: results go
// to standard output, progress and errors to standard error, each line of which
// starts with the command's last word ("fetch: ..."). Where this rkt differs:
//
//   - Image ids are "sha256:" and 64 digits, of the image's config, as the CRI and the
//     kubelet name images. The short form has 12 digits.
//   - JSON has full ids with or without --full, an empty list is [] and not
//     null, so that `jq '.[]'` works on an empty store, and an image's other
//     names are in "names".
//   - Wrong arguments give one line that says what is wrong, not the usage text.
//
// Exit codes: 0 done; 2 rkt without a command; 1 failures of the app commands;
// enter has that of the command that it ran, and ends by the signal that ended it;
// 254 everything else.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/internal/rundir"
)

// Exit codes, as rkt has them.
const (
	exitOK      = 0
	exitNoWord  = 2
	exitFailure = 254
)

// errNoCommand is of a command that only groups others.
var errNoCommand = errors.New("no command given")

// global are the flags that work on either side of the command's name.
type global struct {
	dir      string
	runDir   string
	debug    bool
	insecure insecure
}

// New returns the command rkt with all its subcommands. It touches nothing
// outside of the command before that is executed.
func New() *cobra.Command {
	g := &global{}
	root := &cobra.Command{
		Use:   "rkt COMMAND",
		Short: "Look after the pods and images of this node",
		Long: `rkt looks after the pods and images of this node, as the kubelet has them. It works
beside a running kubelet, beside one that hangs, and without one. Where UUID is asked
for, the start of one will do, or NAMESPACE/NAME of a pod.`,
		Example: `  rkt list
  rkt enter --app=web 5bc080ca /bin/sh
  rkt logs -f 5bc080ca
  rkt fetch docker://registry.example.com/app:1.2`,
		SilenceErrors: true, // Exit prints them
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          group,
		PersistentPreRun: func(cmd *cobra.Command, _ []string) {
			g.logLibraries(cmd.ErrOrStderr())
			g.logEngine(cmd.ErrOrStderr())
		},
	}
	flags := root.PersistentFlags()
	flags.StringVar(&g.dir, "dir", rundir.DefaultDir, "`DIR` of rkt's data; the kubelet's must be the same")
	flags.StringVar(&g.runDir, "run-dir", "", "`DIR` of what must vanish at reboot (default: the one that the node of --dir uses)")
	flags.BoolVar(&g.debug, "debug", false, "print what the pod engine and the image and storage libraries log")
	flags.Var(&g.insecure, "insecure-options", insecureUsage)

	image := imageCommand(g)
	root.AddCommand(fetchCommand(g), image, versionCommand(), workerCommand())
	root.AddCommand(podsCommand(g), podStatusCommand(g), appCommand(g), podManifestCommand(g))
	root.AddCommand(enterCommand(g), attachCommand(g), logsCommand(g))
	root.AddCommand(stopCommand(g), podRmCommand(g), podGCCommand(g))
	image.AddCommand(listCommand(g), rmCommand(g), gcCommand(g), verifyCommand(g), catManifestCommand(g), exportCommand(g))
	hidden := fetchCommand(g)
	hidden.Hidden = true // rkt's alias of rkt fetch
	image.AddCommand(hidden)
	return root
}

func imageCommand(*global) *cobra.Command {
	return &cobra.Command{
		Use:   "image COMMAND",
		Short: "List, remove, check and export images",
		Long:  "The commands below image work on the images of the local store.",
		Example: `  rkt image list
  rkt image verify`,
		Args: cobra.NoArgs,
		RunE: group,
	}
}

// group prints help where a command word is missing, as rkt does.
func group(cmd *cobra.Command, _ []string) error {
	if err := cmd.Help(); err != nil {
		return err
	}
	return errNoCommand
}

// Exit prints err as cmd's error, if there is one, and returns the exit code.
// Both are what Execute returned.
func Exit(cmd *cobra.Command, err error) int {
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errNoCommand):
		return exitNoWord
	}
	code := exitFailure
	var own *exitError
	if errors.As(err, &own) {
		if own.signal != 0 {
			endBy(own.signal)
		}
		if code = own.code; own.err == nil {
			return code
		}
	}
	text := err.Error()
	if errors.Is(err, context.Canceled) {
		text = "interrupted"
	}
	for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
		note(cmd, "%s", line)
	}
	return code
}

// note prints one line on standard error, under the command's name.
func note(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", cmd.Name(), fmt.Sprintf(format, args...))
}

// logLibraries sends the log of the image and storage libraries to w. Without
// --debug only what they call an error passes: they warn of much that is normal.
func (g *global) logLibraries(w io.Writer) {
	logrus.SetOutput(w)
	logrus.SetLevel(logrus.ErrorLevel)
	if g.debug {
		logrus.SetLevel(logrus.DebugLevel)
	}
}
