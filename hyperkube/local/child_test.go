package local

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTailShowsTheLastLinesAndCutsLongOnes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	long := strings.Repeat("x", 100_000)
	require.NoError(t, os.WriteFile(file, []byte("first\nsecond\n"+long+"\nlast\n"), 0o600))

	require.Equal(t, "second\n"+strings.Repeat("x", tailLineBytes)+"… (99000 bytes more)\nlast", tail(file, 3))
}

func TestTailOfAHugeFileReadsItsEnd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	f, err := os.Create(file)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(64<<20))
	_, err = f.WriteAt([]byte("\nthe end\n"), 64<<20)
	require.NoError(t, errors.Join(err, f.Close()))

	require.Equal(t, "the end", tail(file, 1))
}

func TestProgressWithLongLinesIsShownWhole(t *testing.T) {
	long := strings.Repeat("x", 200_000) + "\n"
	var out strings.Builder

	ready := showProgress(strings.NewReader(long+readyLine+"\nnot shown\n"), &out)

	require.True(t, ready)
	require.Equal(t, long, out.String())
	out.Reset()
	require.False(t, showProgress(strings.NewReader("a step\nhalf a line"), &out), "it ended before it was ready")
	require.Equal(t, "a step\nhalf a line", out.String())
}

func TestWaitEndsWhenItIsAskedTo(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cs := node{t.TempDir()}.newChildren()
	asked := 0

	err := cs.wait(ctx, "a thing", func(context.Context) error {
		if asked++; asked == 3 {
			cancel()
		}
		return errors.New("not yet")
	})

	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 3, asked)
}

func TestLeavesFitTheirUse(t *testing.T) {
	n := node{t.TempDir()}
	o := options{settings: settings{NodeName: "vm"}, nodeIP: "192.0.2.2"}

	require.NoError(t, n.issue(o, "10.96.0.1"))

	before, err := os.ReadFile(n.cert(clusterCA))
	require.NoError(t, err)
	leafBefore, err := os.ReadFile(n.cert("apiserver"))
	require.NoError(t, err)
	require.NoError(t, n.issue(o, "10.96.0.1"), "a second start")
	after, err := os.ReadFile(n.cert(clusterCA))
	require.NoError(t, err)
	leafAfter, err := os.ReadFile(n.cert("apiserver"))
	require.NoError(t, err)
	require.Equal(t, string(before), string(after), "pods trust the authority")
	require.NotEqual(t, string(leafBefore), string(leafAfter))
	for _, l := range leaves(o, "10.96.0.1") {
		if l.kubeconfig {
			require.FileExists(t, n.kubeconfig(l.name))
		} else {
			require.FileExists(t, n.key(l.name))
		}
	}
}
