package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// localMachine is a process that holds namespaces in which local-up and local-down are
// run as a user would. What a test has started there ends with the test.
type localMachine struct {
	*process
	dir string // of the cluster
}

func newLocalMachine(t *testing.T, name string) *localMachine {
	t.Helper()
	m := &localMachine{dir: filepath.Join(shortDir(t), name)}
	hyperkube := binary(t, "hyperkube")
	note := noteLocal(t, m.dir)
	m.process = holder(t)
	t.Cleanup(func() {
		out, err := exec.Command("nsenter", "-t", strconv.Itoa(m.Process.Pid), "-m", "-n", "--", hyperkube, "local-down", "--dir="+m.dir).CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.NoError(t, os.Remove(note))
	})
	return m
}

// localNotes has a file for each cluster of a test, for the run after one that was
// killed. Its name begins with the pid of the test binary.
const localNotes = "/run/rktshim-e2e-local"

func noteLocal(t *testing.T, dir string) (note string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(localNotes, 0o755))
	f, err := os.CreateTemp(localNotes, strconv.Itoa(os.Getpid())+"-")
	require.NoError(t, err)
	_, err = f.WriteString(dir)
	require.NoError(t, errors.Join(err, f.Close()))
	return f.Name()
}

// sweepLocal ends the clusters that a killed run of these tests left. Their folders
// may be on mounts that only their own processes see.
func sweepLocal() {
	notes, _ := filepath.Glob(localNotes + "/*-*")
	for _, note := range notes {
		pid, _, _ := strings.Cut(filepath.Base(note), "-")
		if n, err := strconv.Atoi(pid); err == nil && alive(n) {
			continue // another run that lives
		}
		dir, err := os.ReadFile(note)
		if err != nil || len(dir) == 0 {
			continue
		}
		argv := []string{"../bin/hyperkube", "local-down", "--dir=" + string(dir)}
		if pid := processOf(string(dir)); pid != "" {
			if argv[0], err = filepath.Abs(argv[0]); err != nil {
				continue
			}
			argv = append([]string{"nsenter", "-t", pid, "-m", "-n", "--"}, argv...)
		}
		if exec.Command(argv[0], argv[1:]...).Run() == nil {
			os.Remove(note)
		}
	}
}

// processOf finds a process with a path below dir in its arguments.
func processOf(dir string) (pid string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), dir+"/") {
			return filepath.Base(filepath.Dir(f))
		}
	}
	return ""
}

// command is a command on the machine.
func (m *localMachine) command(t *testing.T, argv ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nsenter", append([]string{"-t", strconv.Itoa(m.Process.Pid), "-m", "-n", "--"}, argv...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+m.dir+"/admin.kubeconfig")
	return cmd
}

// hyperkube runs a command of the binary on the machine.
func (m *localMachine) hyperkube(t *testing.T, args ...string) (string, error) {
	t.Helper()
	out, err := m.command(t, append([]string{binary(t, "hyperkube")}, args...)...).CombinedOutput()
	return string(out), err
}

// up starts the cluster, which goes on in the background.
func (m *localMachine) up(t *testing.T, flags ...string) string {
	t.Helper()
	out, err := m.hyperkube(t, append([]string{"local-up", "--dir=" + m.dir}, flags...)...)
	if err != nil { // with what is gone when the test is over
		for _, name := range []string{"kubelet", "kube-apiserver"} {
			if log, rerr := os.ReadFile(m.dir + "/log/" + name + ".log"); rerr == nil {
				t.Logf("%s:\n%s", name, log[max(0, len(log)-4000):])
			}
		}
	}
	require.NoError(t, err, out)
	return out
}

// kubectl runs kubectl on the machine, as the administrator.
func (m *localMachine) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	cmd := m.command(t, append([]string{binary(t, "hyperkube"), "kubectl"}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "kubectl %v: %s", args, stderr.String())
	return strings.TrimSpace(string(out))
}

// traces lists what a cluster could leave on the machine, but for its folder.
func (m *localMachine) traces(t *testing.T) (all []string) {
	t.Helper()
	for _, argv := range [][]string{{"iptables-save"}, {"ip6tables-save"}, {"ip", "-o", "link"}, {"cat", "/proc/self/mountinfo"}, {"ls", "-A", kubeletDir, containerLinks}, {"cat", "/proc/sys/net/ipv4/ip_forward"}} {
		out, err := m.command(t, argv...).CombinedOutput()
		require.NoError(t, err, "%v: %s", argv, out)
		for line := range strings.Lines(string(out)) {
			// Tables that are empty, counters and dates are no traces.
			if chain := strings.HasPrefix(line, ":") && !strings.HasSuffix(line, "- [0:0]\n"); !chain && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "*") && line != "COMMIT\n" {
				all = append(all, line)
			}
		}
	}
	for _, h := range hierarchies() {
		left, err := filepath.Glob(filepath.Join(h, localCgroup(m.dir)))
		require.NoError(t, err)
		all = append(all, left...)
	}
	return all
}

// localCgroup is the name that local-up gives to the cgroup of a cluster.
func localCgroup(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "rktshim-local-" + hex.EncodeToString(sum[:6])
}

func down(t *testing.T, dir string) (string, error) {
	t.Helper()
	out, err := exec.Command(binary(t, "hyperkube"), "local-down", "--dir="+dir).CombinedOutput()
	return string(out), err
}

// What `make up` and `make down` do.
func TestClusterComesUpAndGoesDownWithoutATrace(t *testing.T) {
	t.Parallel() // beside the other one: each has a network of its own
	m := newLocalMachine(t, "with space #1 {x}")
	require.NoError(t, m.command(t, "sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward").Run())
	before := m.traces(t)

	out := m.up(t)

	require.Regexp(t, `(?s)check the machine .* s\n.*start etcd .* s\nstart kube-apiserver .* s\n.*wait until node .* is ready .* s\n`, out)
	require.Regexp(t, `fetch its page from the Service, http://10\.96\..*\n    Hello from pod hello-`, out)
	require.Contains(t, out, "The cluster works, ")
	require.Contains(t, out, "local-down --dir="+m.dir)
	require.Contains(t, m.kubectl(t, "get", "pods", "--namespace=default"), "1/1     Running")
	again, err := m.hyperkube(t, "local-up", "--dir="+m.dir)
	require.Error(t, err)
	require.Equal(t, "local-up: a cluster runs in "+m.dir+" already; hyperkube local-down --dir="+m.dir+" ends it\n", again)

	said, err := down(t, m.dir) // from other namespaces than the cluster's

	require.NoError(t, err, said)
	for _, what := range []string{"stopped the cluster (process ", "removed 2 pods with their networks\n", "removed the cgroup rktshim-local-", " chains of iptables\n", "set back net.ipv4.ip_forward to ", "removed " + m.dir + "\n"} {
		require.Contains(t, said, what)
	}
	require.NoDirExists(t, m.dir)
	require.Equal(t, before, m.traces(t))
	said, err = down(t, m.dir)
	require.NoError(t, err)
	require.Equal(t, "nothing to stop: there is no "+m.dir+"\n", said)
}

// podStarts are the pods with their addresses and the starts of their containers.
func (m *localMachine) podStarts(t *testing.T) string {
	t.Helper()
	return m.kubectl(t, "get", "pods", "--all-namespaces", "--output=jsonpath={range .items[*]}{.metadata.name} {.status.podIP} {.status.containerStatuses[*].containerID} {.status.containerStatuses[*].state.running.startedAt} {.status.containerStatuses[*].restartCount}{\"\\n\"}{end}")
}

// A component that dies ends the cluster, with its last words; pods go on, and the
// next start continues with them. A local-up that is killed takes the components
// with it.
func TestDeadComponentEndsTheClusterButNotItsPods(t *testing.T) {
	t.Parallel()
	m := newLocalMachine(t, "cluster")
	m.up(t)
	starts := m.podStarts(t)
	require.Equal(t, 2, strings.Count(starts, "hello-"))
	url := "http://" + m.kubectl(t, "get", "service", "hello", "--output=jsonpath={.spec.clusterIP}") + "/"
	scheduler, local := m.pid(t, "pids/kube-scheduler"), m.pid(t, "lock")
	log, err := os.OpenFile(m.dir+"/log/kube-scheduler.log", os.O_APPEND|os.O_WRONLY, 0)
	require.NoError(t, err)
	_, err = log.WriteString(strings.Repeat("x", 100<<10) + "\nthe last words\n")
	require.NoError(t, errors.Join(err, log.Close()))

	require.NoError(t, syscall.Kill(scheduler, syscall.SIGKILL))

	require.Eventually(t, func() bool { return !alive(local) }, 2*time.Minute, 50*time.Millisecond, "local-up goes on without a component")
	for _, name := range []string{"etcd", "kube-apiserver", "kubelet", "kube-proxy", "kube-controller-manager"} {
		require.False(t, alive(m.pid(t, "pids/"+name)), "%s lives", name)
	}
	said, err := os.ReadFile(m.dir + "/log/local-up.log")
	require.NoError(t, err)
	require.Contains(t, string(said), "local-up: the cluster ends, because a component did: kube-scheduler was killed by signal 9 (killed); the end of "+m.dir+"/log/kube-scheduler.log:\n")
	require.Regexp(t, `(?s)x… \([0-9]+ bytes more\)\n.*the last words\n`, string(said))
	_, page, err := m.get(t.Context(), url)
	require.NoError(t, err, "the pods ended with the cluster")
	require.Contains(t, page, "Hello from pod hello-")

	m.up(t)

	require.Equal(t, starts, m.podStarts(t))
	local = m.pid(t, "lock")
	require.NoError(t, syscall.Kill(local, syscall.SIGKILL))
	require.Eventually(t, func() bool { return !alive(m.pid(t, "pids/etcd")) }, 2*time.Minute, 50*time.Millisecond, "etcd outlives local-up")

	require.NoError(t, os.RemoveAll(m.dir+"/etcd"))
	require.NoError(t, os.WriteFile(m.dir+"/etcd", nil, 0o600))
	out, err := m.hyperkube(t, "local-up", "--dir="+m.dir)
	require.Error(t, err)
	require.Regexp(t, `(?s)local-up: etcd ended with exit code [1-9][0-9]*; the end of .*/log/etcd.log:\n.+`, out)

	out, err = down(t, m.dir)
	require.NoError(t, err, out)
	require.NoDirExists(t, m.dir)
}

// pid reads a process id from a file of the cluster.
func (m *localMachine) pid(t *testing.T, file string) (pid int) {
	t.Helper()
	// As the machine sees it: the cluster's folder may be a mount there.
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(m.Process.Pid), "root", m.dir, file))
	require.NoError(t, err)
	_, err = fmt.Sscan(string(b), &pid)
	require.NoError(t, err)
	return pid
}

// What is missing is said before anything is started.
func TestMachineThatLacksSomethingIsRefused(t *testing.T) {
	m := newLocalMachine(t, "cluster")
	m.serve(t, "127.0.0.1:10248", http.NotFoundHandler())
	preflight := m.command(t, binary(t, "hyperkube"), "preflight", "--dir="+m.dir)
	preflight.Env = append(preflight.Env, "RKT_STAGE1_IMAGE=gvisor")
	table, err := preflight.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(table), "missing  stage1             RKT_STAGE1_IMAGE=gvisor: is unknown; known are nspawn")
	require.Contains(t, string(table), "missing  ports              taken: 10248 of the kubelet")
	require.Contains(t, string(table), "ok       kernel overlayfs   there")
	require.NoDirExists(t, m.dir, "preflight changes nothing")

	out, err := m.hyperkube(t, "local-up", "--dir="+m.dir)

	require.Error(t, err)
	require.Contains(t, out, "local-up: this machine cannot run the cluster yet:\n  ports: taken: 10248 of the kubelet")
	require.NotContains(t, out, "stage1")
	require.NoFileExists(t, m.dir+"/log/etcd.log")
	out, err = down(t, m.dir)
	require.NoError(t, err, out)
	require.NoDirExists(t, m.dir)
}

func TestVariablesOfTheOldScriptThatAreGoneAreRefused(t *testing.T) {
	cmd := exec.Command(binary(t, "hyperkube"), "local-up", "--dir="+filepath.Join(shortDir(t), "x"))
	cmd.Env = append(os.Environ(), "KUBE_ENABLE_CLUSTER_DNS=true")
	out, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "KUBE_ENABLE_CLUSTER_DNS is set, which local-up does not know")
	require.Contains(t, string(out), "README")
}

func TestFolderThatIsNoClusterIsKept(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"lock", "precious"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}

	said, err := down(t, dir)
	require.Error(t, err)
	require.Contains(t, said, dir+" is not the folder of a cluster")
	out, err := exec.Command(binary(t, "hyperkube"), "local-up", "--dir="+dir).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), dir+" is not the folder of a cluster: it has no .rktshim-local-node: choose an empty folder")

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
		{"--pod-cidr=10.0.0.1/16", "--pod-cidr=10.0.0.1/16: has bits set after its first 16; 10.0.0.0/16 is meant?"},
		{"--node-ip=127.0.0.1", "--node-ip=127.0.0.1: must be an IPv4 address of this machine, not of loopback"},
		{"stray", `unknown command "stray" for "local-up"`},
	} {
		out, err := exec.Command(binary(t, "hyperkube"), "local-up", c.args).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), c.says)
	}
}
