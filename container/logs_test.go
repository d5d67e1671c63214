package container_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/pod"
)

// The kubelet's rotation, over and over, while a container writes as fast as it can.
func TestRotatedLogLosesAndDoublesNothing(t *testing.T) {
	n := newNode(t)
	const last = 1_000_000
	c := n.run(n.launch("lean", nil), "", func(c *runtimeapi.ContainerConfig) {
		c.Command = []string{"/bin/busybox", "seq", "1", strconv.Itoa(last)}
	})
	st, err := n.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c})
	require.NoError(t, err)
	log := st.Status.LogPath
	var files []string
	for {
		old := fmt.Sprintf("%s.%d", log, len(files))
		require.NoError(t, os.Rename(log, old))
		files = append(files, old)
		if _, err := n.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: c}); err != nil {
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition, "only once it has exited")
			require.NoFileExists(t, log)
			break
		}
	}
	require.Zero(t, n.exited(c).ExitCode)
	next := 1
	for _, file := range files {
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		for line := range strings.Lines(stdoutOf(string(text))) {
			if strconv.Itoa(next) != strings.TrimSpace(line) {
				require.Equal(t, strconv.Itoa(next), strings.TrimSpace(line), "in %s", file)
			}
			next++
		}
	}
	require.Equal(t, last+1, next)
}

func TestLogOnAFullDiskHoldsNobodyUpAndTellsItsLoss(t *testing.T) {
	n := newNode(t)
	logs := filepath.Join(n.dir, "logs")
	require.NoError(t, os.Mkdir(logs, 0o755))
	require.NoError(t, unix.Mount("small", logs, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(logs, unix.MNT_DETACH)) })
	ballast := filepath.Join(logs, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, 200<<10), 0o600))
	c := n.run(n.launch("lean", nil), "busybox seq 1 100000; echo > /tmp/full; until [ -e /tmp/room ]; do sleep 0.05; done; echo after", nil)

	n.exec(c, "sh", "-c", "until [ -e /tmp/full ]; do sleep 0.05; done") // it has written all that it had
	require.NoError(t, os.Remove(ballast))
	n.exec(c, "sh", "-c", "echo > /tmp/room")
	st := n.exited(c)

	require.Zero(t, st.ExitCode)
	log, err := os.ReadFile(st.LogPath)
	require.NoError(t, err)
	require.Contains(t, string(log), "stdout F 1\n")
	require.Contains(t, string(log), "stdout F after\n")
	require.Regexp(t, `bytes .*lost|lost .*bytes`, string(log))
}

func TestExecOutputIsCappedAndItsWriterGoesOn(t *testing.T) {
	n := newNode(t)
	c := n.run(n.launch("lean", nil), "sleep 1000", nil)
	resp, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c, Cmd: []string{"sh", "-c", "busybox yes | head -c 20000000; busybox yes x | head -c 20000000 >&2; exit 3"}})
	require.NoError(t, err)
	require.Equal(t, int32(3), resp.ExitCode)
	for _, stream := range []struct {
		got  []byte
		line string
	}{{resp.Stdout, "y\n"}, {resp.Stderr, "x\n"}} {
		require.Greater(t, len(stream.got), 7<<20)
		require.True(t, bytes.HasPrefix(bytes.Repeat([]byte(stream.line), 10<<20), stream.got), "the beginning is kept")
	}
	require.Less(t, len(resp.Stdout)+len(resp.Stderr), 16<<20, "it fits into one message")
}

// Probes are the calls that a node answers most. RKTT_EXECS=10000 is the full proof.
func TestManyProbesLeaveNothing(t *testing.T) {
	n := newNode(t)
	id := n.launch("lean", nil)
	c := n.run(id, "sleep 1000", nil)
	conn, err := n.engine.Connection(t.Context(), id)
	require.NoError(t, err)
	supervisor := conn.Hello().PID
	app, err := n.engine.App(pod.AppID(c))
	require.NoError(t, err)
	probe := func(times int) {
		for i := range times {
			resp, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c, Cmd: []string{"sh", "-c", "exit " + strconv.Itoa(i%2)}, Timeout: 60})
			require.NoError(t, err)
			require.Equal(t, int32(i%2), resp.ExitCode)
		}
	}
	probe(50) // what is made once is made
	times := 200
	if long, err := strconv.Atoi(os.Getenv("RKTT_EXECS")); err == nil {
		times = long
	}
	theirs, ours, memory := openFiles(t, supervisor), openFiles(t, os.Getpid()), memoryOf(t, supervisor)
	routines := runtime.NumGoroutine()

	probe(times)

	require.Len(t, cgroup.Procs(app.Cgroup), 1)
	for name, c := range map[string]struct {
		now    func() int
		before int
	}{
		"open files of the supervisor": {func() int { return openFiles(t, supervisor) }, theirs},
		"open files of the engine":     {func() int { return openFiles(t, os.Getpid()) }, ours},
		"goroutines of the engine":     {runtime.NumGoroutine, routines},
	} {
		most := c.before + 10 // what is sampled now and then; far from one per probe
		for deadline := time.Now().Add(time.Minute); c.now() > most && time.Now().Before(deadline); {
			time.Sleep(10 * time.Millisecond)
		}
		require.LessOrEqual(t, c.now(), most, name)
	}
	require.Less(t, memoryOf(t, supervisor)-memory, 2<<20, "the supervisor grew")
}

func openFiles(t *testing.T, pid int) int {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	require.NoError(t, err)
	return len(entries)
}

// memoryOf is what a process has in memory for itself alone, in bytes.
func memoryOf(t *testing.T, pid int) (sum int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); strings.HasPrefix(f[0], "Private_") {
			kb, err := strconv.Atoi(f[1])
			require.NoError(t, err)
			sum += kb << 10
		}
	}
	return sum
}
