package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// up runs local-up in namespaces of the test's own, with a script after it: the
// node goes on in the background between them. It ends with the test.
func up(t *testing.T, dir, script string) *process {
	t.Helper()
	hyperkube := binary(t, "hyperkube")
	t.Cleanup(func() { exec.Command(hyperkube, "local-down", "--dir="+dir).Run() })
	return isolated(t, "/bin/bash", "-c", strings.NewReplacer("HK", hyperkube, "DIR", "'"+dir+"'").Replace("set -eu\n"+script))
}

func down(t *testing.T, dir string) (string, error) {
	t.Helper()
	out, err := exec.Command(binary(t, "hyperkube"), "local-down", "--dir="+dir).CombinedOutput()
	return string(out), err
}

func requireNoNodeCgroup(t *testing.T, dir string) {
	t.Helper()
	for _, h := range hierarchies() {
		left, err := filepath.Glob(filepath.Join(h, "rktshim-local-*"))
		require.NoError(t, err)
		require.Empty(t, left, "the cgroup of %s", dir)
	}
}

// What `make up` and `make down` do.
func TestNodeComesUpAndGoesDownWithoutATrace(t *testing.T) {
	for _, name := range []string{"node", "with space #1 {x}"} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(shortDir(t), name)
			k := up(t, dir, `
				HK local-up --dir=DIR
				curl -sS --fail http://127.0.0.1:10248/healthz && echo " is its health"
				HK local-up --dir=DIR && echo "a second one was not refused"
			`)
			require.Equal(t, 1, k.exitCode(t))
			out := k.output.String()
			require.Regexp(t, `(?s)configure the kubelet in .* s\nstart the kubelet .* s\nwait until it is healthy .* s\n`, out)
			require.Contains(t, out, "ok is its health")
			require.Contains(t, out, "local-up: a node runs in "+dir+" already; hyperkube local-down --dir="+dir+" stops it\n")

			said, err := down(t, dir)

			require.NoError(t, err, said)
			require.Contains(t, said, "stopped the node (process ")
			require.Contains(t, said, "removed the cgroup rktshim-local-")
			require.Contains(t, said, "removed "+dir+"\n")
			require.NoDirExists(t, dir)
			requireNoNodeCgroup(t, dir)
			again, err := down(t, dir)
			require.NoError(t, err)
			require.Equal(t, "nothing to stop: there is no "+dir+"\n", again)
		})
	}
}

func TestNodeBehindASymlinkIsRemovedWhole(t *testing.T) {
	parent := shortDir(t)
	real, link := filepath.Join(parent, "real"), filepath.Join(parent, "link")
	require.NoError(t, os.Mkdir(real, 0o755))
	require.NoError(t, os.Symlink(real, link))
	k := up(t, link, "HK local-up --dir=DIR")
	require.Zero(t, k.exitCode(t))

	said, err := down(t, link)

	require.NoError(t, err, said)
	require.NoDirExists(t, real)
	requireNoNodeCgroup(t, link)
}

func TestSecondNodeOnAMachineIsRefusedAndHurtsNotTheFirst(t *testing.T) {
	first, second := filepath.Join(shortDir(t), "a"), filepath.Join(shortDir(t), "b")
	k := up(t, first, `
		HK local-up --dir=DIR
		HK local-up --dir=`+second+` || :
		HK local-down --dir=`+second+`
		curl -sS --fail http://127.0.0.1:10248/healthz && echo " is the health of the first"
	`)
	require.Zero(t, k.exitCode(t))
	require.Contains(t, k.output.String(), "the kubelet's port 10248 is taken, by another kubelet or another node of local-up")
	require.Contains(t, k.output.String(), "ok is the health of the first")
	require.NoDirExists(t, second)
}

// A local-up that is killed takes its kubelet with it, and local-down waits for
// that before it removes what the kubelet uses.
func TestDownAfterAKilledLocalUp(t *testing.T) {
	dir := filepath.Join(shortDir(t), "node")
	k := up(t, dir, "HK local-up --dir=DIR")
	require.Zero(t, k.exitCode(t))
	var upPid, kubeletPid int
	readInts(t, filepath.Join(dir, "lock"), &upPid)
	readInts(t, filepath.Join(dir, "kubelet.pid"), &kubeletPid)
	require.True(t, alive(kubeletPid))
	require.NoError(t, syscall.Kill(upPid, syscall.SIGKILL))

	said, err := down(t, dir)

	require.NoError(t, err, said)
	require.False(t, alive(kubeletPid), "local-down left while the kubelet lived")
	require.NoDirExists(t, dir)
}

func readInts(t *testing.T, file string, into ...any) {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	_, err = fmt.Sscan(string(b), into...)
	require.NoError(t, err)
}

func TestFolderThatIsNoNodeIsKept(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"lock", "precious"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}

	said, err := down(t, dir)
	require.Error(t, err)
	require.Contains(t, said, dir+" is not the folder of a node")
	out, err := exec.Command(binary(t, "hyperkube"), "local-up", "--dir="+dir).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), dir+" is not the folder of a node: it has no .rktshim-local-node: choose an empty folder")

	require.FileExists(t, filepath.Join(dir, "precious"))
}

// The lock's file may hold anything: only a local-up is ever ended.
func TestProcessThatIsNoLocalUpIsSpared(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, ".rktshim-local-node"), nil, 0o600))
	lock := filepath.Join(dir, "lock")
	other := exec.Command("flock", lock, "sleep", "60")
	other.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, other.Start())
	t.Cleanup(func() {
		syscall.Kill(-other.Process.Pid, syscall.SIGKILL)
		other.Wait()
	})
	require.Eventually(t, func() bool { return exec.Command("flock", "-n", lock, "true").Run() != nil }, time.Minute, 10*time.Millisecond)
	require.NoError(t, os.WriteFile(lock, []byte(fmt.Sprintln(other.Process.Pid)), 0o600))

	said, err := down(t, dir)

	require.Error(t, err)
	require.Contains(t, said, "another process than local-up holds "+lock)
	require.True(t, alive(other.Process.Pid))
	require.FileExists(t, lock)
}

func TestBadFolderIsRefused(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"--dir=relative", "--dir=relative: must be an absolute path other than /"},
		{"--dir=/", "--dir=/: must be an absolute path other than /"},
		{"--dir=/srv/a:b", "--dir=/srv/a:b: must not contain a colon"},
		{"--dir=/proc/version/x", "not a directory"},
		{"stray", `unknown command "stray" for "local-up"`},
	} {
		out, err := exec.Command(binary(t, "hyperkube"), "local-up", c.args).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), c.says)
	}
}
