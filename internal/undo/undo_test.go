package undo_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/internal/undo"
)

func TestRunTakesBackTheNewestStepFirst(t *testing.T) {
	s := undo.New(time.Second)
	var ran []string
	for _, name := range []string{"a", "b", "c"} {
		s.Push(name, func(context.Context) error { ran = append(ran, name); return nil })
	}
	require.NoError(t, s.Run(t.Context()))
	require.Equal(t, []string{"c", "b", "a"}, ran)
}

func TestRunGoesOnPastAFailedStepAndNamesIt(t *testing.T) {
	s := undo.New(time.Second)
	busy := errors.New("busy")
	first := false
	s.Push("remove folder", func(context.Context) error { first = true; return nil })
	s.Push("unmount root", func(context.Context) error { return busy })
	err := s.Run(t.Context())
	require.EqualError(t, err, "unmount root: busy")
	require.ErrorIs(t, err, busy)
	require.True(t, first)
}

func TestRunDoesNothingAfterReleaseOrASecondTime(t *testing.T) {
	s := undo.New(time.Second)
	runs := 0
	count := func(context.Context) error { runs++; return nil }
	s.Push("a", count)
	s.Release()
	require.NoError(t, s.Run(t.Context()))
	require.Zero(t, runs)

	s.Push("b", count)
	require.NoError(t, s.Run(t.Context()))
	require.NoError(t, s.Run(t.Context()))
	require.Equal(t, 1, runs)
}

func TestStepsSeeTheRequestsValuesButNotItsEnd(t *testing.T) {
	type key struct{}
	ctx, cancel := context.WithCancel(context.WithValue(t.Context(), key{}, "pod"))
	cancel()
	s := undo.New(time.Minute)
	s.Push("a", func(ctx context.Context) error {
		require.Equal(t, "pod", ctx.Value(key{}))
		return ctx.Err()
	})
	require.NoError(t, s.Run(ctx))
}

func TestAStepThatHangsLeavesTheOthersTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := undo.New(3 * time.Second)
		s.Push("quick", func(ctx context.Context) error { return ctx.Err() })
		s.Push("hang", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		start := time.Now()
		err := s.Run(t.Context())
		require.EqualError(t, err, "hang: context deadline exceeded")
		require.Equal(t, 3*time.Second, time.Since(start))
	})
}
