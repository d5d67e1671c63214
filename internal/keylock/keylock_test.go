package keylock

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestOneKeyHasOneHolderAtATime(t *testing.T) {
	var l Locks[string]
	var wg sync.WaitGroup
	count := 0
	for range 200 {
		wg.Go(func() {
			if l.Lock(t.Context(), "a") != nil {
				return
			}
			count++ // the race detector is the judge
			l.Unlock("a")
		})
	}
	wg.Wait()
	require.Equal(t, 200, count)
	require.Empty(t, l.keys, "idle keys must cost nothing")
}

func TestOtherKeysDoNotWait(t *testing.T) {
	var l Locks[string]
	require.NoError(t, l.Lock(t.Context(), "a"))
	require.NoError(t, l.Lock(t.Context(), "b"))
	l.Unlock("a")
	l.Unlock("b")
}

func TestWaitersGetTheLockInOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks[int]
		require.NoError(t, l.Lock(t.Context(), 7))
		var order []int
		for i := range 5 {
			go func() {
				if l.Lock(t.Context(), 7) == nil {
					order = append(order, i)
					l.Unlock(7)
				}
			}()
			synctest.Wait()
		}
		l.Unlock(7)
		synctest.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4}, order)
	})
}

func TestLockGivesUpWhenItsContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Locks[string]
		require.NoError(t, l.Lock(t.Context(), "a"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := l.Lock(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorContains(t, err, "lock a")
		l.Unlock("a")
		require.Empty(t, l.keys, "a waiter that gave up must leave nothing")
		require.ErrorIs(t, l.Lock(ctx, "a"), context.DeadlineExceeded, "no lock for the dead")
	})
}

func TestTryLockNeverWaits(t *testing.T) {
	var l Locks[string]
	require.True(t, l.TryLock("a"))
	require.False(t, l.TryLock("a"))
	l.Unlock("a")
	require.True(t, l.TryLock("a"))
}

func TestUnlockOfAFreeKeyPanics(t *testing.T) {
	var l Locks[string]
	require.PanicsWithValue(t, "keylock: unlock of a, which is not locked", func() { l.Unlock("a") })
}
