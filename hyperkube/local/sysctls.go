package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sysctls are the ones that the kubelet, kube-proxy and the CNI plugins set.
var sysctls = []string{
	"kernel/keys/root_maxbytes", "kernel/keys/root_maxkeys", "kernel/panic", "kernel/panic_on_oops",
	"vm/overcommit_memory", "vm/panic_on_oom",
	"net/ipv4/ip_forward", "net/ipv4/conf/all/route_localnet",
}

func (n node) sysctlsFile() string { return filepath.Join(n.dir, "sysctls.json") }

// noteSysctls remembers what the sysctls were before the cluster's first start.
func (n node) noteSysctls() error {
	if _, err := os.Stat(n.sysctlsFile()); err == nil {
		return nil
	}
	was := map[string]string{}
	for _, s := range sysctls {
		b, err := os.ReadFile(filepath.Join("/proc/sys", s))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		was[s] = strings.TrimSpace(string(b))
	}
	b, err := json.Marshal(was)
	if err != nil {
		return err
	}
	return os.WriteFile(n.sysctlsFile(), append(b, '\n'), 0o600)
}

// restoreSysctls sets them back, and names the ones that had changed.
func (n node) restoreSysctls() (restored []string, err error) {
	b, err := os.ReadFile(n.sysctlsFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var was map[string]string
	if err := json.Unmarshal(b, &was); err != nil {
		return nil, fmt.Errorf("read %s: %w", n.sysctlsFile(), err)
	}
	for s, value := range was {
		file := filepath.Join("/proc/sys", s)
		now, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(now)) == value {
			continue
		}
		if err := os.WriteFile(file, []byte(value), 0); err != nil {
			return restored, err
		}
		restored = append(restored, fmt.Sprintf("%s to %s", strings.ReplaceAll(s, "/", "."), value))
	}
	slices.Sort(restored)
	return restored, nil
}
