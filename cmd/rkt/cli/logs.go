package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func logsCommand(g *global) *cobra.Command {
	var app appFlag
	var follow, timestamps bool
	tail := -1
	cmd := &cobra.Command{
		Use:   "logs [-f] [--app=NAME] UUID",
		Short: "Print the log of an app",
		Long: `Prints what an app has written to standard output and standard error, as kubectl
logs does: from the log file that the kubelet has it keep, without what was rotated
away. With -f it goes on, across rotations, until the app has exited or rkt is
interrupted, which is no error. It needs neither kubelet nor API server; earlier
attempts of a container have names like "web.0" while the kubelet keeps them.`,
		Example: `  rkt logs 5bc080ca
  rkt logs -f --tail=10 --app=web 5bc080ca
  rkt logs --app=web.0 5bc080ca`,
		Args: exactly("UUID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if tail < -1 {
				return fmt.Errorf("--tail: %d is less than -1", tail)
			}
			n, s, err := g.lookAt(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			a, err := app.of(cmd, &s)
			if err != nil {
				return err
			}
			if a.Spec.Log == "" {
				return fmt.Errorf("app %q keeps no log", a.name)
			}
			l := &logReader{path: a.Spec.Log, out: cmd.OutOrStdout(), timestamps: timestamps}
			if !follow {
				return l.print(tail)
			}
			return l.follow(cmd.Context(), tail, func() (bool, error) { return hasEnded(cmd.Context(), n, a) })
		},
	}
	app.bind(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what the app writes next")
	cmd.Flags().IntVar(&tail, "tail", -1, "begin with the last `N` lines; -1: with the first")
	cmd.Flags().BoolVar(&timestamps, "timestamps", false, "print the time of each line before it")
	return cmd
}
