package sandbox

import (
	"fmt"
	"math"
	"path"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroupParent converts CRI's cgroupfs path to what the launcher takes: with
// systemd the name of a slice, else an absolute path. A path may already end in a
// slice, as the kubelet's do when its cgroup driver is systemd.
func cgroupParent(parent string, systemd bool) (string, error) {
	const field = "linux.cgroup_parent"
	if parent == "" {
		return "", nil
	}
	for _, part := range strings.Split(parent, "/") {
		if part == ".." {
			return "", invalid(field, "%q must not lead upwards", parent)
		}
	}
	clean := path.Clean("/" + parent)
	isSlice := strings.HasSuffix(clean, ".slice")
	switch {
	case systemd && isSlice:
		return path.Base(clean), nil
	case systemd:
		return sliceName(clean), nil
	case isSlice && strings.Count(clean, "/") == 1:
		return slicePath(path.Base(clean)), nil
	}
	return clean, nil
}

// sliceName makes a slice's name of a cgroupfs path as the kubelet does: parts
// joined by dashes, a part's own dashes turned to underscores.
func sliceName(clean string) string {
	if clean == "/" {
		return "-.slice"
	}
	parts := strings.Split(strings.TrimPrefix(clean, "/"), "/")
	for i, part := range parts {
		parts[i] = strings.ReplaceAll(part, "-", "_")
	}
	return strings.Join(parts, "-") + ".slice"
}

// slicePath returns where a slice's cgroup lies: a-b.slice in a.slice/a-b.slice
// (systemd.slice(5)).
func slicePath(slice string) string {
	name := strings.TrimSuffix(slice, ".slice")
	out, sofar := "/", ""
	for _, part := range strings.Split(name, "-") {
		sofar += part
		out = path.Join(out, sofar+".slice")
		sofar += "-"
	}
	return out
}

// renderDNS writes resolv.conf (resolv.conf(5)).
func renderDNS(dns *runtimeapi.DNSConfig) (string, error) {
	var b strings.Builder
	line := func(field, key string, values []string) error {
		for _, v := range values {
			if v == "" || strings.ContainsAny(v, " \t\n\r") {
				return invalid("dns_config."+field, "%q is not one word", v)
			}
		}
		if len(values) > 0 {
			b.WriteString(key + " " + strings.Join(values, " ") + "\n")
		}
		return nil
	}
	if err := line("searches", "search", dns.GetSearches()); err != nil {
		return "", err
	}
	for _, server := range dns.GetServers() {
		if err := line("servers", "nameserver", []string{server}); err != nil {
			return "", err
		}
	}
	if err := line("options", "options", dns.GetOptions()); err != nil {
		return "", err
	}
	return b.String(), nil
}

// safeSysctls are those that Kubernetes calls safe: namespaced, and harmless to
// others (kubernetes.io, "Using sysctls in a Kubernetes Cluster").
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ping_group_range",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.tcp_wmem",
}

// sysctls refuses those that the node does not allow. Whether the pod owns the
// namespace that one belongs to is the isolator's contract to check.
func (s *Service) sysctls(asked map[string]string) (map[string]string, error) {
	for name := range asked {
		if !allowed(safeSysctls, name) && !allowed(s.cfg.Sysctls, name) {
			return nil, fmt.Errorf("linux.sysctls: %q is not among the safe ones, nor allowed on this node: %w", name, errdefs.ErrInvalidArgument)
		}
	}
	return asked, nil
}

func allowed(list []string, name string) bool {
	dotted := name
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' { // sysctl(8): the first separator decides
		dotted = strings.NewReplacer("/", ".", ".", "/").Replace(name)
	}
	for _, entry := range list {
		if prefix, wild := strings.CutSuffix(entry, "*"); dotted == entry || wild && strings.HasPrefix(dotted, prefix) {
			return true
		}
	}
	return false
}

// suffixes of Kubernetes quantities.
var suffixes = []struct {
	suffix string
	factor float64
}{
	{"Ki", 1 << 10}, {"Mi", 1 << 20}, {"Gi", 1 << 30}, {"Ti", 1 << 40}, {"Pi", 1 << 50},
	{"k", 1e3}, {"M", 1e6}, {"G", 1e9}, {"T", 1e12}, {"P", 1e15}, {"", 1},
}

// bandwidth reads an annotation's quantity in bits per second; 0 if there is none.
func bandwidth(annotations map[string]string, key string) (uint64, error) {
	text, ok := annotations[key]
	if !ok {
		return 0, nil
	}
	for _, s := range suffixes {
		number, ok := strings.CutSuffix(text, s.suffix)
		if !ok {
			continue
		}
		v, err := strconv.ParseFloat(number, 64)
		if rate := v * s.factor; err == nil && rate >= 1 && rate <= math.MaxInt64 {
			return uint64(rate), nil
		}
		break
	}
	return 0, invalid("annotation "+key, "%q is not a quantity of bits per second, like 10M", text)
}
