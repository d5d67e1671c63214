package reap

import (
	"os"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// A long claim sees more exits than there are pids.
func TestExitOfAnEarlierProcessIsNotTakenForThatOfALivingOne(t *testing.T) {
	r := New()
	c := r.Claim()
	defer c.Release()
	in, hold, err := os.Pipe()
	require.NoError(t, err)
	defer in.Close()
	pid, err := syscall.ForkExec("/bin/cat", []string{"cat"}, &syscall.ProcAttr{Files: []uintptr{in.Fd(), 1, 2}})
	require.NoError(t, err)
	r.early[pid] = Status{Code: 137, Signal: syscall.SIGKILL}
	p, err := c.Adopt(pid)
	require.NoError(t, err)
	select {
	case <-p.Done():
		require.Fail(t, "it lives", "%+v", p.Status())
	default:
	}
	require.NoError(t, hold.Close()) // the reaper of the other tests collects it
}
