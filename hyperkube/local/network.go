package local

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/utils/ptr"
)

func (n node) cniConf() string { return filepath.Join(n.dir, "cni", "net.d") }

// chooseIP gives the node's address, or "" if it has to be asked for.
func chooseIP(asked string) (string, error) {
	if asked != "" {
		ip := net.ParseIP(asked)
		if ip == nil || ip.To4() == nil || ip.IsLoopback() || ip.IsUnspecified() {
			return "", fmt.Errorf("--node-ip=%s: must be an IPv4 address of this machine, not of loopback", asked)
		}
		return ip.String(), nil
	}
	ip, err := utilnet.ChooseHostInterface()
	if err != nil || ip.To4() == nil {
		return "", nil
	}
	return ip.String(), nil
}

// serviceIP gives an address of the Services' range by its index.
func (s settings) serviceIP(index int) (string, error) {
	_, ipnet, err := net.ParseCIDR(s.ServiceCIDR)
	if err != nil {
		return "", err
	}
	ip := append(net.IP(nil), ipnet.IP.To4()...)
	ip[3] += byte(index)
	return ip.String(), nil
}

// writeCNI writes the configuration of the pods' network.
func (n node) writeCNI(podCIDR string) error {
	conf, err := json.MarshalIndent(map[string]any{
		"cniVersion": "1.0.0",
		"name":       "rktshim-local",
		"plugins": []any{
			map[string]any{"type": "ptp", "ipam": map[string]any{
				"type": "host-local", "dataDir": filepath.Join(n.dir, "cni", "ipam"),
				"ranges": [][]map[string]string{{{"subnet": podCIDR}}},
				"routes": []map[string]string{{"dst": "0.0.0.0/0"}},
			}},
			map[string]any{"type": "portmap", "capabilities": map[string]bool{"portMappings": true}},
		},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.cniConf(), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.cniConf(), "10-rktshim-local.conflist"), append(conf, '\n'), 0o644)
}

// ourChain holds the cluster's own rules: pods reach the world by the node's
// address, and are forwarded even where a firewall's policy is to drop.
const ourChain = "RKTSHIM-LOCAL"

// addRules replaces the cluster's own rules.
func addRules(ctx context.Context, podCIDR string) error {
	rules := strings.NewReplacer("CHAIN", ourChain, "PODS", podCIDR).Replace(`*nat
:CHAIN - [0:0]
-A CHAIN -s PODS ! -d PODS -j MASQUERADE
COMMIT
*filter
:CHAIN - [0:0]
-A CHAIN -s PODS -j ACCEPT
-A CHAIN -d PODS -j ACCEPT
COMMIT
`)
	if err := restore(ctx, "iptables", rules); err != nil {
		return err
	}
	for _, at := range []struct{ table, chain string }{{"nat", "POSTROUTING"}, {"filter", "FORWARD"}} {
		rule := []string{at.chain, "-j", ourChain}
		if iptables(ctx, at.table, append([]string{"-C"}, rule...)...) == nil {
			continue
		}
		if err := iptables(ctx, at.table, append([]string{"-A"}, rule...)...); err != nil {
			return err
		}
	}
	return nil
}

func iptables(ctx context.Context, table string, args ...string) error {
	args = append([]string{"-w", "-t", table}, args...)
	if out, err := exec.CommandContext(ctx, "iptables", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("iptables %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// restore feeds rules to iptables-restore or ip6tables-restore, which apply each
// table whole or not at all. Chains that they do not name stay as they are.
func restore(ctx context.Context, command, rules string) error {
	cmd := exec.CommandContext(ctx, command+"-restore", "--noflush", "-w")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s-restore: %w: %s\n%s", command, err, bytes.TrimSpace(out), rules)
	}
	return nil
}

// resolvConf is the file that pods' DNS is made from: not the one that names a
// resolver on the node's loopback, which pods cannot reach. Empty: there is none.
func resolvConf() *string {
	for _, file := range []string{"/run/systemd/resolve/resolv.conf", "/etc/resolv.conf"} {
		if _, err := os.Stat(file); err == nil {
			return ptr.To(file)
		}
	}
	return ptr.To("")
}
