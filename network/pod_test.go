package network

import (
	"encoding/json"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func TestBadInputNamesTheFieldAndLeavesNothing(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"), portmap)
	good := h.pod("a")
	file := filepath.Join(h.dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	port := func(mappings ...PortMapping) func(*Pod) {
		return func(p *Pod) { p.PortMappings = mappings }
	}
	for name, c := range map[string]struct {
		change func(*Pod)
		want   string
	}{
		"no ID":           {func(p *Pod) { p.ID = "" }, `pod ID "": missing`},
		"ID is a path":    {func(p *Pod) { p.ID = "../a" }, `pod ID "../a"`},
		"argument smuggl": {func(p *Pod) { p.Name = "web;K8S_POD_UID=1" }, `pod name "web;K8S_POD_UID=1"`},
		"namespace":       {func(p *Pod) { p.Namespace = "a=b" }, `pod namespace "a=b"`},
		"UID":             {func(p *Pod) { p.UID = ";" }, `pod UID ";"`},
		"no netns":        {func(p *Pod) { p.NetNS = "" }, `network namespace "" of pod a`},
		"netns is a file": {func(p *Pod) { p.NetNS = file }, `network namespace "` + file + `"`},
		"other namespace": {func(p *Pod) { p.NetNS = "/proc/self/ns/ipc" }, `network namespace "/proc/self/ns/ipc"`},
		"protocol":        {port(PortMapping{HostPort: 1, ContainerPort: 1, Protocol: "icmp"}), `port mapping 0: protocol "icmp"`},
		"host port":       {port(PortMapping{HostPort: 65536, ContainerPort: 1}), "port mapping 0: host port 65536"},
		"negative":        {port(PortMapping{HostPort: -1, ContainerPort: 1}), "port mapping 0: host port -1"},
		"container port":  {port(PortMapping{HostPort: 1}), "port mapping 0: container port 0"},
		"host IP":         {port(PortMapping{HostPort: 1, ContainerPort: 1, HostIP: "localhost"}), `host IP "localhost"`},
		"twice":           {port(PortMapping{HostPort: 1, ContainerPort: 1}, PortMapping{HostPort: 1, ContainerPort: 2}), "port mapping 1: host port 1/tcp is mapped twice"},
		"ingress":         {func(p *Pod) { p.Bandwidth.Ingress = 999 }, "ingress bandwidth 999"},
		"egress":          {func(p *Pod) { p.Bandwidth.Egress = 2e15 }, "egress bandwidth 2000000000000000"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := good
			c.change(&pod)
			var r records
			_, err := h.Attach(t.Context(), pod, r.save)
			require.ErrorContains(t, err, c.want)
			require.True(t, errdefs.IsInvalidArgument(err))
			require.Empty(t, r.saved)
		})
	}
	h.requireNothingLeft()
}

func TestHostPortsOfOnePodMustNotOverlap(t *testing.T) {
	m := func(ip, protocol string) PortMapping {
		return PortMapping{HostPort: 80, ContainerPort: 80, HostIP: ip, Protocol: protocol}
	}
	for _, c := range []struct {
		a, b    PortMapping
		overlap bool
	}{
		{m("", ""), m("10.0.0.1", "TCP"), true},
		{m("10.0.0.1", ""), m("10.0.0.1", ""), true},
		{m("10.0.0.1", ""), m("0.0.0.0", ""), true},
		{m("::ffff:10.0.0.1", ""), m("10.0.0.1", ""), true},
		{m("fd00::1", ""), m("::", ""), true},
		{m("", "tcp"), m("", "udp"), false},
		{m("10.0.0.1", ""), m("10.0.0.2", ""), false},
		{m("10.0.0.1", ""), m("::", ""), false},
	} {
		_, err := portMappings([]PortMapping{c.a, c.b})
		require.Equal(t, c.overlap, err != nil, "%v and %v: %v", c.a, c.b, err)
	}
}

func TestCapabilitiesAreSpelledAsTheConventionsSay(t *testing.T) {
	pod := Pod{
		PortMappings: []PortMapping{{HostPort: 8080, ContainerPort: 80, Protocol: "TCP", HostIP: "10.0.0.1"}, {ContainerPort: 81}},
		Bandwidth:    Bandwidth{Ingress: 100e6, Egress: 1000},
		DNS:          DNS{Servers: []string{"10.96.0.10"}, Options: []string{"ndots:5"}},
		CgroupPath:   "/kubepods/pod1",
		Annotations:  map[string]string{"k": "v"},
	}
	caps, err := pod.capabilities([]netip.Prefix{netip.MustParsePrefix("10.1.0.0/24"), netip.MustParsePrefix("fd00::/64")})
	require.NoError(t, err)
	got, err := json.Marshal(caps)
	require.NoError(t, err)
	require.JSONEq(t, `{
		"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "10.0.0.1"}],
		"bandwidth": {"ingressRate": 100000000, "ingressBurst": 10000000, "egressRate": 1000, "egressBurst": 524288},
		"dns": {"servers": ["10.96.0.10"], "options": ["ndots:5"]},
		"ipRanges": [[{"subnet": "10.1.0.0/24"}], [{"subnet": "fd00::/64"}]],
		"cgroupPath": "/kubepods/pod1",
		"io.kubernetes.cri.pod-annotations": {"k": "v"}
	}`, string(got))

	caps, err = (&Pod{PortMappings: []PortMapping{{ContainerPort: 81}}}).capabilities(nil)
	require.NoError(t, err)
	require.Empty(t, caps)
}

func TestOnlyDeclaredCapabilitiesReachAPlugin(t *testing.T) {
	h := newHost(t)
	h.plugin("witness", `cat > `+h.dir+`/$CNI_COMMAND; [ $CNI_COMMAND = DEL ] || echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.2/24"}]}'`)
	h.uses(`{"type": "witness", "capabilities": {"bandwidth": true, "dns": false}}`)
	pod := h.pod("a")
	pod.Bandwidth.Egress = 1e6
	pod.PortMappings = []PortMapping{{HostPort: 1, ContainerPort: 1}}
	pod.DNS.Servers = []string{"10.96.0.10"}
	result, record := h.attach(pod)
	require.Equal(t, []string{"portMappings"}, result.Undeclared)
	h.detach(record)
	for _, verb := range []string{"ADD", "DEL"} {
		stdin, err := os.ReadFile(filepath.Join(h.dir, verb))
		require.NoError(t, err)
		var got map[string]any
		require.NoError(t, json.Unmarshal(stdin, &got))
		require.Equal(t, map[string]any{"bandwidth": map[string]any{"egressRate": 1e6, "egressBurst": 524288.0}}, got["runtimeConfig"], verb)
		require.Equal(t, "pods", got["name"])
		require.Equal(t, verb == "DEL", got["prevResult"] != nil)
	}
}

func TestPodGetsAddressesOutOfThePodCIDRs(t *testing.T) {
	h := newHost(t)
	bridge := h.bridge(false)
	h.uses(strings.Replace(bridge, `"type"`, `"capabilities": {"ipRanges": true}, "type"`, 1))
	h.SetPodCIDRs([]netip.Prefix{netip.MustParsePrefix("10.99.0.0/24"), netip.MustParsePrefix("fd99::/64")})
	result, record := h.attach(h.pod("a"))
	require.Equal(t, []netip.Addr{netip.MustParseAddr("10.99.0.2"), netip.MustParseAddr("fd99::2")}, result.IPs)
	h.detach(record)
	h.requireNothingLeft()
}

func TestBandwidthIsLimited(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(false, "10.88.0.0/24"), `{"type": "bandwidth", "capabilities": {"bandwidth": true}}`)
	pod := h.pod("a")
	pod.Bandwidth = Bandwidth{Ingress: 10e6, Egress: 1e15}
	result, record := h.attach(pod)
	require.Empty(t, result.Undeclared)
	rules, err := exec.Command("tc", "qdisc", "show").Output()
	require.NoError(t, err)
	require.Contains(t, string(rules), "rate 10Mbit burst 125000b lat 25", "ingress")
	require.Regexp(t, `tbf .* rate 1Tbit burst \S+ lat 25`, string(rules), "egress")
	h.detach(record)
	h.requireNothingLeft()
}
