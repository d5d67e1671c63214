package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// entry of a log in CRI format.
func logged(stream, tag, text string) string {
	return "2026-11-30T21:00:00.000000001Z " + stream + " " + tag + " " + text + "\n"
}

func printedLog(t *testing.T, content string, tail int, timestamps bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	var out bytes.Buffer
	l := &logReader{path: path, out: &out, timestamps: timestamps}
	require.NoError(t, l.print(tail))
	return out.String()
}

func TestLogIsPrintedAsItWasWritten(t *testing.T) {
	long := strings.Repeat("x", 16<<10)
	for name, c := range map[string]struct {
		log, want string
	}{
		"nothing":               {"", ""},
		"both streams":          {logged("stdout", "F", "a") + logged("stderr", "F", "b"), "a\nb\n"},
		"empty line":            {logged("stdout", "F", ""), "\n"},
		"spaces are the app's":  {logged("stdout", "F", "  a  b "), "  a  b \n"},
		"parts are joined":      {logged("stdout", "P", long) + logged("stdout", "P", long) + logged("stdout", "F", "end"), long + long + "end\n"},
		"no newline at the end": {logged("stdout", "P", "a"), "a"},
		"not finished":          {logged("stdout", "F", "a") + "2026-11-30T21:00:00Z stdout F b", "a\n"},
		"not the format":        {"what?\n" + logged("stdout", "F", "a"), "what?\na\n"},
		"longer than a buffer":  {logged("stdout", "F", strings.Repeat("y", 200<<10)), strings.Repeat("y", 200<<10) + "\n"},
	} {
		require.Equal(t, c.want, printedLog(t, c.log, -1, false), name)
	}
	require.Equal(t, "2026-11-30T21:00:00.000000001Z ab\n2026-11-30T21:00:00.000000001Z c\n",
		printedLog(t, logged("stdout", "P", "a")+logged("stdout", "F", "b")+logged("stdout", "F", "c"), -1, true), "one time a line")
}

func TestTailBeginsWithTheLastLines(t *testing.T) {
	var log strings.Builder
	for i := range 10_000 { // more than one block
		log.WriteString(logged("stdout", "F", fmt.Sprint(i)))
	}
	require.Equal(t, "9998\n9999\n", printedLog(t, log.String(), 2, false))
	require.Empty(t, printedLog(t, log.String(), 0, false))
	require.Equal(t, 5000, strings.Count(printedLog(t, log.String(), 5000, false), "\n"))
	require.Equal(t, 10_000, strings.Count(printedLog(t, log.String(), 20_000, false), "\n"))
	require.Equal(t, "9999\n", printedLog(t, log.String()+"2026-11-30T21:00:00Z stdout F unfinished", 2, false), "it counts, as for tail")
	require.Empty(t, printedLog(t, "", 3, false))
}

// growing is a log that a test writes to and rotates as supervisors and kubelets do.
type growing struct {
	t    *testing.T
	path string
	f    *os.File
	n    int
}

func newGrowing(t *testing.T) *growing {
	g := &growing{t: t, path: filepath.Join(t.TempDir(), "0.log")}
	g.reopen()
	return g
}

func (g *growing) reopen() {
	var err error
	g.f, err = os.OpenFile(g.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	require.NoError(g.t, err)
	g.t.Cleanup(func() { g.f.Close() })
}

func (g *growing) write(lines int) {
	for range lines {
		_, err := io.WriteString(g.f, logged("stdout", "F", fmt.Sprint(g.n)))
		require.NoError(g.t, err)
		g.n++
	}
}

// screen is a writer that tests wait for.
type screen struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

func (s *screen) await(t *testing.T, end string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.HasSuffix(s.String(), end) }, time.Minute, time.Millisecond, end)
}

func numbers(n int) string {
	var want strings.Builder
	for i := range n {
		fmt.Fprintln(&want, i)
	}
	return want.String()
}

func TestFollowedLogGoesOnAcrossRotationsToTheEndOfTheApp(t *testing.T) {
	g, out := newGrowing(t), &screen{}
	g.write(3)
	var ended atomic.Bool
	l := &logReader{path: g.path, out: out}
	done := make(chan error, 1)
	go func() { done <- l.follow(t.Context(), -1, func() (bool, error) { return ended.Load(), nil }) }()
	out.await(t, "\n2\n")
	for i := range 5 {
		g.write(10)
		require.NoError(t, os.Rename(g.path, fmt.Sprintf("%s.%d", g.path, i)))
		g.write(10) // still into the old file
		g.reopen()
		g.write(10)
		out.await(t, fmt.Sprintf("\n%d\n", g.n-1))
	}
	g.write(1000)
	ended.Store(true)
	require.NoError(t, <-done)
	require.Equal(t, numbers(g.n), out.String())
}

func TestFollowedLogMayBeginWithItsTail(t *testing.T) {
	g, out := newGrowing(t), &screen{}
	g.write(10)
	l := &logReader{path: g.path, out: out}
	require.NoError(t, l.follow(t.Context(), 2, func() (bool, error) { return true, nil }))
	require.Equal(t, "8\n9\n", out.String())
}

func TestFollowingEndsWithItsContext(t *testing.T) {
	g, out := newGrowing(t), &screen{}
	g.write(1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	l := &logReader{path: g.path, out: out}
	go func() { done <- l.follow(ctx, -1, func() (bool, error) { return false, nil }) }()
	out.await(t, "0\n")
	cancel()
	require.NoError(t, <-done)
}

func TestFollowingFailsWithoutALog(t *testing.T) {
	l := &logReader{path: filepath.Join(t.TempDir(), "nope"), out: io.Discard}
	require.ErrorIs(t, l.follow(t.Context(), -1, func() (bool, error) { return true, nil }), os.ErrNotExist)
	require.ErrorIs(t, l.print(-1), os.ErrNotExist)
}

func TestFollowedAppEndsWithItsPod(t *testing.T) {
	h := newPodHost(t)
	id, _ := h.launch("u1", "web")
	require.NoError(t, os.WriteFile(h.path("log"), []byte(logged("stdout", "F", "hello")), 0o600))
	require.Equal(t, "hello\n", h.says("logs", string(id)))
	done := make(chan string, 1)
	go func() {
		_, stdout, stderr := h.inProcess("logs", "-f", string(id))
		done <- stdout + stderr
	}()
	require.NoError(t, h.engine.Stop(t.Context(), id, 0))
	require.NoError(t, h.engine.Remove(t.Context(), id))
	got := <-done
	if got != "hello\n" { // removed before it was looked up
		require.Contains(t, got, "no matches found")
	}
}
