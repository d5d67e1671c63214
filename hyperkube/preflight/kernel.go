package preflight

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/thread"
)

func root(context.Context, *Config) Result {
	if os.Geteuid() != 0 {
		return missing("run this as root", "uid %d", os.Geteuid())
	}
	return ok("root")
}

func namespaces(context.Context, *Config) Result {
	var lacking []string
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		if _, err := os.Stat("/proc/self/ns/" + ns); err != nil {
			lacking = append(lacking, ns)
		}
	}
	if len(lacking) > 0 {
		return missing("use a kernel with CONFIG_NAMESPACES and all its kinds", "no %s namespaces", strings.Join(lacking, ", "))
	}
	return ok("cgroup, ipc, mnt, net, pid, uts")
}

func overlay(ctx context.Context, _ *Config) Result {
	for range 2 {
		b, err := os.ReadFile("/proc/filesystems")
		if err == nil && slices.Contains(strings.Fields(string(b)), "overlay") {
			return ok("there")
		}
		exec.CommandContext(ctx, "modprobe", "overlay").Run() // then look again
	}
	return missing("use a kernel with CONFIG_OVERLAY_FS, or install its module (modprobe overlay)", "the kernel has no overlay filesystem")
}

func seccomp(context.Context, *Config) Result {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil || !bytes.Contains(b, []byte("\nSeccomp:")) {
		return missing("use a kernel with CONFIG_SECCOMP_FILTER", "the kernel has no seccomp")
	}
	return ok("there")
}

func pidfd(context.Context, *Config) Result {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return missing("use Linux 5.4 or newer", "pidfd_open: %v", err)
	}
	unix.Close(fd)
	return ok("there")
}

// kmsg: the kubelet watches it for the kernel's OOM kills, and does not start without.
func kmsg(context.Context, *Config) Result {
	f, err := os.Open("/dev/kmsg")
	if err != nil {
		return missing("mknod /dev/kmsg c 1 11; in a container that may not: ln -s /dev/console /dev/kmsg", "%v", err)
	}
	f.Close()
	return ok("/dev/kmsg can be read")
}

// controllers are the cgroup controllers without which the kubelet does not start,
// or limits would not be kept.
var controllers = []string{"cpu", "cpuset", "memory", "pids"}

// v1Controllers are needed besides where each has a hierarchy of its own.
var v1Controllers = []string{"cpuacct", "devices", "freezer"}

func cgroups(context.Context, *Config) Result { return cgroupsAt("/sys/fs/cgroup") }

func cgroupsAt(mount string) Result {
	if b, err := os.ReadFile(filepath.Join(mount, "cgroup.controllers")); err == nil {
		if lacking := without(strings.Fields(string(b)), controllers); len(lacking) > 0 {
			return missing("boot a kernel with these controllers, or let the container that this is have them delegated", "v2, without the controllers %s", strings.Join(lacking, ", "))
		}
		return writable(mount, "v2")
	}
	var have []string
	entries, err := os.ReadDir(mount)
	if err != nil {
		return missing("mount the cgroup filesystem at "+mount, "%v", err)
	}
	for _, e := range entries {
		if _, err := os.Stat(filepath.Join(mount, e.Name(), "cgroup.procs")); err == nil {
			have = append(have, strings.Split(e.Name(), ",")...)
		}
	}
	if lacking := without(have, append(v1Controllers, controllers...)); len(lacking) > 0 {
		return missing("mount them (systemd does so), or boot with systemd.unified_cgroup_hierarchy=1 for cgroup v2", "v1, without the hierarchies %s in %s", strings.Join(lacking, ", "), mount)
	}
	return writable(filepath.Join(mount, "memory"), "v1")
}

func without(have, want []string) (lacking []string) {
	for _, w := range want {
		if !slices.Contains(have, w) {
			lacking = append(lacking, w)
		}
	}
	return lacking
}

func writable(dir, version string) Result {
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return missing("make "+dir+" writable: in a container, it has to be started privileged", "%s, but %s: %v", version, dir, err)
	}
	return ok("%s", version)
}

// inNewNetwork runs f in a network namespace that ends with it.
func inNewNetwork(f func() error) error {
	return thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		return f()
	})
}

// proxyRules use what kube-proxy's and portmap's rules use.
const proxyRules = `*filter
:T - [0:0]
-A T -m conntrack --ctstate INVALID -j DROP
-A T -m comment --comment "x" -m mark --mark 0x4000/0x4000 -j ACCEPT
COMMIT
*nat
:T - [0:0]
-A T -m statistic --mode random --probability 0.5 -j RETURN
-A T -m addrtype --dst-type LOCAL -j MARK --or-mark 0x4000
-A T -p tcp -m tcp -j DNAT --to-destination 192.0.2.1:80
-A T -m recent --name x --rcheck --seconds 10 --reap -j RETURN
-A T -j MASQUERADE --random-fully
COMMIT
`

func iptablesWork(ctx context.Context, _ *Config) Result {
	const install = "apt-get install iptables"
	for _, name := range []string{"iptables", "iptables-save", "iptables-restore"} {
		if _, err := exec.LookPath(name); err != nil {
			return missing(install, "no %s", name)
		}
	}
	// One match at a time, so that the answer names it.
	err := inNewNetwork(func() error {
		cmd := exec.CommandContext(ctx, "iptables-restore")
		cmd.Stdin = strings.NewReader(proxyRules)
		if out, err := cmd.CombinedOutput(); err != nil {
			return errors.New(strings.Join(strings.Fields(string(out)), " "))
		}
		return nil
	})
	if err != nil {
		return missing("use a kernel with netfilter's nat table and the matches addrtype, comment, conntrack, mark, recent and statistic (modules xt_* and nf_nat), or see update-alternatives --config iptables", "rules of kube-proxy are refused: %v", err)
	}
	out, _ := exec.CommandContext(ctx, "iptables", "--version").Output()
	return ok("%s, with all that kube-proxy uses", strings.TrimSpace(string(out)))
}

func vethWorks(context.Context, *Config) Result {
	err := inNewNetwork(addVeth)
	if err != nil {
		return missing("use a kernel with CONFIG_VETH, or install its module (modprobe veth)", "a pair of veth links cannot be made: %v", err)
	}
	return ok("veth")
}
