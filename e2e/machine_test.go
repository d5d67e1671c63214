package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// machineEnv, when set, says that the tests have a throw-away machine to
// themselves, whose init is systemd: a node of hosts/node.sh, or the VM of hosts/vm.
// Its value is a list of "driver/runtime/stage1" to try there.
const machineEnv = "RKTSHIM_E2E_MACHINE"

// The core of pods where systemd is the init, with both cgroup drivers. It follows
// the machine's cgroup version; make e2e-v2 does the same on cgroup v2.
func TestPodsInANodeWithSystemd(t *testing.T) {
	for _, way := range []string{"systemd/runc/nspawn", "cgroupfs/runc/lean"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			self, err := os.Executable()
			require.NoError(t, err)
			here, err := os.Getwd()
			require.NoError(t, err)
			cmd := exec.CommandContext(t.Context(), "hosts/node.sh", "-b", filepath.Dir(self), "-b", filepath.Dir(here),
				"env", machineEnv+"="+way, self, "-test.run=TestPodsOnThisMachine", "-test.v", "-test.timeout=10m")
			cmd.Env = append(os.Environ(), "CWD="+here)
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it has to take its node down
			out, err := cmd.CombinedOutput()
			t.Logf("%s", out)
			require.NoError(t, err)
			require.Contains(t, string(out), "--- PASS: TestPodsOnThisMachine/"+way)
		})
	}
}

// Pods of the real kubelet with systemd as the machine's init: where they live, that
// limits are in force, why they end, that they outlive their kubelet and do not
// outlive their supervisor, and that they leave nothing.
func TestPodsOnThisMachine(t *testing.T) {
	if os.Getenv(machineEnv) == "" {
		return // TestPodsInANodeWithSystemd and hosts/v2.sh make the machine
	}
	for _, way := range strings.Fields(os.Getenv(machineEnv)) {
		t.Run(way, func(t *testing.T) {
			part := strings.Split(way, "/")
			require.Len(t, part, 3)
			m := newMachine(t, part[0], part[1], part[2])
			t.Run("limits", m.limits)
			t.Run("out of memory", m.outOfMemory)
			t.Run("killed kubelet", m.killedKubelet)
			t.Run("killed supervisor", m.killedSupervisor)
			t.Run("nothing is left", m.nothingLeft)
		})
	}
}

// machine is a node that has its whole machine to itself.
type machine struct {
	*podNode
	systemd bool // the cgroup driver
	runtime runtimeapi.RuntimeServiceClient
	running *exec.Cmd // the kubelet
	before  []string  // what there was before any pod
}

func newMachine(t *testing.T, driver, ociRuntime, stage1 string) *machine {
	t.Helper()
	m := &machine{systemd: driver == "systemd", podNode: newPodNode(t, stage1)}
	m.env = append(os.Environ(), "PATH="+pathWithOnly(t, ociRuntime))
	m.args = append(m.args, "--rkt-cgroup-driver="+driver)
	m.runtime = m.cri(waitForReady(patience(2 * time.Minute)))
	t.Cleanup(func() { _ = syscall.Unmount(m.rootDir(), syscall.MNT_DETACH) }) // the kubelet makes it a mount
	m.running = m.kubelet()
	m.before = m.found()
	return m
}

// waitForReady has calls wait for a connection instead of failing with the first
// attempt at one, and gives each that long.
func waitForReady(limit time.Duration) grpc.DialOption {
	return grpc.WithDefaultServiceConfig(fmt.Sprintf(`{"methodConfig": [{"name": [{}], "waitForReady": true, "timeout": "%.0fs"}]}`, limit.Seconds()))
}

func (m *machine) rootDir() string { return filepath.Join(m.logDir(), "kubelet") }

// pathWithOnly is a PATH with all that this process's has, but for other OCI runtimes.
func pathWithOnly(t *testing.T, runtime string) string {
	t.Helper()
	dir := shortDir(t)
	for _, from := range filepath.SplitList(os.Getenv("PATH")) {
		entries, _ := os.ReadDir(from) // not all need exist
		for _, e := range entries {
			if name := e.Name(); name == runtime || name != "crun" && name != "runc" {
				_ = os.Symlink(filepath.Join(from, name), filepath.Join(dir, name)) // the first one counts
			}
		}
	}
	require.FileExists(t, filepath.Join(dir, runtime))
	return dir
}

// only is the state of a pod's only container.
func only(p podState) containerState { return p.Status.ContainerStatuses[0] }

// container is its id for the runtime.
func container(p podState) string {
	_, id, _ := strings.Cut(only(p).ContainerID, "://")
	return id
}

// busy is a container that ends when it is asked to, and is ready by an exec probe.
const busy = `
apiVersion: v1
kind: Pod
metadata: {name: limits, namespace: default}
spec:
  terminationGracePeriodSeconds: 20
  containers:
  - name: a
    image: ` + registryAddr + `/busybox:1
    command: ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; : > /ready; while :; do /bin/busybox sleep 1000 & wait; done"]
    readinessProbe: {exec: {command: ["/bin/busybox", "test", "-e", "/ready"]}, periodSeconds: 1, timeoutSeconds: 30}
    resources: {limits: {cpu: 500m, memory: 64Mi}, requests: {cpu: 250m, memory: 32Mi}}
`

// v2 says whether the machine has cgroup v2 only.
func v2() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// group returns the path of an app's cgroup below every hierarchy.
func (m *machine) group(t *testing.T, id string) (path string) {
	t.Helper()
	h := hierarchies()[0]
	require.NoError(t, filepath.WalkDir(h, func(p string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && d.Name() == id {
			path = strings.TrimPrefix(p, h)
		}
		return nil
	}))
	require.NotEmpty(t, path, "the container has no cgroup")
	return path
}

// value reads a file of a group; controller is the one on v1.
func value(t *testing.T, group, controller, file string) string {
	t.Helper()
	if v2() {
		controller = ""
	}
	b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, group, file))
	require.NoError(t, err)
	return strings.TrimSpace(string(b))
}

func (m *machine) limits(t *testing.T) {
	m.apply("limits", busy)
	p := m.waitPod("limits", running)
	id := container(p)
	group := m.group(t, id)
	uid := strings.ReplaceAll(p.Metadata.UID, "-", "_")
	where := `^/kubepods/burstable/pod` + p.Metadata.UID + `/k8s_[0-9a-f-]{36}/` + id + `$`
	if m.systemd {
		where = `^/kubepods\.slice/kubepods-burstable\.slice/kubepods-burstable-pod` + uid + `\.slice/k8s_[0-9a-f-]{36}\.service/` + id + `$`
	}
	require.Regexp(t, where, group)
	m.requireLimits(t, id, "67108864", "50000", "256")
	require.Empty(t, value(t, filepath.Dir(group), "memory", "cgroup.procs"), "the pod's own group has processes")
	if unit := filepath.Base(filepath.Dir(group)); m.systemd {
		out, err := exec.Command("systemctl", "show", "-p", "Slice,ActiveState,Delegate", unit).CombinedOutput()
		require.NoError(t, err)
		require.ElementsMatch(t, []string{"Slice=kubepods-burstable-pod" + uid + ".slice", "ActiveState=active", "Delegate=yes"}, strings.Fields(string(out)))
	}

	_, err := m.runtime.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: id,
		Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuQuota: 30000, CpuPeriod: 100000, CpuShares: 512}})

	require.NoError(t, err)
	m.requireLimits(t, id, "100663296", "30000", "512")
	exec, err := m.runtime.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: []string{"/bin/busybox", "sh", "-c", "echo out; echo err >&2; exit 3"}, Timeout: 60})
	require.NoError(t, err)
	require.Equal(t, "out\n err\n 3", fmt.Sprintf("%s %s %d", exec.Stdout, exec.Stderr, exec.ExitCode))
}

// requireLimits holds what the kernel and the runtime say against each other.
func (m *machine) requireLimits(t *testing.T, id, memory, quota, shares string) {
	t.Helper()
	group := m.group(t, id)
	st, err := m.runtime.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
	require.NoError(t, err)
	l := st.Status.Resources.Linux
	require.Equal(t, []string{memory, quota, shares}, []string{strconv.FormatInt(l.MemoryLimitInBytes, 10), strconv.FormatInt(l.CpuQuota, 10), strconv.FormatInt(l.CpuShares, 10)})
	if v2() {
		require.Equal(t, memory, value(t, group, "", "memory.max"))
		require.Equal(t, quota+" 100000", value(t, group, "", "cpu.max"))
		weight, err := strconv.Atoi(value(t, group, "", "cpu.weight"))
		require.NoError(t, err)
		require.True(t, weight > 1 && weight < 100, "cpu.weight %d of %s shares", weight, shares) // 100 is the default, of 1024
		require.Equal(t, "1", value(t, group, "", "memory.oom.group"), "the kubelet asks for it by the unified map")
		return
	}
	require.Equal(t, memory, value(t, group, "memory", "memory.limit_in_bytes"))
	require.Equal(t, quota, value(t, group, "cpu", "cpu.cfs_quota_us"))
	require.Equal(t, shares, value(t, group, "cpu", "cpu.shares"))
}

func (m *machine) outOfMemory(t *testing.T) {
	m.apply("oom", `
apiVersion: v1
kind: Pod
metadata: {name: oom, namespace: default}
spec:
  restartPolicy: Never
  containers:
  - name: a
    image: `+registryAddr+`/busybox:1
    command: ["/bin/busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=100M", "count=1"]
    resources: {limits: {memory: 32Mi}}
`)
	p := m.waitPod("oom", func(p podState) bool { return len(p.Status.ContainerStatuses) == 1 && only(p).State.Terminated != nil })
	end := only(p).State.Terminated
	require.Equal(t, "OOMKilled 137", fmt.Sprint(end.Reason, " ", end.ExitCode))
}

func (m *machine) killedKubelet(t *testing.T) {
	before := m.waitPod("limits", running)
	group := m.group(t, container(before))
	pids := value(t, group, "memory", "cgroup.procs")
	kill(m.running)
	require.Equal(t, pids, value(t, group, "memory", "cgroup.procs"), "the app lives on")
	m.running = m.kubelet()
	after := m.waitPod("limits", running)
	require.Equal(t, before.Status.ContainerStatuses, after.Status.ContainerStatuses)
	require.Equal(t, before.Status.PodIP, after.Status.PodIP)
}

func (m *machine) killedSupervisor(t *testing.T) {
	before := m.waitPod("limits", running)
	group := m.group(t, container(before))
	id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(filepath.Dir(group)), "k8s_"), ".service")
	pid := m.supervisors()[id]
	require.NotZero(t, pid)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	after := m.waitPod("limits", func(p podState) bool { return running(p) && container(p) != container(before) })
	require.NotEqual(t, filepath.Dir(group), filepath.Dir(m.group(t, container(after))), "it is another pod of the engine")
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(hierarchies()[0], filepath.Dir(group)))
		return os.IsNotExist(err)
	}, patience(time.Minute), 50*time.Millisecond, "the group of the first one is left")
}

func (m *machine) nothingLeft(t *testing.T) {
	m.withdraw("limits")
	m.withdraw("oom")
	m.waitNothingLeft()
	// The kubelet and systemd forget groups and units when they have time.
	for deadline := time.Now().Add(patience(3 * time.Minute)); len(m.left()) > 0 && time.Now().Before(deadline); {
		time.Sleep(500 * time.Millisecond)
	}
	require.Empty(t, m.left())
}

// left is what was not there before any pod was.
func (m *machine) left() (left []string) {
	for _, what := range m.found() {
		if !slices.Contains(m.before, what) {
			left = append(left, what)
		}
	}
	return left
}

// found lists all that pods may leave: cgroups, units and what systemd and nspawn
// note of them, mounts, network interfaces and namespaces, processes.
func (m *machine) found() (found []string) {
	for _, h := range hierarchies() {
		filepath.WalkDir(h, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && (strings.HasPrefix(d.Name(), "k8s_") || strings.Contains(d.Name(), "-pod") || strings.HasPrefix(d.Name(), "pod")) {
				found = append(found, path)
			}
			return nil
		})
	}
	units, err := exec.Command("systemctl", "list-units", "--all", "--plain", "--no-legend", "--full", "k8s_*", "*.scope").CombinedOutput()
	require.NoError(m.t, err)
	for line := range strings.Lines(string(units)) {
		found = append(found, "unit "+strings.Fields(line)[0])
	}
	for _, pattern := range []string{"/run/systemd/*/*k8s_*", "/run/systemd/nspawn/*/rkt-*", "/run/netns/*", m.run + "/netns/*", "/sys/class/net/veth*", "/tmp/nspawn*"} {
		paths, err := filepath.Glob(pattern)
		require.NoError(m.t, err)
		found = append(found, paths...)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(m.t, err)
	for line := range strings.Lines(string(mounts)) {
		if at := strings.Fields(line)[4]; strings.HasPrefix(at, m.dir) || strings.HasPrefix(at, m.run) || strings.HasPrefix(at, m.data) || strings.HasPrefix(at, "/tmp/") {
			found = append(found, "mount "+at)
		}
	}
	procs, err := filepath.Glob("/proc/[0-9]*/comm")
	require.NoError(m.t, err)
	for _, f := range procs {
		if b, err := os.ReadFile(f); err == nil && (strings.HasPrefix(string(b), "rkt-superv") || strings.HasPrefix(string(b), "systemd-nspawn")) {
			found = append(found, "process "+filepath.Dir(f)+" "+strings.TrimSpace(string(b)))
		}
	}
	return found
}
