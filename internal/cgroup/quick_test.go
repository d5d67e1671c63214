package cgroup

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// memberships are those of all threads of this process.
func memberships(t *testing.T) map[string]bool {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/cgroup")
	require.NoError(t, err)
	all := map[string]bool{}
	for _, task := range tasks {
		if text, err := os.ReadFile(task); err == nil { // else the thread has ended
			all[string(text)] = true
		}
	}
	return all
}

func TestQuickLeavesTheProcessWhereItIs(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups take root")
	}
	before := memberships(t)
	require.True(t, moveNowhere(), "this host lets nobody move anything")
	NewQuick().hold(t.Context(), 20*quickEvery)
	require.Equal(t, before, memberships(t))
}

func TestQuickHoldsAsLongAsTheLongestWasAskedFor(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups take root")
	}
	q := NewQuick()
	q.Want(time.Nanosecond)
	q.Want(time.Hour) // never blocks, and comes too late
	start := time.Now()
	q.hold(t.Context(), 20*quickEvery)
	require.GreaterOrEqual(t, time.Since(start), 20*quickEvery)
	require.Empty(t, q.wanted)
}

func TestQuickEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	q := NewQuick()
	q.Want(time.Hour)
	var wg sync.WaitGroup
	wg.Go(func() { q.Run(ctx) })
	cancel()
	wg.Wait()
}

func BenchmarkMoveAfterAPause(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("cgroups take root")
	}
	for name, quick := range map[string]bool{"as is": false, "quick": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				if quick {
					NewQuick().hold(b.Context(), 100*time.Millisecond)
				} else {
					time.Sleep(100 * time.Millisecond)
				}
				b.StartTimer()
				moveNowhere()
			}
		})
	}
}
