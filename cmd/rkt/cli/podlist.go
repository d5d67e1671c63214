package cli

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/pod/operator"
)

// podJSON is one pod in rkt's JSON. Its times are seconds since 1970.
type podJSON struct {
	Name            string            `json:"name"`
	State           string            `json:"state"`
	Networks        []netJSON         `json:"networks,omitempty"`
	AppNames        []string          `json:"app_names,omitempty"`
	Apps            []appJSON         `json:"apps,omitempty"`
	CreatedAt       int64             `json:"created_at,omitempty"`
	StartedAt       int64             `json:"started_at,omitempty"`
	UserAnnotations map[string]string `json:"user_annotations,omitempty"`
	UserLabels      map[string]string `json:"user_labels,omitempty"`
}

// netJSON is one network interface of a pod. The configuration is the CNI record's
// and not shown.
type netJSON struct {
	NetName    string   `json:"netName"`
	NetConf    string   `json:"netConf"`
	PluginPath string   `json:"pluginPath"`
	IfName     string   `json:"ifName"`
	IP         string   `json:"ip"`
	Args       string   `json:"args"`
	Mask       string   `json:"mask,omitempty"`
	Addresses  []string `json:"addresses"` // all of them
}

func podOf(n *operator.Node, s *pod.Sight) podJSON {
	p := podJSON{
		Name:            string(s.ID),
		State:           podWord(n, s),
		Networks:        netsOf(s.Network),
		CreatedAt:       seconds(s.CreatedAt),
		StartedAt:       seconds(s.StartedAt),
		UserAnnotations: s.Spec.Annotations,
		UserLabels:      s.Spec.Labels,
	}
	for _, a := range named(s.Apps) {
		p.AppNames = append(p.AppNames, a.name)
		p.Apps = append(p.Apps, appOf(n, s, a))
	}
	return p
}

func seconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.Unix()
}

// netsOf shows the primary address of each interface where rkt does: the IPv4 one,
// else the first.
func netsOf(r pod.NetworkResult) (out []netJSON) {
	for _, i := range r.Interfaces {
		n := netJSON{NetName: r.Network, IfName: i.Name, Addresses: []string{}}
		var primary netip.Prefix
		for _, a := range i.Addresses {
			n.Addresses = append(n.Addresses, a.String())
			if !primary.IsValid() || a.Addr().Is4() && !primary.Addr().Is4() {
				primary = a
			}
		}
		if !primary.IsValid() {
			continue // the namespace's loopback
		}
		n.IP, n.Mask = primary.Addr().String(), net.IP(net.CIDRMask(primary.Bits(), primary.Addr().BitLen())).String()
		out = append(out, n)
	}
	return out
}

// netWords shows networks as rkt's tables do.
func netWords(nets []netJSON) string {
	words := make([]string, 0, len(nets))
	for _, n := range nets {
		family := "ip4"
		if strings.Contains(n.IP, ":") {
			family = "ip6"
		}
		words = append(words, fmt.Sprintf("%s:%s=%s", n.NetName, family, n.IP))
	}
	return strings.Join(words, ", ")
}

func podsCommand(g *global) *cobra.Command {
	format := jsonFormat()
	var full, noLegend bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List pods",
		Long: `Lists the pods of this node with their apps, oldest first, from their records and
their supervisors: with the kubelet up, hanging or down.

The last attempt of a container has its name, earlier ones carry their number
("web.0"). Columns and JSON are rkt's, but: --full adds the pods' names; an empty node
is [] in JSON; and what "apps" say is the truth of "rkt app status" (rkt 1.30 gives
the pod's state for each). Pod times in JSON are seconds since 1970, app times
nanoseconds.`,
		Example: `  rkt list
  rkt list --full
  rkt list --format=json | jq -r '.[].name'`,
		// Arguments are ignored, as rkt does.
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := g.node()
			if err != nil {
				return err
			}
			seen, errs := n.Pods(cmd.Context())
			if format.value != "" {
				out := make([]podJSON, 0, len(seen))
				for i := range seen {
					out = append(out, podOf(n, &seen[i]))
				}
				err = printJSON(cmd.OutOrStdout(), out, format.value == "json-pretty")
			} else {
				err = podTable(cmd, n, seen, full, noLegend)
			}
			noteUnread(cmd, seen, errs)
			return err
		},
	}
	cmd.Flags().Var(&format, "format", "print JSON instead of a table, on one line or indented")
	cmd.Flags().BoolVar(&full, "full", false, "print full UUIDs, image ids, absolute times and, last, the pods' names")
	cmd.Flags().BoolVar(&noLegend, "no-legend", false, "leave out the line of headings")
	return cmd
}

// noteUnread tells of what could not be read or asked; it is no failure of a list.
func noteUnread(cmd *cobra.Command, seen []pod.Sight, errs []error) {
	for _, s := range seen {
		for _, err := range s.Unread {
			errs = append(errs, fmt.Errorf("pod %s: %w", s.ID, err))
		}
		if s.Silent != nil {
			errs = append(errs, fmt.Errorf("pod %s: its supervisor does not answer: %w", s.ID, s.Silent))
		}
	}
	if len(errs) == 0 {
		return
	}
	note(cmd, "%d error(s) encountered", len(errs))
	for _, err := range errs {
		note(cmd, "%v", err)
	}
}

func podTable(cmd *cobra.Command, n *operator.Node, seen []pod.Sight, full, noLegend bool) error {
	tab := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 1, '\t', tabwriter.TabIndent)
	line := func(cells ...string) {
		if !full {
			cells = append(cells[:3], cells[4:8]...) // without the image's id and the pod's name
		}
		fmt.Fprintln(tab, strings.Join(cells, "\t")) // tab keeps the error for Flush
	}
	if !noLegend {
		line("UUID", "APP", "IMAGE NAME", "IMAGE ID", "STATE", "CREATED", "STARTED", "NETWORKS", "POD")
	}
	now := time.Now()
	for i := range seen {
		s := &seen[i]
		uuid := string(s.ID)
		if !full {
			uuid = uuid[:8]
		}
		row := []string{uuid, "-", "-", "-", podWord(n, s), when(s.CreatedAt, full, now), when(s.StartedAt, full, now), netWords(netsOf(s.Network)), s.Spec.Namespace + "/" + s.Spec.Name}
		apps := named(s.Apps)
		if len(apps) == 0 {
			line(row...)
		}
		for j, a := range apps {
			row[1], row[2], row[3] = a.name, a.Spec.Image, shortID(a.Spec.ImageID)
			if j > 0 { // only what is the app's own
				row = append([]string{""}, append(row[1:4:4], "", "", "", "", "")...)
			}
			line(append([]string(nil), row...)...)
		}
	}
	return tab.Flush()
}

func when(t time.Time, full bool, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	return showTime(t.UnixNano(), full, now)
}
