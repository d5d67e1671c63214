package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/pod/operator"
)

var (
	attachTTY     = []string{"tty", "tty-in", "tty-out"}
	attachStreams = []string{"stdin", "stdout", "stderr"}
)

// detachKey is Ctrl-], of which detachTimes in a row leave a terminal.
const (
	detachKey   = 0x1d
	detachTimes = 3
)

func attachCommand(g *global) *cobra.Command {
	var app appFlag
	mode := words{values: []string{"auto"}, allowed: slices.Concat([]string{"auto", "list"}, attachTTY, attachStreams)}
	cmd := &cobra.Command{
		Use:   "attach [--app=NAME] [--mode=LIST] UUID",
		Short: "Attach to the input and output of a running app",
		Long: `Copies what a running app prints from now on, and what is typed to the app if it has
a standard input. It ends when the app does. With --mode=list it prints as JSON what
there is to attach to; auto is all of that. An app with a terminal has tty, tty-in
and tty-out, any other stdin, stdout and stderr; the two kinds do not mix.

Ctrl-C ends rkt, not the app; the app's terminal is left with Ctrl-] typed three times
in a row, because all other keys are the app's. Who does not read fast enough loses
output and is told how much; the app never waits. It is there without
RKT_EXPERIMENT_ATTACH.`,
		Example: `  rkt attach 5bc080ca
  rkt attach --app=web --mode=stdout,stderr 5bc080ca
  rkt attach --mode=list 5bc080ca`,
		Args: exactly("UUID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, s, err := g.lookAt(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			a, err := app.of(cmd, &s)
			if err != nil {
				return err
			}
			if a.State != pod.Running {
				return fmt.Errorf("app %q is %s, it must be running", a.name, a.State)
			}
			there := endpointsOf(a)
			if slices.Contains(mode.values, "list") {
				return listEndpoints(cmd, n, a, there)
			}
			want, err := chosen(mode.values, there, a)
			if err != nil {
				return err
			}
			return attach(cmd, n, a, want)
		},
	}
	app.bind(cmd)
	cmd.Flags().Var(&mode, "mode", "what to attach to, comma-separated: "+strings.Join(mode.allowed, ", "))
	return cmd
}

// endpointsOf are the ends of an app that can be attached to.
func endpointsOf(a namedApp) []string {
	switch {
	case a.Spec.TTY && a.Spec.Stdin:
		return []string{"tty-in", "tty-out"}
	case a.Spec.TTY:
		return []string{"tty-out"}
	case a.Spec.Stdin:
		return attachStreams
	}
	return attachStreams[1:]
}

// chosen are the endpoints that --mode asks for.
func chosen(mode, there []string, a namedApp) ([]string, error) {
	if slices.Contains(mode, "auto") {
		if len(mode) > 1 {
			return nil, errors.New("--mode: auto does not mix with others")
		}
		return there, nil
	}
	var want []string
	for _, m := range mode {
		if m == "tty" && a.Spec.TTY {
			want = append(want, there...)
			continue
		}
		if !slices.Contains(there, m) {
			return nil, fmt.Errorf("--mode: app %q has no %s, it has %s", a.name, m, strings.Join(there, ", "))
		}
		want = append(want, m)
	}
	return want, nil
}

// endpointList is what rkt prints for --mode=list.
type endpointList struct {
	Version int              `json:"version"`
	Targets []attachEndpoint `json:"targets"`
}

type attachEndpoint struct {
	Name    string `json:"name"`
	Domain  string `json:"domain"`
	Address string `json:"address"`
}

// listEndpoints names one address for all: that of the pod's supervisor.
func listEndpoints(cmd *cobra.Command, n *operator.Node, a namedApp, there []string) error {
	list := endpointList{Version: 1, Targets: []attachEndpoint{}}
	for _, name := range there {
		list.Targets = append(list.Targets, attachEndpoint{name, "unix", n.SupervisorSocket(a.Pod)})
	}
	return printJSON(cmd.OutOrStdout(), list, false)
}

// attach copies until the app ends, the operator leaves, or rkt is interrupted, none
// of which is an error.
func attach(cmd *cobra.Command, n *operator.Node, a namedApp, want []string) error {
	ctx, leave := context.WithCancel(cmd.Context())
	defer leave()
	c, err := n.Dial(ctx, a.Pod)
	if err != nil {
		return err
	}
	defer c.Close()
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(name string) bool { return slices.Contains(want, name) })
	}
	restore := func() {}
	defer func() { restore() }() // after all output
	var ends pipes
	left := false
	defer func() { ends.close(left) }()
	var stdin, stdout, stderr *os.File
	if has("stdout", "tty-out") {
		if stdout, err = ends.out(cmd.OutOrStdout()); err != nil {
			return err
		}
	}
	if has("stderr") {
		if stderr, err = ends.out(cmd.ErrOrStderr()); err != nil {
			return err
		}
	}
	if has("stdin", "tty-in") {
		in := cmd.InOrStdin()
		if f, ok := in.(*os.File); ok && a.Spec.TTY && isTerminal(f) {
			cooked, err := rawMode(f)
			if err != nil {
				return err
			}
			restore = cooked
			in = &detachReader{r: in, detach: leave}
			t := terminalSession{stdin: f, resize: func(ctx context.Context, rows, cols int) error {
				return c.ResizeApp(ctx, string(a.ID), rows, cols)
			}}
			sized := t.follow(ctx)
			defer func() {
				leave()
				<-sized
			}()
		}
		if stdin, err = ends.in(in); err != nil {
			return err
		}
	}
	err = c.Attach(ctx, string(a.ID), stdin, stdout, stderr)
	if left = ctx.Err() != nil; left {
		return nil
	}
	return err
}

// pipes are what the supervisor gets instead of the operator's files, whose mode it
// would change.
type pipes struct {
	theirs  []*os.File
	ours    []*os.File // to read
	outputs sync.WaitGroup
}

// out returns the end for the supervisor of a pipe that is copied to w.
func (p *pipes) out(w io.Writer) (*os.File, error) {
	ours, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.theirs, p.ours = append(p.theirs, theirs), append(p.ours, ours)
	p.outputs.Go(func() {
		defer ours.Close() // the supervisor drops who reads no more
		io.Copy(w, ours)
	})
	return theirs, nil
}

// in returns the end for the supervisor of a pipe that r is copied to. Nobody waits
// for that: a read of a terminal cannot be ended.
func (p *pipes) in(r io.Reader) (*os.File, error) {
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p.theirs = append(p.theirs, theirs)
	go func() {
		defer ours.Close()
		io.Copy(ours, r)
	}()
	return theirs, nil
}

// close waits until all output is copied: the supervisor holds its ends no more, or
// nobody wants what it may still have.
func (p *pipes) close(left bool) {
	for _, f := range p.theirs {
		f.Close()
	}
	for _, f := range p.ours {
		if left {
			_ = f.SetReadDeadline(time.Unix(1, 0)) // long ago
		}
	}
	p.outputs.Wait()
}

// detachReader calls detach when the key to leave was typed often enough.
type detachReader struct {
	r      io.Reader
	detach func()
	typed  int
}

// Read implements io.Reader. The keys that led to the end are not passed on, but
// the first ones of them, which came before.
func (d *detachReader) Read(b []byte) (int, error) {
	n, err := d.r.Read(b)
	for i, key := range b[:n] {
		if key != detachKey {
			d.typed = 0
			continue
		}
		if d.typed++; d.typed == detachTimes {
			d.detach()
			return max(0, i-detachTimes+1), io.EOF
		}
	}
	return n, err
}
