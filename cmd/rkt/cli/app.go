package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/pod/operator"
)

// exitApp is what rkt's app commands fail with.
const exitApp = 1

// appJSON is one app in rkt's JSON. Its times are nanoseconds since 1970. What
// stands after UserLabels is not rkt's.
type appJSON struct {
	Name            string            `json:"name"`
	State           string            `json:"state"`
	CreatedAt       int64             `json:"created_at,omitempty"`
	StartedAt       int64             `json:"started_at,omitempty"`
	FinishedAt      int64             `json:"finished_at,omitempty"`
	ExitCode        *int              `json:"exit_code,omitempty"`
	ImageID         string            `json:"image_id"`
	Mounts          []mountJSON       `json:"mounts,omitempty"`
	UserAnnotations map[string]string `json:"user_annotations,omitempty"`
	UserLabels      map[string]string `json:"user_labels,omitempty"`

	ID        string `json:"id"` // as the kubelet names the container
	Attempt   uint32 `json:"attempt"`
	Image     string `json:"image,omitempty"`
	PID       int    `json:"pid,omitempty"`
	Signal    int    `json:"signal,omitempty"` // that ended it
	OOMKilled bool   `json:"oom_killed,omitempty"`
	LogPath   string `json:"log_path,omitempty"`
}

type mountJSON struct {
	ContainerPath string `json:"container_path"`
	HostPath      string `json:"host_path"`
	ReadOnly      bool   `json:"read_only"`
}

func appOf(n *operator.Node, s *pod.Sight, a namedApp) appJSON {
	out := appJSON{
		Name:            a.name,
		State:           appWord(s, a),
		CreatedAt:       nanoseconds(a.CreatedAt),
		StartedAt:       nanoseconds(a.StartedAt),
		ImageID:         a.Spec.ImageID,
		UserAnnotations: a.Spec.Annotations,
		UserLabels:      a.Spec.Labels,
		ID:              string(a.ID),
		Attempt:         a.Spec.Attempt,
		Image:           a.Spec.Image,
		PID:             a.PID,
		LogPath:         a.Spec.Log,
	}
	if a.State == pod.Exited && a.Exit != nil {
		code := exitCode(a.Exit)
		out.ExitCode, out.Signal, out.OOMKilled = &code, a.Exit.Signal, a.Exit.OOMKilled
		out.FinishedAt = nanoseconds(a.Exit.FinishedAt)
	}
	if config, err := configOf(n, a); err == nil { // one that is gone has no mounts to show
		for _, m := range config.Mounts {
			if slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
				out.Mounts = append(out.Mounts, mountJSON{m.Destination, m.Source, slices.Contains(m.Options, "ro")})
			}
		}
	}
	return out
}

// configOf reads what the OCI runtime was told of an app.
func configOf(n *operator.Node, a namedApp) (config specs.Spec, err error) {
	doc, err := n.AppConfig(a.App)
	if err == nil {
		err = json.Unmarshal(doc, &config)
	}
	if err != nil {
		err = fmt.Errorf("read config.json of app %q: %w", a.name, err)
	}
	return config, err
}

// appWord says what an app is at, as far as that is known.
func appWord(s *pod.Sight, a namedApp) string {
	if s.Silent != nil && a.State != pod.Exited {
		return wordUnknown
	}
	return string(a.State)
}

func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func appCommand(g *global) *cobra.Command {
	app := &cobra.Command{
		Use:   "app COMMAND",
		Short: "Look at the apps of a pod",
		Long: `The commands below app look at the apps, the containers, of one pod. They are
there without RKT_EXPERIMENT_APP. What fails exits with 1, as in rkt.`,
		Example: `  rkt app list 5bc080ca
  rkt app status 5bc080ca --app=web`,
		Args: cobra.NoArgs,
		RunE: group,
	}
	app.AddCommand(exitsWith(exitApp, appListCommand(g)), exitsWith(exitApp, appStatusCommand(g)))
	return app
}

func appListCommand(g *global) *cobra.Command {
	var noLegend bool
	cmd := &cobra.Command{
		Use:   "list UUID",
		Short: "List the apps of a pod",
		Long: `Lists the apps of a pod with their states: created, running, exited, or unknown
where a supervisor does not answer. The last attempt of a container has its name,
earlier ones carry their number ("web.0").`,
		Example: `  rkt app list 5bc080ca`,
		Args:    exactly("UUID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := g.node()
			if err != nil {
				return err
			}
			s, err := look(cmd.Context(), n, args[0])
			if err != nil {
				return fmt.Errorf("error listing apps: %w", err)
			}
			tab := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 1, '\t', tabwriter.TabIndent)
			if !noLegend {
				fmt.Fprintln(tab, "NAME\tSTATE") // tab keeps the error for Flush
			}
			for _, a := range named(s.Apps) {
				fmt.Fprintf(tab, "%s\t%s\n", a.name, appWord(&s, a))
			}
			noteUnread(cmd, []pod.Sight{s}, nil)
			return tab.Flush()
		},
	}
	cmd.Flags().BoolVar(&noLegend, "no-legend", false, "leave out the line of headings")
	return cmd
}

func appStatusCommand(g *global) *cobra.Command {
	var app appFlag
	format := jsonFormat()
	cmd := &cobra.Command{
		Use:   "status UUID --app=NAME",
		Short: "Check the status of an app",
		Long: `Prints all that is known of one app, one "key=value" a line or as JSON. Times in
JSON are nanoseconds since 1970. exit_code is rkt's: the bare number of the signal
that ended the app, which is in "signal" as well; kubectl shows 128 and the number.
Mounts have no name, unlike rkt's.`,
		Example: `  rkt app status 5bc080ca --app=web
  rkt app status 5bc080ca --app=web.0 --format=json-pretty`,
		Args: exactly("UUID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if app.name == "" {
				return errors.New("--app: want the name of an app")
			}
			n, err := g.node()
			if err != nil {
				return err
			}
			s, err := look(cmd.Context(), n, args[0])
			if err != nil {
				return fmt.Errorf("error getting app status: %w", err)
			}
			a, err := app.of(cmd, &s)
			if err != nil {
				return err
			}
			out := appOf(n, &s, a)
			if format.value != "" {
				return printJSON(cmd.OutOrStdout(), out, format.value == "json-pretty")
			}
			printApp(cmd, &out)
			noteUnread(cmd, []pod.Sight{s}, nil)
			return nil
		},
	}
	app.bind(cmd)
	cmd.Flags().Var(&format, "format", "print JSON instead of lines, on one line or indented")
	return cmd
}

func printApp(cmd *cobra.Command, a *appJSON) {
	put := func(key, value string) {
		if value != "" {
			fmt.Fprintf(cmd.OutOrStdout(), "%s=%s\n", key, value)
		}
	}
	at := func(key string, ns int64) {
		if ns != 0 {
			put(key, showTime(ns, true, time.Time{}))
		}
	}
	put("name", a.Name)
	put("state", a.State)
	put("image_id", a.ImageID)
	at("created_at", a.CreatedAt)
	at("started_at", a.StartedAt)
	at("finished_at", a.FinishedAt)
	if a.ExitCode != nil {
		put("exit_code", fmt.Sprint(*a.ExitCode))
	}
	if a.Signal != 0 {
		put("signal", fmt.Sprint(a.Signal))
	}
	if a.OOMKilled {
		put("oom_killed", "true")
	}
	if a.PID != 0 {
		put("pid", fmt.Sprint(a.PID))
	}
	mounts := make([]string, 0, len(a.Mounts))
	for _, m := range a.Mounts {
		mounts = append(mounts, fmt.Sprintf("%s:%s:(read_only:%t)", m.HostPath, m.ContainerPath, m.ReadOnly))
	}
	put("mounts", strings.Join(mounts, ","))
	put("user_annotations", pairs(a.UserAnnotations))
	put("user_labels", pairs(a.UserLabels))
	put("id", a.ID)
	put("log_path", a.LogPath)
}

// pairs lists a map in the order of its keys.
func pairs(m map[string]string) string {
	out := make([]string, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+":"+m[k])
	}
	return strings.Join(out, ",")
}
