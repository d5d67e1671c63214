package local

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
)

// chainsOf are the beginnings of the names of chains that kube-proxy, the kubelet,
// the CNI plugins and local-up make. Kube-proxy and the kubelet leave theirs.
var chainsOf = []string{"KUBE-", "CNI-HOSTPORT-", "CNI-DN-", ourChain}

// A purge is what to feed to iptables-restore for a table to lose its chains.
type purge struct {
	chains int
	rules  string
}

// purgeTable reads what iptables-save says of one table. The rules in other chains
// that jump to chains of ours go, then the chains.
func purgeTable(table, saved string) purge {
	var chains, others []string
	for line := range strings.Lines(saved) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, ":"):
			if name, _, _ := strings.Cut(line[1:], " "); isOurs(name) {
				chains = append(chains, name)
			}
		case strings.HasPrefix(line, "-A "):
			rest := line[len("-A "):]
			chain, _, _ := strings.Cut(rest, " ")
			jump := strings.LastIndex(rest, " -j ") // a comment before it may hold anything
			if jump < 0 || isOurs(chain) {
				continue
			}
			if target, _, _ := strings.Cut(rest[jump+len(" -j "):], " "); isOurs(target) {
				others = append(others, "-D "+rest)
			}
		}
	}
	if len(chains) == 0 {
		return purge{}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", table)
	for _, c := range chains { // naming a chain empties it
		fmt.Fprintf(&b, ":%s - [0:0]\n", c)
	}
	for _, rule := range others {
		fmt.Fprintln(&b, rule)
	}
	for _, c := range chains {
		fmt.Fprintf(&b, "-X %s\n", c)
	}
	fmt.Fprintln(&b, "COMMIT")
	return purge{len(chains), b.String()}
}

func isOurs(chain string) bool {
	for _, prefix := range chainsOf {
		if strings.HasPrefix(chain, prefix) {
			return true
		}
	}
	return false
}

// removeChains removes the cluster's chains from every table of this network
// namespace, and says how many there were. A machine without iptables has none.
func removeChains(ctx context.Context) (removed []string, err error) {
	for _, command := range []string{"iptables", "ip6tables"} {
		if _, err := exec.LookPath(command + "-save"); err != nil {
			continue
		}
		n := 0
		for _, table := range []string{"nat", "filter", "mangle", "raw"} {
			saved, err := exec.CommandContext(ctx, command+"-save", "-t", table).Output()
			if err != nil {
				continue // the kernel has no such table, so there is nothing in it
			}
			p := purgeTable(table, string(saved))
			if p.chains == 0 {
				continue
			}
			if err := restore(ctx, command, p.rules); err != nil {
				return removed, err
			}
			n += p.chains
		}
		if n > 0 {
			removed = append(removed, fmt.Sprintf("%d chains of %s", n, command))
		}
	}
	return removed, nil
}
