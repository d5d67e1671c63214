package worker_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/worker"
)

// startPuller runs this test binary as a node agent that pulls an image.
func startPuller(t *testing.T, dir, image string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHelperPull$")
	cmd.Env = append(os.Environ(), "RKTSHIM_TEST_PULL="+dir+" "+image)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill() //nolint:errcheck // it has ended, most of the time
	})
	return cmd
}

func TestHelperPull(t *testing.T) {
	dir, image, ok := strings.Cut(os.Getenv("RKTSHIM_TEST_PULL"), " ")
	if !ok {
		return // it does its work when startPuller runs it
	}
	c, err := worker.NewClient(worker.ClientConfig{Command: imagetest.WorkerCommand(), Store: imagetest.StoreConfig(dir), Pull: imagetest.PullConfig(dir)})
	require.NoError(t, err)
	_, err = c.Pull(context.Background(), pull.Request{Image: image}, nil)
	require.NoError(t, err)
	require.NoError(t, c.Close())
}

// childOf is the one child of a process.
func childOf(t *testing.T, pid int) int {
	t.Helper()
	out, err := exec.Command("sh", "-c", fmt.Sprintf("cat /proc/%d/task/*/children", pid)).Output()
	require.NoError(t, err)
	fields := strings.Fields(string(out))
	require.Len(t, fields, 1)
	child, err := strconv.Atoi(fields[0])
	require.NoError(t, err)
	return child
}
