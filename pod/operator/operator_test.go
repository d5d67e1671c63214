package operator

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/rundir"
	"github.com/rktnetes/rktshim/pod"
)

type noRoots struct{}

func (noRoots) CreateRoot(context.Context, string, string) error { return nil }
func (noRoots) Mount(context.Context, string) (string, error)    { return "/", nil }
func (noRoots) RemoveRoot(context.Context, string) error         { return nil }
func (noRoots) RootIDs(context.Context) ([]string, error)        { return nil, nil }

// newNode makes an empty node. opened is told of each opening of the image store.
func newNode(t *testing.T) (n *Node, opened chan struct{}) {
	t.Helper()
	dir := t.TempDir()
	f, err := rundir.Find(dir+"/data", dir+"/run")
	require.NoError(t, err)
	require.NoError(t, f.Record())
	opened = make(chan struct{}, 1000)
	return New(f, func(_ context.Context, work func(Roots) error) error {
		opened <- struct{}{}
		return work(noRoots{})
	}), opened
}

// hold takes the lock of the node's pods, as an engine does.
func hold(t *testing.T, n *Node) (free func()) {
	t.Helper()
	require.NoError(t, os.MkdirAll(n.folders.Pods(), 0o700))
	f, err := os.Open(n.folders.Pods())
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
	t.Cleanup(func() { f.Close() })
	return func() { f.Close() }
}

func TestWithoutAnEngineTheCommandIsOne(t *testing.T) {
	n, opened := newNode(t)
	require.ErrorIs(t, n.RemoveExited(t.Context(), "nope"), errdefs.ErrNotFound)
	require.Len(t, opened, 1, "the store was opened for it")
	lives, err := n.EngineLives()
	require.NoError(t, err)
	require.False(t, lives, "and it is none any more")
	c, err := n.GC(t.Context(), pod.GCSpec{})
	require.NoError(t, err)
	require.Zero(t, c)
}

func TestCommandWaitsForAnEngineThatDoesNotListen(t *testing.T) {
	n, opened := newNode(t)
	free := hold(t, n)
	done := make(chan error, 1)
	go func() {
		_, err := n.GC(t.Context(), pod.GCSpec{})
		done <- err
	}()
	<-opened // it has tried to take its place
	<-opened // again
	free()
	require.NoError(t, <-done)
}

func TestCommandDoesNotWaitForEver(t *testing.T) {
	n, _ := newNode(t)
	hold(t, n)
	n.patience = time.Millisecond
	_, err := n.GC(t.Context(), pod.GCSpec{})
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, n.folders.Pods()+" is in use by another engine")

	n.patience = time.Hour
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = n.GC(ctx, pod.GCSpec{})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestStoreThatCannotBeOpenedIsAnErrorAtOnce(t *testing.T) {
	n, _ := newNode(t)
	boom := errors.New("boom")
	n.withRoots = func(context.Context, func(Roots) error) error { return boom }
	require.ErrorIs(t, n.RemoveExited(t.Context(), "x"), boom)
}
