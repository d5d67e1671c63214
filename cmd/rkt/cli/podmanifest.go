package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/internal/version"
	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/pod/operator"
)

// podManifest is appc's manifest of a pod, as far as its records tell it.
type podManifest struct {
	ACVersion       string            `json:"acVersion"`
	ACKind          string            `json:"acKind"`
	Apps            []manifestApp     `json:"apps"`
	Volumes         []manifestVolume  `json:"volumes"`
	Isolators       []isolator        `json:"isolators"`
	Annotations     []nameValue       `json:"annotations"`
	Ports           []manifestPort    `json:"ports"`
	UserAnnotations map[string]string `json:"userAnnotations,omitempty"`
	UserLabels      map[string]string `json:"userLabels,omitempty"`
}

type nameValue struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type isolator struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

type manifestApp struct {
	Name  string `json:"name"`
	Image struct {
		Name string `json:"name,omitempty"`
		ID   string `json:"id"`
	} `json:"image"`
	App             manifestExec      `json:"app"`
	ReadOnlyRootFS  bool              `json:"readOnlyRootFS,omitempty"`
	Mounts          []manifestMount   `json:"mounts,omitempty"`
	UserAnnotations map[string]string `json:"userAnnotations,omitempty"`
	UserLabels      map[string]string `json:"userLabels,omitempty"`
}

type manifestExec struct {
	Exec              []string    `json:"exec"`
	User              string      `json:"user"`
	Group             string      `json:"group"`
	SupplementaryGIDs []uint32    `json:"supplementaryGIDs,omitempty"`
	WorkingDirectory  string      `json:"workingDirectory,omitempty"`
	Environment       []nameValue `json:"environment,omitempty"`
	Isolators         []isolator  `json:"isolators,omitempty"`
}

type manifestMount struct {
	Volume    string         `json:"volume"`
	Path      string         `json:"path"`
	AppVolume manifestVolume `json:"appVolume"`
}

type manifestVolume struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	Source   string `json:"source,omitempty"`
	ReadOnly bool   `json:"readOnly,omitempty"`
}

type manifestPort struct {
	Name     string  `json:"name"`
	HostPort int     `json:"hostPort"`
	HostIP   string  `json:"hostIP,omitempty"`
	PodPort  podPort `json:"podPort"`
}

type podPort struct {
	Name     string `json:"name"`
	Protocol string `json:"protocol"`
	Port     int    `json:"port"`
}

func podManifestCommand(g *global) *cobra.Command {
	var pretty bool
	cmd := &cobra.Command{
		Use:   "cat-manifest UUID",
		Short: "Print the manifest of a pod",
		Long: `Prints what a pod was made from as appc's PodManifest in JSON: of each app the
command, user, environment, limits, capabilities and mounts that its OCI runtime was
told. Volumes have numbers for names, and image ids are the kubelet's.`,
		Example: `  rkt cat-manifest 5bc080ca
  rkt cat-manifest --pretty-print=false 5bc080ca | jq '.apps[].app.exec'`,
		Args: exactly("UUID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, s, err := g.lookAt(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			m, err := manifestOf(n, &s)
			if err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), m, pretty)
		},
	}
	cmd.Flags().BoolVar(&pretty, "pretty-print", true, "indent the JSON")
	return cmd
}

func manifestOf(n *operator.Node, s *pod.Sight) (podManifest, error) {
	m := podManifest{
		ACVersion:       version.Version,
		ACKind:          "PodManifest",
		Apps:            []manifestApp{},
		Volumes:         []manifestVolume{},
		Isolators:       []isolator{},
		Annotations:     []nameValue{{"coreos.com/rkt/stage1/flavor", s.Spec.Flavor}},
		Ports:           []manifestPort{},
		UserAnnotations: s.Spec.Annotations,
		UserLabels:      s.Spec.Labels,
	}
	for _, p := range s.Spec.Ports {
		if p.HostPort == 0 {
			continue // not led to the host
		}
		protocol := strings.ToLower(p.Protocol)
		if protocol == "" {
			protocol = "tcp"
		}
		name := fmt.Sprintf("%d-%s", p.ContainerPort, protocol)
		m.Ports = append(m.Ports, manifestPort{name, p.HostPort, p.HostIP, podPort{name, protocol, p.ContainerPort}})
	}
	for _, a := range named(s.Apps) {
		config, err := configOf(n, a)
		if err != nil {
			return m, err
		}
		m.Apps = append(m.Apps, manifestAppOf(a, &config))
	}
	return m, nil
}

func manifestAppOf(a namedApp, config *specs.Spec) manifestApp {
	out := manifestApp{Name: a.name, UserAnnotations: a.Spec.Annotations, UserLabels: a.Spec.Labels}
	out.Image.Name, out.Image.ID = a.Spec.Image, a.Spec.ImageID
	out.ReadOnlyRootFS = config.Root != nil && config.Root.Readonly
	if p := config.Process; p != nil {
		out.App = manifestExec{
			Exec:              p.Args,
			User:              strconv.FormatUint(uint64(p.User.UID), 10),
			Group:             strconv.FormatUint(uint64(p.User.GID), 10),
			SupplementaryGIDs: p.User.AdditionalGids,
			WorkingDirectory:  p.Cwd,
		}
		for _, env := range p.Env {
			key, value, _ := strings.Cut(env, "=")
			out.App.Environment = append(out.App.Environment, nameValue{key, value})
		}
		if p.Capabilities != nil {
			set := map[string][]string{"set": slices.Concat([]string{}, p.Capabilities.Bounding)}
			out.App.Isolators = append(out.App.Isolators, isolator{"os/linux/capabilities-retain-set", set})
		}
	}
	if config.Linux != nil {
		out.App.Isolators = append(out.App.Isolators, limitsOf(config.Linux.Resources)...)
	}
	for _, m := range config.Mounts {
		if !slices.Contains(m.Options, "bind") && !slices.Contains(m.Options, "rbind") {
			continue
		}
		name := fmt.Sprintf("volume-%d", len(out.Mounts))
		out.Mounts = append(out.Mounts, manifestMount{name, m.Destination,
			manifestVolume{name, "host", m.Source, slices.Contains(m.Options, "ro")}})
	}
	return out
}

// limitsOf gives an app's limits as appc's isolators.
func limitsOf(r *specs.LinuxResources) (out []isolator) {
	if r == nil {
		return nil
	}
	limits := map[string]string{}
	if c := r.CPU; c != nil {
		if c.Quota != nil && *c.Quota > 0 && c.Period != nil && *c.Period > 0 {
			limits["resource/cpu"] = fmt.Sprintf("%dm", *c.Quota*1000/int64(*c.Period))
		}
	}
	if m := r.Memory; m != nil && m.Limit != nil && *m.Limit > 0 {
		limits["resource/memory"] = strconv.FormatInt(*m.Limit, 10)
	}
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		out = append(out, isolator{name, map[string]string{"limit": limits[name]}})
	}
	return out
}
