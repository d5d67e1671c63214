package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rktnetes/rktshim/image/store"
)

// entry is one image in the list. Times are nanoseconds since 1970, as rkt's.
type entry struct {
	ID       string   `json:"id"`
	Name     string   `json:"name"`
	Names    []string `json:"names"`
	Imported int64    `json:"import_time"`
	LastUsed int64    `json:"last_used_time"`
	Size     int64    `json:"size"`
}

// column is one field of the list: its word for --fields, its heading, its keys
// in JSON, how it is shown and how it sorts.
type column struct {
	word, heading string
	keys          []string
	show          func(e entry, full bool, now time.Time) string
	compare       func(a, b entry) int
}

var columns = []column{
	{"id", "ID", []string{"id"},
		func(e entry, full bool, _ time.Time) string { return showID(e.ID, full) },
		func(a, b entry) int { return cmp.Compare(a.ID, b.ID) }},
	{"name", "NAME", []string{"name", "names"},
		func(e entry, _ bool, _ time.Time) string { return cmp.Or(e.Name, "<none>") },
		func(a, b entry) int { return cmp.Compare(a.Name, b.Name) }},
	{"size", "SIZE", []string{"size"}, showSize,
		func(a, b entry) int { return cmp.Compare(a.Size, b.Size) }},
	{"importtime", "IMPORT TIME", []string{"import_time"},
		func(e entry, full bool, now time.Time) string { return showTime(e.Imported, full, now) },
		func(a, b entry) int { return cmp.Compare(a.Imported, b.Imported) }},
	{"lastused", "LAST USED", []string{"last_used_time"},
		func(e entry, full bool, now time.Time) string { return showTime(e.LastUsed, full, now) },
		func(a, b entry) int { return cmp.Compare(a.LastUsed, b.LastUsed) }},
}

type listFlags struct {
	format      choice
	full        bool
	noLegend    bool
	sort, order choice
	fields      words
}

func newListFlags() *listFlags {
	all := make([]string, len(columns))
	for i, c := range columns {
		all[i] = c.word
	}
	return &listFlags{
		format: jsonFormat(),
		sort:   choice{value: "importtime", allowed: []string{"name", "importtime", "lastused", "size"}},
		order:  oneOf("asc", "desc"),
		fields: words{values: all, allowed: all},
	}
}

func (f *listFlags) bind(flags *pflag.FlagSet) {
	flags.Var(&f.format, "format", "print JSON instead of a table, on one line or indented")
	flags.BoolVar(&f.full, "full", false, "print full ids, sizes in bytes and absolute times")
	flags.BoolVar(&f.noLegend, "no-legend", false, "leave out the line of headings")
	flags.Var(&f.sort, "sort", "field to sort by")
	flags.Var(&f.order, "order", "direction to sort in")
	flags.Var(&f.fields, "fields", "fields to print, in this order (JSON has no order)")
}

func listCommand(g *global) *cobra.Command {
	f := newListFlags()
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the images of the local store",
		Long: `Lists the images of the local store, oldest first.

The size is that of the unpacked layers; layers that images share count for
each of them. In JSON, times are nanoseconds since 1970, ids are always full,
"name" is the first of "names", and an empty store is [].`,
		Example: `  rkt image list
  rkt image list --sort=size --order=desc --fields=name,size
  rkt image list --format=json | jq -r '.[].id'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return g.withStoreIfAny(cmd.Context(), func(s *store.Store) error {
				entries, err := entries(s)
				if err != nil {
					return err
				}
				return f.print(cmd.OutOrStdout(), entries, time.Now())
			})
		},
	}
	f.bind(cmd.Flags())
	return cmd
}

// entries are the images of the store, none if there is no store.
func entries(s *store.Store) ([]entry, error) {
	if s == nil {
		return []entry{}, nil
	}
	images, err := s.Images()
	if err != nil {
		return nil, err
	}
	out := make([]entry, 0, len(images))
	for _, img := range images {
		e := entry{
			ID: img.ID, Names: slices.Concat([]string{}, img.Tags, img.Digests), Size: img.Size,
			Imported: img.Stored.UnixNano(), LastUsed: s.LastUsed(img).UnixNano(),
		}
		if len(e.Names) > 0 {
			e.Name = e.Names[0]
		}
		out = append(out, e)
	}
	return out, nil
}

func (f *listFlags) print(w io.Writer, entries []entry, now time.Time) error {
	by := columns[slices.IndexFunc(columns, func(c column) bool { return c.word == f.sort.value })]
	slices.SortStableFunc(entries, func(a, b entry) int {
		if f.order.value == "desc" {
			a, b = b, a
		}
		return by.compare(a, b)
	})
	var chosen []column
	for _, word := range f.fields.values {
		chosen = append(chosen, columns[slices.IndexFunc(columns, func(c column) bool { return c.word == word })])
	}
	if f.format.value != "" {
		return printJSON(w, pick(entries, chosen), f.format.value == "json-pretty")
	}
	return f.table(w, entries, chosen, now)
}

func (f *listFlags) table(w io.Writer, entries []entry, chosen []column, now time.Time) error {
	tab := tabwriter.NewWriter(w, 0, 8, 1, '\t', tabwriter.TabIndent)
	line := func(cell func(column) string) {
		cells := make([]string, len(chosen))
		for i, c := range chosen {
			cells[i] = cell(c)
		}
		fmt.Fprintln(tab, strings.Join(cells, "\t")) // tab keeps the error for Flush
	}
	if !f.noLegend {
		line(func(c column) string { return c.heading })
	}
	for _, e := range entries {
		line(func(c column) string { return c.show(e, f.full, now) })
	}
	return tab.Flush()
}

// pick reduces entries to the chosen columns, where not all are.
func pick(entries []entry, chosen []column) any {
	if len(chosen) == len(columns) {
		return entries
	}
	out := make([]map[string]json.RawMessage, len(entries))
	for i, e := range entries {
		var all map[string]json.RawMessage
		raw, err := json.Marshal(e)
		if err == nil {
			err = json.Unmarshal(raw, &all)
		}
		if err != nil {
			panic(fmt.Sprintf("rkt: an entry is no JSON object: %v", err)) // it is of plain fields
		}
		out[i] = map[string]json.RawMessage{}
		for _, c := range chosen {
			for _, key := range c.keys {
				out[i][key] = all[key]
			}
		}
	}
	return out
}

func printJSON(w io.Writer, v any, pretty bool) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if pretty {
		enc.SetIndent("", "\t")
	}
	return enc.Encode(v)
}

func showSize(e entry, full bool, _ time.Time) string {
	if full {
		return fmt.Sprint(e.Size)
	}
	return units.BytesSize(float64(e.Size))
}

func showTime(ns int64, full bool, now time.Time) string {
	t := time.Unix(0, ns)
	if full {
		return t.Format("2006-01-02 15:04:05.999 -0700 MST")
	}
	return strings.ToLower(units.HumanDuration(now.Sub(t))) + " ago"
}
