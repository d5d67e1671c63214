package container_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/pod"
)

// inForce are checks of what a container finds, by what was asked for.
var inForce = map[string]struct {
	ask    func(*runtimeapi.ContainerConfig, string) // with a folder of the host
	script string                                    // what the container says
	says   string
}{
	"args, envs, working_dir": {
		ask: func(c *runtimeapi.ContainerConfig, _ string) {
			c.Args = []string{"first"}
			c.Envs = []*runtimeapi.KeyValue{{Key: "A", Value: []byte("b c")}}
			c.WorkingDir = "/tmp"
		},
		script: "echo $0 $A $(pwd)", says: "first b c /tmp",
	},
	"volumes stay writable, the root does not": {
		ask: func(c *runtimeapi.ContainerConfig, _ string) {
			c.Linux.SecurityContext.ReadonlyRootfs = true
		},
		script: "echo kept > /data/x; cat /data/x; head -n1 /etc/passwd; echo x > /x || echo refused",
		says:   "kept\nroot:x:0:0::/:/bin/sh\nrefused",
	},
	"mounts": {
		ask: func(c *runtimeapi.ContainerConfig, dir string) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/rw"}, {HostPath: dir, ContainerPath: "/ro", Readonly: true},
				{HostPath: dir, ContainerPath: "/rro", Readonly: true, RecursiveReadOnly: true}}
		},
		script: "echo written > /rw/file; cat /ro/file /rro/sub/file; echo x > /ro/x || echo ro; echo x > /ro/sub/x && echo not below; echo x > /rro/sub/y || echo rro",
		says:   "written\nbelow\nro\nnot below\nrro",
	},
	"masked_paths, readonly_paths": {
		ask: func(c *runtimeapi.ContainerConfig, _ string) {
			c.Linux.SecurityContext.MaskedPaths, c.Linux.SecurityContext.ReadonlyPaths = []string{"/proc/version", "/sys/class"}, []string{"/proc/sys"}
		},
		script: "cat /proc/version; ls /sys/class; echo x > /proc/sys/kernel/hostname || echo refused", says: "refused",
	},
	"devices": {
		ask: func(c *runtimeapi.ContainerConfig, _ string) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/kmsg", ContainerPath: "/dev/mine", Permissions: "r"}}
		},
		script: "ls /dev/mine; echo x > /dev/mine || echo refused", says: "/dev/mine\nrefused",
	},
	"oom_score_adj": {
		ask: func(c *runtimeapi.ContainerConfig, _ string) {
			c.Linux.Resources = &runtimeapi.LinuxContainerResources{OomScoreAdj: 321}
		},
		script: "cat /proc/self/oom_score_adj", says: "321",
	},
	"run_as_user, run_as_group, strict groups": {
		ask: func(c *runtimeapi.ContainerConfig, _ string) {
			s := c.Linux.SecurityContext
			s.RunAsUser, s.RunAsGroup = &runtimeapi.Int64Value{Value: 33}, &runtimeapi.Int64Value{Value: 7}
			s.SupplementalGroups, s.SupplementalGroupsPolicy = []int64{8}, runtimeapi.SupplementalGroupsPolicy_Strict
		},
		script: "id -u; id -g; grep Groups: /proc/self/status", says: "33\n7\nGroups:\t7 8 ",
	},
	"capabilities: ALL is the node's bounding set": {
		ask: func(c *runtimeapi.ContainerConfig, _ string) {
			c.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"ALL"}}
		},
		script: "grep CapEff: /proc/self/status", says: "BOUNDING",
	},
	"privileged": {
		ask: func(c *runtimeapi.ContainerConfig, _ string) {
			c.Linux.SecurityContext.Privileged = true
		},
		script: "grep CapEff: /proc/self/status; grep Seccomp: /proc/self/status; ls /dev/kmsg", says: "BOUNDING\nSeccomp:\t0\n/dev/kmsg",
	},
	"seccomp: Unconfined": {
		ask: func(c *runtimeapi.ContainerConfig, _ string) {
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		},
		script: "grep Seccomp: /proc/self/status", says: "Seccomp:\t0",
	},
	"pid: NODE": {
		ask: func(c *runtimeapi.ContainerConfig, _ string) {
			c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_NODE
		},
		script: "cat /proc/TESTPID/comm", says: "COMM",
	},
	"termination message": {
		ask: func(c *runtimeapi.ContainerConfig, dir string) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: filepath.Join(dir, "message"), ContainerPath: "/dev/termination-log"}}
		},
		script: "echo farewell > /dev/termination-log; cat /dev/termination-log", says: "farewell",
	},
	"no mount below a private one arrives": {
		ask: func(c *runtimeapi.ContainerConfig, dir string) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/host"}}
		},
		script: "cat /host/sub/file", says: "below",
	},
}

func TestWhatIsAskedForIsInForce(t *testing.T) {
	n := newNode(t)
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(dir+"/sub", 0o755))
	require.NoError(t, unix.Mount("tmpfs", dir+"/sub", "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir+"/sub", unix.MNT_DETACH)) })
	require.NoError(t, os.WriteFile(dir+"/sub/file", []byte("below\n"), 0o644))
	require.NoError(t, os.WriteFile(dir+"/message", nil, 0o644))
	comm, err := os.ReadFile("/proc/self/comm")
	require.NoError(t, err)
	id := n.launch("lean", nil)
	for name, c := range inForce {
		t.Run(name, func(t *testing.T) {
			script := strings.ReplaceAll(c.script, "TESTPID", fmt.Sprint(os.Getpid()))
			says := strings.NewReplacer("COMM", strings.TrimSpace(string(comm)), "BOUNDING", "CapEff:\t"+boundingSet(t)).Replace(c.says)
			container := n.run(id, script, func(config *runtimeapi.ContainerConfig) { c.ask(config, dir) })

			st := n.exited(container)

			log, err := os.ReadFile(st.LogPath)
			require.NoError(t, err)
			require.Equal(t, says+"\n", stdoutOf(string(log)), "%s", log)
		})
	}
}

// boundingSet is this process's, as /proc/self/status has it.
func boundingSet(t *testing.T) string {
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	_, after, _ := strings.Cut(string(status), "CapBnd:\t")
	set, _, _ := strings.Cut(after, "\n")
	return set
}

// stdoutOf is what a container wrote to its stdout.
func stdoutOf(log string) string {
	var out strings.Builder
	for line := range strings.Lines(log) {
		if _, text, ok := strings.Cut(line, " stdout F "); ok {
			out.WriteString(text)
		}
	}
	return out.String()
}

// Limits are the cgroup's, and are told by ContainerStatus as they were asked for.
func TestLimitsAreTheCgroups(t *testing.T) {
	n := newNode(t)
	resources := &runtimeapi.LinuxContainerResources{CpuPeriod: 50000, CpuQuota: 20000, CpuShares: 512, MemoryLimitInBytes: 48 << 20, CpusetCpus: "0", CpusetMems: "0"}
	c := n.run(n.launch("lean", nil), "sleep 100", func(c *runtimeapi.ContainerConfig) { c.Linux.Resources = resources })
	app, err := n.engine.App(pod.AppID(c))
	require.NoError(t, err)
	read := func(names ...string) string {
		for _, dir := range cgroup.Dirs(app.Cgroup) {
			for _, name := range names {
				if text, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
					return strings.TrimSpace(string(text))
				}
			}
		}
		return ""
	}
	require.Equal(t, "0", read("cpuset.cpus"))
	require.Equal(t, fmt.Sprint(48<<20), read("memory.limit_in_bytes", "memory.max"))
	require.Contains(t, []string{"20000", "20000 50000"}, read("cpu.cfs_quota_us", "cpu.max"))
	require.Contains(t, []string{"512", "20"}, read("cpu.shares", "cpu.weight"))
	st, err := n.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: c})
	require.NoError(t, err)
	require.Equal(t, resources.String(), st.Status.Resources.Linux.String())
}
