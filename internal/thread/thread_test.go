package thread_test

import (
	"errors"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/thread"
)

func TestRunNeverUsesTheMainThread(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // else the main thread is rarely met
	for range 2000 {
		var tid int
		require.NoError(t, thread.Run(func() error {
			tid = unix.Gettid()
			return nil
		}))
		require.NotEqual(t, unix.Getpid(), tid)
	}
}

func TestRunReturnsTheError(t *testing.T) {
	want := errors.New("x")
	require.ErrorIs(t, thread.Run(func() error { return want }), want)
}
