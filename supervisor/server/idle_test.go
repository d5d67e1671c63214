package server_test

import (
	"bufio"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
)

// memory sums a field of a process's smaps_rollup, in KiB.
func memory(t *testing.T, pid int, field string) (kib int) {
	t.Helper()
	text, err := os.ReadFile("/proc/" + itoa(pid) + "/smaps_rollup")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kib, err = strconv.Atoi(strings.Fields(rest)[0])
			require.NoError(t, err)
		}
	}
	return kib
}

// The budget of a supervisor with one app that has nothing to do, an engine
// connected and subscribed: 3 MB resident, 1 MB of it its own. Clean pages are the
// binary's, in the page cache: whether another process has mapped the same ones at
// the moment is chance.
func TestIdleSupervisorIsSmall(t *testing.T) {
	require.NoError(t, exec.Command("sync", supervisorBinary).Run()) // pages not yet on disk would count as private
	spec := supervisor.Spec{Stage1: stage1.Spec{OwnIPC: true, OwnUTS: true, ShmBytes: 1 << 20}}
	other := launch(t, spec) // so that the binary's pages are shared, as on a node
	p := launch(t, spec)
	for _, pod := range []*testPod{other, p} {
		pod.sh("a", "echo hello; while :; do sleep 1000; done")
		require.NoError(t, pod.Subscribe(t.Context(), 0))
		_, err := pod.exec(0, "/bin/true")
		require.NoError(t, err)
	}
	pid := p.cmd.Process.Pid
	rss, private := 0, 0
	if !assertEventually(func() bool {
		rss, private = memory(t, pid, "Rss"), memory(t, pid, "Private_Dirty")
		return rss <= 3000 && private <= 1000
	}) {
		t.Log(mappings(t, pid))
	}
	tasks, _ := os.ReadDir("/proc/" + itoa(pid) + "/task")
	t.Logf("%d threads, rss %d KiB, private %d KiB, pss %d KiB", len(tasks), rss, private, memory(t, pid, "Pss"))
	require.LessOrEqual(t, rss, 3000)
	require.LessOrEqual(t, private, 1000)
}

// mappings lists what is resident, for whoever must find what has grown.
func mappings(t *testing.T, pid int) string {
	text, err := os.ReadFile("/proc/" + itoa(pid) + "/smaps")
	require.NoError(t, err)
	var out strings.Builder
	name := ""
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		switch {
		case !strings.HasSuffix(f[0], ":"):
			name = strings.TrimSpace(line)
		case (f[0] == "Rss:" || strings.HasPrefix(f[0], "Private")) && f[1] != "0":
			out.WriteString(name + " " + f[0] + " " + f[1] + "\n")
		}
	}
	return out.String()
}

func assertEventually(cond func() bool) bool {
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if cond() {
			return true
		}
	}
	return false
}

// An idle supervisor makes no system call at all.
func TestIdleSupervisorDoesNotWakeUp(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
	p := launch(t, supervisor.Spec{Stage1: stage1.Spec{OwnIPC: true, SharedPID: true}})
	p.sh("a", "echo hello; while :; do sleep 1000; done")
	require.NoError(t, p.Subscribe(t.Context(), 0))
	_, err := p.exec(0, "/bin/true")
	require.NoError(t, err)
	st, err := p.Status(t.Context())
	require.NoError(t, err)

	// What the last activity makes the Go runtime do later, as its look at the heap
	// once in two minutes, may fall into a window; then the next one must be silent.
	var calls []byte
	for range 6 {
		if calls = trace(t, 10*time.Second, p.cmd.Process.Pid, st.Init); len(calls) == 0 {
			return
		}
	}
	t.Fatalf("system calls while idle:\n%s", calls)
}

// trace returns the system calls that the processes made within d, but for those
// that they were in already.
func trace(t *testing.T, d time.Duration, pids ...int) (calls []byte) {
	t.Helper()
	args := []string{"-f"}
	for _, pid := range pids {
		args = append(args, "-p", itoa(pid))
	}
	cmd := exec.CommandContext(t.Context(), "strace", args...)
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	interrupt := func() { _ = cmd.Process.Signal(os.Interrupt) } // it may have failed
	attached := 0
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		line := lines.Text()
		if strings.Contains(line, " attached") && strings.HasPrefix(line, "strace: Process ") {
			if attached++; attached == len(pids) {
				defer time.AfterFunc(d, interrupt).Stop()
			}
			continue
		}
		if strings.Contains(line, "<unfinished ...>") || strings.Contains(line, "<detached ...>") || strings.Contains(line, "restart_syscall") || strings.Contains(line, " detached") {
			continue
		}
		calls = append(calls, line+"\n"...)
	}
	_ = cmd.Wait() // it ends by the interrupt
	require.GreaterOrEqual(t, attached, len(pids), "strace could not attach to all\n%s", calls)
	return calls
}
