package cli

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/pod/operator"
)

// wait is a flag that is off, on, or on for a while.
type wait struct {
	on    bool
	limit time.Duration // 0: none
}

// String implements pflag.Value, as Set and Type do.
func (w *wait) String() string {
	if w.limit > 0 {
		return w.limit.String()
	}
	return strconv.FormatBool(w.on)
}

// Set accepts true, false or how long.
func (w *wait) Set(s string) error {
	if on, err := strconv.ParseBool(s); err == nil {
		*w = wait{on: on}
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 {
		return errors.New("want true, false or a duration")
	}
	*w = wait{on: true, limit: d}
	return nil
}

// Type is what the help shows for a value.
func (w *wait) Type() string { return "true|false|DURATION" }

// lookEvery is how often a pod is looked at while somebody waits for it.
const lookEvery = 100 * time.Millisecond

// until looks at a pod until done says so, or the time is up.
func (w *wait) until(ctx context.Context, n *operator.Node, s pod.Sight, done func(*pod.Sight) (bool, error)) (pod.Sight, error) {
	if w.limit > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, w.limit)
		defer cancel()
	}
	for {
		ok, err := done(&s)
		if ok || err != nil {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(lookEvery):
		}
		next, err := n.Pod(ctx, s.ID)
		switch {
		case errdefs.IsNotFound(err):
			s.Doomed = true // it is over and gone
		case err != nil:
			return s, err
		default:
			s = next
		}
	}
}

func isOver(s *pod.Sight) (bool, error) { return s.Doomed || s.State == pod.Exited, nil }

func isReady(s *pod.Sight) (bool, error) {
	if over, _ := isOver(s); over {
		return false, errors.New("the pod has exited")
	}
	return s.Alive && s.Silent == nil, nil
}

func podStatusCommand(g *global) *cobra.Command {
	var u uuids
	var finished, ready wait
	format := jsonFormat()
	cmd := &cobra.Command{
		Use:   "status UUID",
		Short: "Check the status of a pod",
		Long: `Prints the state of a pod, one "key=value" a line: with the kubelet up, hanging or
down. Apps that have exited are there with their exit code.

With --wait it first waits until the pod has finished, with --wait-ready until its
supervisor answers; with --wait-ready an exited pod is an error at once (rkt 1.30
waits for it until the time is up).`,
		Example: `  rkt status 5bc080ca
  rkt status --wait=30s --format=json 5bc080ca
  rkt status --uuid-file=/run/pod.uuid`,
		Args: u.args(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			args, err := u.list(args)
			if err != nil {
				return err
			}
			n, s, err := g.lookAt(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if ready.on {
				if s, err = ready.until(cmd.Context(), n, s, isReady); err != nil {
					return fmt.Errorf("error waiting for pod readiness: %w", err)
				}
			}
			if finished.on {
				if s, err = finished.until(cmd.Context(), n, s, isOver); err != nil {
					return fmt.Errorf("error waiting for pod to finish: %w", err)
				}
			}
			if format.value != "" {
				return printJSON(cmd.OutOrStdout(), podOf(n, &s), format.value == "json-pretty")
			}
			printStatus(cmd, n, &s)
			noteUnread(cmd, []pod.Sight{s}, nil)
			return nil
		},
	}
	u.bind(cmd)
	cmd.Flags().Var(&format, "format", "print JSON instead of lines, on one line or indented")
	cmd.Flags().Var(&finished, "wait", "wait until the pod has finished, at most for a duration")
	cmd.Flags().Var(&ready, "wait-ready", "wait until the pod's supervisor answers, at most for a duration")
	cmd.Flags().Lookup("wait").NoOptDefVal = "true"
	cmd.Flags().Lookup("wait-ready").NoOptDefVal = "true"
	return cmd
}

func printStatus(cmd *cobra.Command, n *operator.Node, s *pod.Sight) {
	w := cmd.OutOrStdout()
	fmt.Fprintf(w, "state=%s\n", podWord(n, s))
	fmt.Fprintf(w, "created=%s\n", when(s.CreatedAt, true, time.Time{}))
	if !s.StartedAt.IsZero() {
		fmt.Fprintf(w, "started=%s\n", when(s.StartedAt, true, time.Time{}))
	}
	if nets := netWords(netsOf(s.Network)); nets != "" {
		fmt.Fprintf(w, "networks=%s\n", nets)
	}
	if s.Supervisor > 0 {
		fmt.Fprintf(w, "pid=%d\n", s.Supervisor)
	}
	fmt.Fprintf(w, "exited=%t\n", s.State == pod.Exited)
	for _, a := range named(s.Apps) {
		if a.State == pod.Exited && a.Exit != nil {
			fmt.Fprintf(w, "app-%s=%d\n", a.name, exitCode(a.Exit))
		}
	}
}

// exitCode is rkt's: the bare number of the signal that ended an app, else its code.
func exitCode(e *pod.Exit) int {
	if e.Signal != 0 {
		return e.Signal
	}
	return e.Code
}
