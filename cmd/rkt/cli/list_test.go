package cli

import (
	"bytes"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"
	"github.com/stretchr/testify/require"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.Local)

const sampleID = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func sample() []entry {
	ago := func(d time.Duration) int64 { return noon.Add(-d).UnixNano() }
	return []entry{
		{ID: "sha256:ff", Names: []string{}, Imported: ago(24 * time.Hour), LastUsed: ago(3 * time.Hour), Size: 5},
		{ID: sampleID, Name: "b:1", Names: []string{"b:1", "b@sha256:1"}, Imported: ago(48 * time.Hour), LastUsed: ago(2 * time.Hour), Size: 3 << 20},
	}
}

func printed(t *testing.T, entries []entry, args ...string) string {
	t.Helper()
	f, flags := newListFlags(), pflag.NewFlagSet("list", pflag.ContinueOnError)
	f.bind(flags)
	require.NoError(t, flags.Parse(args))
	var out bytes.Buffer
	require.NoError(t, f.print(&out, entries, noon))
	return out.String()
}

// cells splits a table and drops the padding.
func cells(table string) (rows [][]string) {
	for line := range strings.SplitSeq(strings.TrimSuffix(table, "\n"), "\n") {
		rows = append(rows, strings.FieldsFunc(line, func(r rune) bool { return r == '\t' }))
	}
	return rows
}

func TestTableIsOldestFirstWithShortIDs(t *testing.T) {
	require.Equal(t, [][]string{
		{"ID", "NAME", "SIZE", "IMPORT TIME", "LAST USED"},
		{"sha256:0123456789ab", "b:1", "3MiB", "2 days ago", "2 hours ago"},
		{"sha256:ff", "<none>", "5B", "24 hours ago", "3 hours ago"},
	}, cells(printed(t, sample())))
}

func TestFullTableHasWhatScriptsNeed(t *testing.T) {
	rows := cells(printed(t, sample(), "--full", "--no-legend"))
	require.Len(t, rows, 2)
	require.Equal(t, []string{sampleID, "b:1", "3145728"}, rows[0][:3])
	require.Contains(t, rows[0][3], "2026-11-19 12:00:00")
}

func TestEveryOrderIsKept(t *testing.T) {
	for sort, first := range map[string]string{"name": "<none>", "importtime": "b:1", "lastused": "<none>", "size": "<none>"} {
		rows := cells(printed(t, sample(), "--sort="+sort, "--fields=name", "--no-legend"))
		require.Equal(t, first, rows[0][0], sort)
		rows = cells(printed(t, sample(), "--sort="+sort, "--order=desc", "--fields=name", "--no-legend"))
		require.Equal(t, first, rows[1][0], sort)
	}
}

func TestFieldsArePrintedAsAsked(t *testing.T) {
	require.Equal(t, [][]string{{"SIZE", "ID"}, {"3MiB", "sha256:0123456789ab"}, {"5B", "sha256:ff"}},
		cells(printed(t, sample(), "--fields=size,id")))
	require.JSONEq(t, `[{"name":"b:1","names":["b:1","b@sha256:1"],"size":3145728},{"name":"","names":[],"size":5}]`,
		printed(t, sample(), "--fields=name,size", "--format=json"))
}

func TestJSONHasRktsNamesAndFullIDs(t *testing.T) {
	out := printed(t, sample()[1:], "--format=json")
	require.JSONEq(t, `[{"id":"`+sampleID+`","name":"b:1","names":["b:1","b@sha256:1"],
		"import_time":`+sampleTime(48)+`,"last_used_time":`+sampleTime(2)+`,"size":3145728}]`, out)
	require.Equal(t, 1, strings.Count(out, "\n"))
	pretty := printed(t, sample()[1:], "--format=json-pretty")
	require.JSONEq(t, out, pretty)
	require.Contains(t, pretty, "\n\t\t\"id\"")
}

func sampleTime(hours time.Duration) string {
	return strconv.FormatInt(noon.Add(-hours*time.Hour).UnixNano(), 10)
}

func TestEmptyStoreIsAnEmptyListNotNull(t *testing.T) {
	for _, args := range [][]string{{"--format=json"}, {"--format=json", "--fields=id"}} {
		require.Equal(t, "[]\n", printed(t, []entry{}, args...))
	}
	require.Equal(t, [][]string{{"ID", "NAME", "SIZE", "IMPORT TIME", "LAST USED"}}, cells(printed(t, []entry{})))
}
