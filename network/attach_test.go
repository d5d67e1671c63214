package network

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAttachedPodIsReachedAtItsAddress(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"))
	pod := h.pod("a")
	result, record := h.attach(pod)
	require.Len(t, result.IPs, 1)
	require.Len(t, result.Interfaces, 1)
	require.Equal(t, "eth0", result.Interfaces[0].Name)
	require.Equal(t, result.IPs[0], result.Interfaces[0].Addresses[0].Addr())
	require.NotEmpty(t, result.Interfaces[0].MAC)
	serve(t, pod.NetNS, 80)
	require.Equal(t, "hello 10.88.0.1", answer(t, hostNetNS, result.IPs[0].String()+":80"))

	again, err := ResultOf(record)
	require.NoError(t, err)
	require.Equal(t, result, again, "a record must tell the same as Attach")
	require.NoError(t, h.Check(t.Context(), record))

	h.detach(record)
	h.requireNothingLeft()
	h.detach(record) // once more does no harm
}

func TestPodsReachEachOtherAndTheirOwnLoopback(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(false, "10.88.0.0/24", "fd88::/64"))
	a, b := h.pod("a"), h.pod("b")
	resultA, recordA := h.attach(a)
	_, recordB := h.attach(b)
	require.Len(t, resultA.IPs, 2, "dual stack")
	serve(t, a.NetNS, 80)
	require.Contains(t, answer(t, b.NetNS, resultA.IPs[0].String()+":80"), "hello 10.88.0.")
	require.Contains(t, answer(t, b.NetNS, "["+resultA.IPs[1].String()+"]:80"), "hello fd88::")
	require.Equal(t, "hello 127.0.0.1", answer(t, a.NetNS, "127.0.0.1:80"))
	require.Equal(t, "hello ::1", answer(t, a.NetNS, "[::1]:80"))
	h.detach(recordA)
	h.detach(recordB)
	h.requireNothingLeft()
}

func TestHostPortLeadsToThePod(t *testing.T) {
	client := outside(t)
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24", "fd88::/64"), portmap)
	pod := h.pod("a")
	pod.PortMappings = []PortMapping{
		{HostPort: 8080, ContainerPort: 80, Protocol: "TCP"},
		{HostPort: 8081, ContainerPort: 80, HostIP: "192.168.77.1"},
		{HostPort: 8082, ContainerPort: 80, HostIP: "0.0.0.0"},
		{HostPort: 8083, ContainerPort: 80, HostIP: "::"},
		{HostPort: 5353, ContainerPort: 53, Protocol: "udp"},
		{HostPort: 5060, ContainerPort: 5060, Protocol: "SCTP"},
		{ContainerPort: 9999},
	}
	result, record := h.attach(pod)
	require.Empty(t, result.Undeclared)
	serve(t, pod.NetNS, 80)
	for _, address := range []string{"192.168.77.1:8080", "[fd77::1]:8080", "192.168.77.1:8081", "192.168.77.1:8082", "[fd77::1]:8083"} {
		require.Contains(t, answer(t, client, address), "hello ", address)
	}
	require.Contains(t, answer(t, hostNetNS, "192.168.77.1:8080"), "hello ", "the node's own address, from the node")
	serveUDP(t, pod.NetNS, 53)
	require.Equal(t, "hello", answerUDP(t, client, "192.168.77.1:5353"))
	require.Equal(t, "hello", answerUDP(t, client, "[fd77::1]:5353"))
	rules := strings.Join(podRules(t), "\n")
	require.Contains(t, rules, "-p sctp -m sctp --dport 5060 -j DNAT --to-destination "+result.IPs[0].String()+":5060")
	require.NotContains(t, rules, "9999", "a port that is not mapped to the host")
	h.detach(record)
	h.requireNothingLeft()
}

func TestRecordIsSavedBeforeThePluginsRunAndAfter(t *testing.T) {
	h := newHost(t)
	h.plugin("witness", `echo "$CNI_COMMAND $CNI_ARGS" >> `+h.dir+`/ran; echo '{"ips": [{"address": "10.0.0.2/24"}]}'`)
	h.uses(`{"type": "witness"}`)
	var r records
	var before []string
	r.seen = func() {
		ran, _ := os.ReadFile(filepath.Join(h.dir, "ran"))
		before = append(before, string(ran))
	}
	_, err := h.Attach(t.Context(), h.pod("a"), r.save)
	require.NoError(t, err)
	args := "ADD IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=a;K8S_POD_UID=uid-a\n"
	require.Equal(t, []string{"", args}, before)
	_, err = ResultOf(r.saved[0])
	require.ErrorContains(t, err, "no result")
	_, err = ResultOf(r.saved[1])
	require.NoError(t, err)
}

func TestNothingRunsIfTheRecordCannotBeSaved(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"))
	full := errors.New("disk full")
	r := records{fail: map[int]error{1: full}}
	_, err := h.Attach(t.Context(), h.pod("a"), r.save)
	require.ErrorIs(t, err, full)
	require.Len(t, r.saved, 1)
	h.requireNothingLeft()
}

func TestAddIsUndoneIfItsResultCannotBeSaved(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"), portmap)
	full := errors.New("disk full")
	r := records{fail: map[int]error{2: full}}
	pod := h.pod("a")
	pod.PortMappings = []PortMapping{{HostPort: 8080, ContainerPort: 80}}
	_, err := h.Attach(t.Context(), pod, r.save)
	require.ErrorIs(t, err, full)
	require.Nil(t, r.last())
	h.requireNothingLeft()
}

// A crash between any two steps must leave no file that no record explains.
func TestFileOfAPodIsThereOnlyWithItsRecord(t *testing.T) {
	for name, plugin := range map[string]string{
		"attached": `echo '{"ips": [{"address": "10.0.0.2/24"}]}'`,
		"undone":   `[ $CNI_COMMAND = DEL ] || exit 1`,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.plugin("witness", plugin)
			h.uses(`{"type": "witness"}`)
			var r records
			var files [][]string
			r.seen = func() { files = append(files, h.unfinished()) }

			_, err := h.Attach(t.Context(), h.pod("a"), r.save)

			require.Equal(t, name == "undone", err != nil)
			require.Len(t, files, 2)
			require.Empty(t, files[0], "made after the first record")
			if name == "undone" {
				require.Empty(t, files[1], "removed before the record is")
			}
			require.Empty(t, h.unfinished())
		})
	}
}

func TestSweepRemovesOnlyFilesOfUnknownPods(t *testing.T) {
	h := newHost(t)
	unknown := func(pod string) bool { return pod == "known" }
	require.NoError(t, h.Sweep(unknown), "no folder yet")
	var held *claim
	for _, pod := range []string{"known", "orphan", "busy"} {
		c, err := h.claim(t.Context(), pod)
		require.NoError(t, err)
		if held = c; pod != "busy" {
			c.release(true)
		}
	}
	require.NoError(t, h.Sweep(unknown))
	require.Equal(t, []string{"busy", "known"}, h.unfinished())
	held.release(false)
}
