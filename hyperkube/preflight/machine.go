package preflight

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/rktshim"
	"github.com/rktnetes/rktshim/sandbox"
)

// Plugins are the CNI plugins of the cluster's network. Ptp wires each pod to the
// node by a link of its own: what goes from pod to pod is routed, so that
// kube-proxy sees it without the kernel's br_netfilter, and no bridge is left.
var plugins = []string{"ptp", "host-local", "portmap"}

// cniBinDirs are where distributions put CNI plugins.
var cniBinDirs = []string{"/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"}

// CNIBinDir is the first folder that has all plugins, or "".
func CNIBinDir() string {
	for _, dir := range cniBinDirs {
		if len(lackingIn(dir)) == 0 {
			return dir
		}
	}
	return ""
}

func lackingIn(dir string) (lacking []string) {
	for _, p := range plugins {
		if _, err := exec.LookPath(filepath.Join(dir, p)); err != nil {
			lacking = append(lacking, p)
		}
	}
	return lacking
}

func cniPlugins(context.Context, *Config) Result {
	if dir := CNIBinDir(); dir != "" {
		return ok("%s in %s", strings.Join(plugins, ", "), dir)
	}
	return missing("apt-get install containernetworking-plugins", "none of %s has all of %s", strings.Join(cniBinDirs, ", "), strings.Join(plugins, ", "))
}

func ociRuntime(context.Context, *Config) Result {
	for _, name := range []string{"crun", "runc"} {
		if path, err := exec.LookPath(name); err == nil {
			return ok("%s", path)
		}
	}
	return missing("apt-get install crun", "neither crun nor runc")
}

// stage1 leaves the names to the runtime, and adds what a flavor needs.
func stage1(_ context.Context, c *Config) Result {
	config := rktshim.DefaultConfig()
	config.Stage1 = c.stage1()
	var bad *rktshim.FieldError
	if err := config.Validate(); errors.As(err, &bad) {
		return missing("set RKT_STAGE1_IMAGE to one of them, or unset it", "RKT_STAGE1_IMAGE=%v: %s", bad.Value, bad.Problem)
	}
	flavor, _ := sandbox.Flavor(config.Stage1)
	if flavor != "nspawn" {
		return ok("%s", flavor)
	}
	path, err := exec.LookPath("systemd-nspawn")
	if err != nil {
		return missing("apt-get install systemd-container, or choose RKT_STAGE1_IMAGE=lean, which needs no program", "nspawn, but there is no systemd-nspawn")
	}
	return ok("nspawn, by %s", path)
}

// rktPath leaves the check to the runtime.
func rktPath(_ context.Context, c *Config) Result {
	if c.RktPath == "" {
		return ok("this binary")
	}
	config := rktshim.DefaultConfig()
	config.RktPath = c.RktPath
	var bad *rktshim.FieldError
	if err := config.Validate(); errors.As(err, &bad) {
		return missing("set RKT_PATH to the absolute path of rkt, or unset it", "RKT_PATH=%v %s", bad.Value, bad.Problem)
	}
	return ok("%s", c.RktPath)
}

func endpoint(ctx context.Context, c *Config) Result {
	path, isUnix := strings.CutPrefix(c.Endpoint, "unix://")
	if !isUnix {
		return missing("set CONTAINER_RUNTIME_ENDPOINT to unix:///PATH", "CONTAINER_RUNTIME_ENDPOINT=%s is no unix socket", c.Endpoint)
	}
	conn, err := (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, "unix", path)
	if err != nil {
		return missing("start the container runtime, or correct CONTAINER_RUNTIME_ENDPOINT", "%v", err)
	}
	conn.Close()
	return ok("%s answers; its own needs are not checked", c.Endpoint)
}

// sysctlsWritable: ptp turns forwarding on, if it is off.
func sysctlsWritable(context.Context, *Config) Result {
	const forward = "/proc/sys/net/ipv4/ip_forward"
	b, err := os.ReadFile(forward)
	if err != nil {
		return missing("mount /proc", "%v", err)
	}
	if strings.TrimSpace(string(b)) == "1" {
		return ok("net.ipv4.ip_forward is 1")
	}
	if err := unix.Access(forward, unix.W_OK); err != nil {
		return missing("sysctl -w net.ipv4.ip_forward=1", "net.ipv4.ip_forward is 0 and cannot be set: %v", err)
	}
	return ok("net.ipv4.ip_forward is 0; the cluster sets it to 1, local-down sets it back")
}

// minDisk is what the kubelet must find free above the limit at which it evicts.
const minDisk = 2 << 30

func disk(_ context.Context, c *Config) Result {
	dir := c.Dir
	for { // the folder need not exist yet
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if errors.Is(err, unix.ENOENT) && dir != "/" {
			dir = filepath.Dir(dir)
			continue
		}
		if err != nil {
			return missing("give another folder: --dir", "%s: %v", dir, err)
		}
		free := st.Bavail * uint64(st.Bsize)
		if free < minDisk {
			return missing("free some, or give a folder on another disk: --dir", "%s free at %s, 2 GiB are needed", gib(free), dir)
		}
		return ok("%s free at %s", gib(free), dir)
	}
}

func gib(bytes uint64) string { return fmt.Sprintf("%.1f GiB", float64(bytes)/(1<<30)) }

func memory(context.Context, *Config) Result {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return missing("", "sysinfo: %v", err)
	}
	total := uint64(si.Totalram) * uint64(si.Unit)
	if total < 15<<26 { // a machine of 1 GiB says a little less
		return warning("the control plane takes about 700 MB: give the machine 1 GiB or more", "%s", gib(total))
	}
	return ok("%s", gib(total))
}

func address(_ context.Context, c *Config) Result {
	if c.NodeIP == "" {
		return missing("give an address of this machine: --node-ip; or add a default route", "no default route, so the node's address is not known")
	}
	return ok("%s", c.NodeIP)
}

func portsFree(_ context.Context, c *Config) Result {
	var taken []string
	for _, p := range c.Ports {
		l, err := net.Listen("tcp", net.JoinHostPort(p.Host, p.Port))
		if err != nil {
			taken = append(taken, fmt.Sprintf("%s of the %s (%v)", p.Port, p.For, err))
			continue
		}
		l.Close()
	}
	if len(taken) > 0 {
		return missing("find who has them by ss -ltnp, and end it: another kubelet, or another cluster of local-up; or start this one in a network namespace of its own (nsenter --net)", "taken: %s", strings.Join(taken, "; "))
	}
	return ok("all %d free", len(c.Ports))
}

// otherNodes looks for another kube-proxy's rules: two would fight over them. Other
// container runtimes are no conflict.
func otherNodes(ctx context.Context, c *Config) Result {
	if c.Again {
		return ok("the folder's own cluster is continued")
	}
	out, err := exec.CommandContext(ctx, "iptables-save", "-t", "nat").Output()
	if err == nil && strings.Contains(string(out), "\n:KUBE-SERVICES ") {
		return missing("end the other cluster on this machine (its kube-proxy --cleanup removes the rules; kubeadm reset; hyperkube local-down), or start this one in a network namespace of its own", "another kube-proxy has its rules in iptables (KUBE-SERVICES)")
	}
	return ok("none")
}
