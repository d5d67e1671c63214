package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/internal/thread"
)

// A frozen thread cannot stop for the garbage collection, for which all others wait.
func TestNoThreadOfOurOwnIsFrozen(t *testing.T) {
	if os.Getuid() != 0 || Unified() {
		t.Skip("freezing is for cgroup v1, and takes root")
	}
	const path = "/rktt-cgroup/freeze"
	require.NoError(t, Make(path+"/below"))
	t.Cleanup(func() {
		require.NoError(t, Remove(context.Background(), path))
		_ = Remove(context.Background(), "/rktt-cgroup") // the last test succeeds
	})
	tryFreeze := func() bool {
		thaw, frozen := freeze(path)
		if frozen {
			thaw()
		}
		return frozen
	}
	require.True(t, tryFreeze(), "nobody is there")

	inside := filepath.Join(root, "freezer", path, "below")
	require.NoError(t, OnThreadIn([]string{inside}, func() error {
		require.False(t, tryFreeze(), "a thread is there to fork")
		return nil
	}))
	entered, leave, left := make(chan error), make(chan struct{}), make(chan error)
	go func() { // as a thread that has left OnThreadIn, and not died yet
		left <- thread.Run(func() error {
			entered <- writeFile(filepath.Join(inside, "tasks"), "0")
			<-leave
			return nil
		})
	}()
	require.NoError(t, <-entered)
	require.False(t, tryFreeze())
	close(leave)
	require.NoError(t, <-left)
	require.Eventually(t, tryFreeze, time.Minute, time.Millisecond, "it has died")
}

func TestThreadThatIsAboutToEnterIsNotFrozenEither(t *testing.T) {
	ours.RLock()
	defer ours.RUnlock()
	_, frozen := freeze("/no/such/group")
	require.False(t, frozen)
}
