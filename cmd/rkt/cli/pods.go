package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/pod/operator"
)

// node returns the pods of the node of --dir.
func (g *global) node() (*operator.Node, error) {
	f, err := g.folders()
	if err != nil {
		return nil, err
	}
	return operator.New(f, g.withRoots), nil
}

// withRoots runs work on the roots of apps, of which a node without a store has none.
func (g *global) withRoots(ctx context.Context, work func(operator.Roots) error) error {
	return g.withStore(ctx, func(s *store.Store) error { return work(appRoots{s}) })
}

// appRoots are the root filesystems of apps, in the image store.
type appRoots struct{ *store.Store }

// CreateRoot implements operator.Roots, as RootIDs does.
func (r appRoots) CreateRoot(ctx context.Context, id, imageID string) error {
	_, err := r.Store.CreateRoot(ctx, id, imageID, store.RootOptions{})
	return err
}

// RootIDs returns the ids of all roots.
func (r appRoots) RootIDs(context.Context) ([]string, error) {
	roots, err := r.Store.Roots()
	ids := make([]string, 0, len(roots))
	for _, root := range roots {
		ids = append(ids, root.ID)
	}
	return ids, err
}

// logEngine sends the log of the pod engine to w with --debug, else nowhere: what an
// operator must know is in errors.
func (g *global) logEngine(w io.Writer) {
	if !g.debug {
		w = io.Discard
	}
	klog.LogToStderr(false)
	klog.SetOutput(w)
}

// exitError is an error with an exit code of its own, or with the signal that ended
// a command on whose behalf rkt ran. Without text nothing is printed.
type exitError struct {
	code   int
	signal int
	err    error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// exitsWith makes a command's failures end with code, as rkt's app commands do,
// also those of its flags and arguments.
func exitsWith(code int, cmd *cobra.Command) *cobra.Command {
	wrap := func(err error) error {
		var own *exitError
		if err == nil || errors.As(err, &own) {
			return err
		}
		return &exitError{code: code, err: err}
	}
	run, args := cmd.RunE, cmd.Args
	cmd.RunE = func(cmd *cobra.Command, a []string) error { return wrap(run(cmd, a)) }
	cmd.Args = func(cmd *cobra.Command, a []string) error { return wrap(args(cmd, a)) }
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return wrap(err) })
	return cmd
}

// uuids are the pods that a command is about: its arguments, or --uuid-file.
type uuids struct{ file string }

func (u *uuids) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&u.file, "uuid-file", "", "read the UUID from this `FILE` instead of an argument")
}

// args checks that there is at least one pod, or exactly one.
func (u *uuids) args(one bool) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case u.file != "" && len(args) > 0:
			return errors.New("want either UUID or --uuid-file, not both")
		case u.file != "":
			return nil
		case one:
			return exactly("UUID")(cmd, args)
		}
		return atLeastOne("UUID")(cmd, args)
	}
}

func (u *uuids) list(args []string) ([]string, error) {
	if u.file == "" {
		return args, nil
	}
	b, err := os.ReadFile(u.file)
	if err != nil {
		return nil, fmt.Errorf("--uuid-file: %w", err)
	}
	return []string{strings.TrimSpace(string(b))}, nil
}

// look finds a pod by the start of its UUID and looks at it.
func look(ctx context.Context, n *operator.Node, prefix string) (pod.Sight, error) {
	id, err := n.Find(prefix)
	if err != nil {
		return pod.Sight{}, err
	}
	s, err := n.Pod(ctx, id)
	if errdefs.IsNotFound(err) { // removed meanwhile
		return s, fmt.Errorf("no matches found for %q", prefix)
	}
	return s, err
}

// lookAt is look for commands that need nothing else.
func (g *global) lookAt(ctx context.Context, prefix string) (*operator.Node, pod.Sight, error) {
	n, err := g.node()
	if err != nil {
		return nil, pod.Sight{}, err
	}
	s, err := look(ctx, n, prefix)
	if err != nil {
		err = fmt.Errorf("problem retrieving pod: %w", err)
	}
	return n, s, err
}

// The words of rkt for what pods and apps are at.
const (
	wordPreparing = "preparing"
	wordAborted   = "aborted prepare"
	wordRunning   = "running"
	wordExited    = "exited"
	wordGarbage   = "exited garbage"
	wordDeleting  = "deleting"
	wordUnknown   = "unknown"
)

// podWord says what a pod is at. A pod that no engine is launching any more is an
// aborted one.
func podWord(n *operator.Node, s *pod.Sight) string {
	switch {
	case s.Doomed:
		return wordDeleting
	case s.State == pod.Running:
		return wordRunning
	case s.State == pod.Exited && s.MarkedAt.IsZero():
		return wordExited
	case s.State == pod.Exited:
		return wordGarbage
	}
	if lives, err := n.EngineLives(); err != nil || lives {
		return wordPreparing
	}
	return wordAborted
}

// namedApp is an app by the name that operators use.
type namedApp struct {
	name string
	pod.App
}

// named names the apps of a pod. The kubelet starts a container anew under the same
// name: the last attempt has the plain name, earlier ones carry their number.
func named(apps []pod.App) []namedApp {
	last := map[string]uint32{}
	for _, a := range apps {
		last[a.Spec.Name] = max(last[a.Spec.Name], a.Spec.Attempt)
	}
	out := make([]namedApp, 0, len(apps))
	for _, a := range apps {
		name := a.Spec.Name
		if a.Spec.Attempt != last[name] {
			name = fmt.Sprintf("%s.%d", name, a.Spec.Attempt)
		}
		out = append(out, namedApp{name, a})
	}
	return out
}

// findApp returns the app that a word names: by name, by name and attempt
// ("web.0"), or by the start of its id, of 6 digits at least.
func findApp(s *pod.Sight, word string) (namedApp, error) {
	all := named(s.Apps)
	for _, a := range all {
		if a.name == word || fmt.Sprintf("%s.%d", a.Spec.Name, a.Spec.Attempt) == word {
			return a, nil
		}
	}
	var found []namedApp
	for _, a := range all {
		if len(word) >= 6 && strings.HasPrefix(string(a.ID), word) {
			found = append(found, a)
		}
	}
	if len(found) == 1 {
		return found[0], nil
	}
	return namedApp{}, fmt.Errorf("cannot find app %q in the pod", word)
}

// appFlag is --app of commands that work on one app.
type appFlag struct{ name string }

func (f *appFlag) bind(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.name, "app", "", "`NAME` of the app, \"NAME.ATTEMPT\", or the start of its container id (not needed if the pod has one)")
}

// of returns the app, which need not be named if the pod has only one.
func (f *appFlag) of(cmd *cobra.Command, s *pod.Sight) (namedApp, error) {
	if f.name != "" {
		return findApp(s, f.name)
	}
	var current []namedApp
	for _, a := range named(s.Apps) {
		if a.name == a.Spec.Name {
			current = append(current, a)
		}
	}
	switch len(current) {
	case 0:
		return namedApp{}, fmt.Errorf("pod %q has no app", s.ID)
	case 1:
		return current[0], nil
	}
	return namedApp{}, fmt.Errorf("unable to determine app name: specify app using \"rkt %s --app= ...\"", cmd.Name())
}
