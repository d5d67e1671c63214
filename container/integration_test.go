package container_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/container"
	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/stage1/fly"
	"github.com/rktnetes/rktshim/stage1/lean"
	"github.com/rktnetes/rktshim/stage1/nspawn"
	"github.com/rktnetes/rktshim/supervisor/launch"
)

// marks begins the cgroup parents of these tests; the pid of the run follows.
const marks = "rktt-container-"

// mark is the cgroup parent of all pods of this run: the next one kills what is left
// in it if this one was killed, and one beside it does not.
var mark = "/" + marks + os.Getenv("RKTT_INSIDE")

// supervisorBinary builds what pods are supervised by, once.
var supervisorBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "rktt-container-bin")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "rkt-supervisor")
	build := exec.Command("go", "build", "-o", path, "github.com/rktnetes/rktshim/cmd/rkt-supervisor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// TestMain runs the tests in a mount namespace of their own. On a hybrid host whose
// v2 hierarchy has controllers, crun refuses to run; there that hierarchy is hidden.
func TestMain(m *testing.M) {
	if os.Getenv("RKTT_INSIDE") == "" {
		os.Exit(runInside())
	}
	if text, _ := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers"); strings.TrimSpace(string(text)) != "" {
		if err := unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH); err != nil {
			panic(err)
		}
	}
	if dir := os.Getenv("RKTT_CHURN"); dir != "" {
		churn(dir)
	}
	sweep()
	code := m.Run()
	if path, err := supervisorBinary(); err == nil {
		os.RemoveAll(filepath.Dir(path))
	}
	sweep()
	hidden := "/sys/fs/cgroup/unified" + mark // where crun makes folders, of no file system of cgroups
	if !exists(filepath.Join(filepath.Dir(hidden), "cgroup.procs")) {
		os.RemoveAll(hidden)
	}
	os.Exit(code)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func runInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "RKTT_INSIDE="+strconv.Itoa(os.Getpid()))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// sweep removes the pods of this run, and of those that are over.
func sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, name := range cgroup.Children("/") {
		run, ours := strings.CutPrefix(name, marks)
		pid, err := strconv.Atoi(run)
		if !ours || "/"+name != mark && (err != nil || !errors.Is(unix.Kill(pid, 0), unix.ESRCH)) {
			continue
		}
		if err := errors.Join(cgroup.Kill(ctx, "/"+name), cgroup.Remove(ctx, "/"+name)); err != nil {
			fmt.Println(err)
		}
	}
}

// node is an engine with real supervisors and a real OCI runtime; images are one
// folder with busybox in it.
type node struct {
	t      testing.TB
	dir    string
	engine *pod.Engine
	*container.Service
	stop func()
}

func newNode(t testing.TB) *node {
	n := &node{t: t, dir: t.TempDir()}
	t.Cleanup(n.requireNothingLeft)
	n.start()
	return n
}

func newEngine(dir, binary string) (*pod.Engine, *container.Service, error) {
	runtime, err := exec.LookPath("crun")
	if err != nil {
		return nil, nil, err
	}
	e, err := pod.New(pod.Config{
		Dir: dir + "/pods", RunDir: dir + "/run", NetNSDir: dir + "/netns", Supervisor: binary, Runtime: runtime,
		CgroupParents: []string{mark},
		Flavors:       map[string]pod.Flavor{"nspawn": nspawn.Isolator{}, "lean": lean.Isolator{}, "fly": fly.Isolator{}},
	}, &launch.Detached{}, noPlugins{}, folderRoots{dir})
	if err != nil {
		return nil, nil, err
	}
	facts, err := container.LocalNode()
	facts.CompiledSeccomp = true
	return e, container.New(facts, e, busybox{}), err
}

// start runs an engine; called again after stop it is the next process.
func (n *node) start() {
	t := n.t
	binary, err := supervisorBinary()
	require.NoError(t, err)
	if _, err := exec.LookPath("crun"); err != nil {
		t.Skip("needs crun: it is not installed")
	}
	n.engine, n.Service, err = newEngine(n.dir, binary)
	require.NoError(t, err)
	require.NoError(t, n.engine.Recover(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.engine.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-done)
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for _, p := range n.engine.Pods(nil) {
			require.NoError(t, n.engine.Remove(ctx, p.ID))
		}
	})
	t.Cleanup(n.stop)
}

func (n *node) requireNothingLeft() {
	for _, dir := range []string{"pods", "run", "netns", "roots"} {
		entries, err := os.ReadDir(filepath.Join(n.dir, dir))
		if !os.IsNotExist(err) {
			require.NoError(n.t, err)
		}
		require.Empty(n.t, entries, dir)
	}
	require.Empty(n.t, cgroup.Children(mark), "cgroups")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(n.t, err)
	require.NotContains(n.t, string(mounts), n.dir)
}

// noPlugins leaves pods with their loopback.
type noPlugins struct{}

func (noPlugins) Attach(context.Context, network.Pod, network.Save) (network.Result, error) {
	return network.Result{}, nil
}
func (noPlugins) Detach(context.Context, json.RawMessage) error { return nil }

// folderRoots makes roots that are plain folders.
type folderRoots struct{ dir string }

func (r folderRoots) path(id string) string { return filepath.Join(r.dir, "roots", id) }

func (r folderRoots) CreateRoot(_ context.Context, id, _ string) error {
	root := r.path(id)
	for _, dir := range []string{"bin", "etc", "proc", "sys", "dev", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return err
		}
	}
	for _, f := range []struct{ name, text string }{
		{"etc/passwd", "root:x:0:0::/:/bin/sh\nweb:x:33:34::/:/bin/sh\n"}, {"etc/group", "root:x:0:\nweb:x:34:\nextra:x:50:web\n"}} {
		if err := os.WriteFile(filepath.Join(root, f.name), []byte(f.text), 0o644); err != nil {
			return err
		}
	}
	binary, err := os.ReadFile("/bin/busybox")
	if err == nil {
		err = os.WriteFile(filepath.Join(root, "bin/busybox"), binary, 0o755)
	}
	for _, name := range []string{"sh", "sleep", "cat", "id", "ps", "mkdir", "echo", "true", "hostname", "tail", "head", "unshare", "grep", "ls"} {
		if err == nil {
			err = os.Symlink("busybox", filepath.Join(root, "bin", name))
		}
	}
	return err
}

func (r folderRoots) Mount(_ context.Context, id string) (string, error) { return r.path(id), nil }
func (r folderRoots) RemoveRoot(_ context.Context, id string) error      { return os.RemoveAll(r.path(id)) }
func (r folderRoots) RootIDs(context.Context) (ids []string, err error) {
	entries, err := os.ReadDir(filepath.Join(r.dir, "roots"))
	if os.IsNotExist(err) {
		return nil, nil
	}
	for _, e := range entries {
		ids = append(ids, e.Name())
	}
	return ids, err
}

type busybox struct{}

func (busybox) Layer(pod.AppID) (container.Layer, bool) { return container.Layer{}, false }

func (busybox) ContainerImage(context.Context, string) (container.Image, error) {
	return container.Image{ID: "sha256:1", Ref: "busybox", Cmd: []string{"/bin/sh"}, Volumes: []string{"/data", "/etc"}}, nil
}

func (n *node) launch(flavor string, change func(*pod.Spec)) pod.ID {
	n.t.Helper()
	spec := pod.Spec{UID: flavor, Name: "web", Namespace: "default", Flavor: flavor, Hostname: "web", CgroupParent: mark, ShmBytes: 1 << 20,
		ResolvConf: "nameserver 10.0.0.10\n", LogDir: n.dir + "/logs"}
	if flavor == "fly" {
		spec.Hostname, spec.HostIPC, spec.HostNetwork, spec.HostUTS, spec.ShmBytes = "", true, true, true, 0
	}
	if change != nil {
		change(&spec)
	}
	id, err := n.engine.Launch(n.t.Context(), spec)
	require.NoError(n.t, err)
	return id
}

// run creates and starts a container that runs a shell script.
func (n *node) run(id pod.ID, script string, change func(*runtimeapi.ContainerConfig)) string {
	n.t.Helper()
	config := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: fmt.Sprintf("c%d", len(n.engine.Apps(nil)))},
		Image:    &runtimeapi.ImageSpec{Image: "busybox"},
		Command:  []string{"/bin/sh", "-c", script},
		LogPath:  fmt.Sprintf("c%d.log", len(n.engine.Apps(nil))),
		Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
			NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
			Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
		}},
	}
	if change != nil {
		change(config)
	}
	privileged := &runtimeapi.PodSandboxConfig{Linux: &runtimeapi.LinuxPodSandboxConfig{SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{Privileged: true}}}
	resp, err := n.CreateContainer(n.t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: string(id), Config: config, SandboxConfig: privileged})
	require.NoError(n.t, err)
	_, err = n.StartContainer(n.t.Context(), &runtimeapi.StartContainerRequest{ContainerId: resp.ContainerId})
	require.NoError(n.t, err)
	return resp.ContainerId
}

func (n *node) exec(id string, cmd ...string) string {
	n.t.Helper()
	resp, err := n.ExecSync(n.t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: id, Cmd: cmd, Timeout: 20})
	require.NoError(n.t, err)
	require.Zero(n.t, resp.ExitCode, string(resp.Stderr))
	return string(resp.Stdout)
}

func (n *node) exited(id string) *runtimeapi.ContainerStatus {
	n.t.Helper()
	var st *runtimeapi.ContainerStatus
	require.Eventually(n.t, func() bool {
		resp, err := n.ContainerStatus(n.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id})
		require.NoError(n.t, err)
		st = resp.Status
		return st.State == runtimeapi.ContainerState_CONTAINER_EXITED
	}, 20*time.Second, 5*time.Millisecond)
	return st
}

func TestContainerLivesAndDiesInEachFlavor(t *testing.T) {
	for _, flavor := range []string{"lean", "nspawn", "fly"} {
		t.Run(flavor, func(t *testing.T) {
			n := newNode(t)
			id := n.launch(flavor, nil)
			c := n.run(id, "echo hello; trap 'exit 3' TERM; while :; do sleep 0.1; done", func(c *runtimeapi.ContainerConfig) {
				c.Linux.SecurityContext.Privileged = flavor == "fly"
			})

			require.Equal(t, "nameserver 10.0.0.10\n", n.exec(c, "cat", "/etc/resolv.conf"))
			if flavor != "fly" {
				require.Equal(t, "web\n", n.exec(c, "hostname"))
				require.Contains(t, n.exec(c, "grep", "Seccomp:", "/proc/self/status"), "2", "a filter is in force")
			} else {
				own, err := os.ReadFile("/proc/self/comm")
				require.NoError(t, err)
				require.Equal(t, string(own), n.exec(c, "cat", fmt.Sprintf("/proc/%d/comm", os.Getpid())), "it sees the host's processes")
			}
			_, err := n.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: c, Timeout: 10})
			require.NoError(t, err)
			st := n.exited(c)
			require.Equal(t, int32(3), st.ExitCode)
			require.NotZero(t, st.StartedAt)
			log, err := os.ReadFile(st.LogPath)
			require.NoError(t, err)
			require.Contains(t, string(log), " stdout F hello\n")
		})
	}
}

func TestOOMKillIsReported(t *testing.T) {
	n := newNode(t)
	c := n.run(n.launch("lean", nil), "tail /dev/zero", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 16 << 20}
	})
	st := n.exited(c)
	require.Equal(t, "OOMKilled", st.Reason)
	require.Equal(t, int32(137), st.ExitCode)
}

func TestIdentityIsInForce(t *testing.T) {
	n := newNode(t)
	c := n.run(n.launch("lean", nil), "sleep 100", func(c *runtimeapi.ContainerConfig) {
		s := c.Linux.SecurityContext
		s.RunAsUsername, s.SupplementalGroups, s.ReadonlyRootfs, s.NoNewPrivs = "web", []int64{60}, true, true
		s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddAmbientCapabilities: []string{"NET_RAW"}}
	})
	require.Contains(t, n.exec(c, "grep", "Groups:", "/proc/1/status"), "34 50 60")
	status := n.exec(c, "cat", "/proc/1/status")
	require.Contains(t, status, "Uid:\t33\t33")
	require.Contains(t, status, "CapAmb:\t0000000000002000")
	require.Contains(t, status, "NoNewPrivs:\t1")
	resp, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c, Cmd: []string{"mkdir", "/x"}})
	require.NoError(t, err)
	require.Contains(t, string(resp.Stderr), "Read-only")
}

func TestPIDNamespacesFollowTheirMode(t *testing.T) {
	n := newNode(t)
	pid := func(mode runtimeapi.NamespaceMode, target string) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: mode, TargetId: target}
		}
	}
	own := n.launch("lean", nil)
	first := n.run(own, "sleep 100", nil)
	second := n.run(own, "sleep 200", pid(runtimeapi.NamespaceMode_TARGET, first))
	require.Contains(t, n.exec(second, "ps"), "sleep 100")
	require.NotContains(t, n.exec(n.run(own, "sleep 300", nil), "ps"), "sleep 100")
	shared := n.launch("lean", func(s *pod.Spec) { s.UID, s.SharedPID = "shared", true })
	a := n.run(shared, "sleep 101", pid(runtimeapi.NamespaceMode_POD, ""))
	n.run(shared, "sleep 102", pid(runtimeapi.NamespaceMode_POD, ""))
	require.Contains(t, n.exec(a, "ps"), "sleep 102")
}

func TestUpdateReachesTheCgroup(t *testing.T) {
	n := newNode(t)
	c := n.run(n.launch("lean", nil), "sleep 100", func(c *runtimeapi.ContainerConfig) {
		c.Linux.Resources = &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuShares: 100}
	})
	_, err := n.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: c,
		Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}})
	require.NoError(t, err)
	app, err := n.engine.App(pod.AppID(c))
	require.NoError(t, err)
	limit := ""
	for _, dir := range cgroup.Dirs(app.Cgroup) {
		for _, name := range []string{"memory.limit_in_bytes", "memory.max"} {
			if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				limit = strings.TrimSpace(string(text))
			}
		}
	}
	require.Equal(t, fmt.Sprint(32<<20), limit)
}

func TestContainersOutliveTheEngine(t *testing.T) {
	n := newNode(t)
	id := n.launch("lean", nil)
	lives := n.run(id, "sleep 100", nil)
	ends := n.run(id, "sleep 0.2; exit 5", nil)
	n.stop()
	app, err := n.engine.App(pod.AppID(ends))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return unix.Kill(app.PID, 0) != nil }, time.Minute, 5*time.Millisecond)

	n.start()

	require.Equal(t, int32(5), n.exited(ends).ExitCode)
	require.Equal(t, "web\n", n.exec(lives, "hostname"))
}

func TestKilledSupervisorTakesItsPodOnly(t *testing.T) {
	n := newNode(t)
	id, other := n.launch("lean", nil), n.launch("nspawn", nil)
	c, lives := n.run(id, "sleep 100", nil), n.run(other, "sleep 100", nil)
	conn, err := n.engine.Connection(t.Context(), id)
	require.NoError(t, err)
	app, err := n.engine.App(pod.AppID(c))
	require.NoError(t, err)

	require.NoError(t, unix.Kill(conn.Hello().PID, unix.SIGKILL))

	require.Equal(t, int32(137), n.exited(c).ExitCode)
	require.Empty(t, cgroup.Dirs(app.Cgroup), "what was in it is dead")
	require.Equal(t, "web\n", n.exec(lives, "hostname"))
}

func TestExecIsKilledAtItsTimeout(t *testing.T) {
	n := newNode(t)
	c := n.run(n.launch("lean", nil), "sleep 100", nil)
	_, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c, Cmd: []string{"sh", "-c", "sleep 77 & sleep 78"}, Timeout: 1})
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotContains(t, n.exec(c, "ps"), "sleep 7")
}

// The first container has its filter compiled by crun, the second gets the program:
// both must forbid and allow the same.
func TestCompiledFilterIsInForce(t *testing.T) {
	n := newNode(t)
	profile := filepath.Join(t.TempDir(), "profile.json")
	require.NoError(t, os.WriteFile(profile, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
		{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}`), 0o600))
	id := n.launch("lean", nil)
	for i, compiled := range []bool{false, true} {
		c := n.run(id, "sleep 100", func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: profile}
		})
		config, err := os.ReadFile(filepath.Join(n.dir, "pods", string(id), "apps", c, "bundle/config.json"))
		require.NoError(t, err)
		require.Equal(t, compiled, strings.Contains(string(config), "run.oci.seccomp_bpf_data"), i)
		require.Contains(t, n.exec(c, "grep", "Seccomp:", "/proc/1/status"), "2")
		resp, err := n.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: c, Cmd: []string{"mkdir", "/tmp/x"}})
		require.NoError(t, err)
		require.Contains(t, string(resp.Stderr), "not supported", "forbidden with the errno of the profile")
		n.exec(c, "ls", "/")
	}
}
