package local

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEnvironmentOfTheOldScript(t *testing.T) {
	for _, c := range []struct {
		name    string
		environ []string
		want    environment
	}{
		{"nothing", []string{"HOME=/root", "KUBECONFIG=/x", "KUBE_EDITOR=vi"}, environment{runtime: "rkt"}},
		{"empty is unset", []string{"CONTAINER_RUNTIME="}, environment{runtime: "rkt"}},
		{"rkt", []string{"CONTAINER_RUNTIME=rkt", "RKT_PATH=/bin/rkt", "RKT_STAGE1_IMAGE=lean", "LOG_LEVEL=4"}, environment{runtime: "rkt", rktPath: "/bin/rkt", stage1: "lean", logLevel: "4"}},
		{"remote", []string{"CONTAINER_RUNTIME=remote", "CONTAINER_RUNTIME_ENDPOINT=unix:///c.sock"}, environment{runtime: "remote", endpoint: "unix:///c.sock"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := readEnvironment(c.environ)

			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestEnvironmentThatIsNotKnownIsRefused(t *testing.T) {
	for _, c := range []struct {
		environ []string
		says    string
	}{
		{[]string{"KUBE_ENABLE_CLUSTER_DNS=true"}, `KUBE_ENABLE_CLUSTER_DNS is set, which local-up does not know: unset it, and see "The cluster" in the README`},
		{[]string{"CONTAINER_RUNTIME=docker"}, `CONTAINER_RUNTIME=docker: must be "rkt" or "remote"`},
		{[]string{"CONTAINER_RUNTIME=remote"}, "needs CONTAINER_RUNTIME_ENDPOINT"},
		{[]string{"CONTAINER_RUNTIME_ENDPOINT=unix:///c.sock"}, "needs CONTAINER_RUNTIME=remote"},
		{[]string{"LOG_LEVEL=debug"}, "LOG_LEVEL=debug: must be a number"},
	} {
		_, err := readEnvironment(c.environ)

		require.ErrorContains(t, err, c.says)
	}
}

func TestCIDRs(t *testing.T) {
	require.NoError(t, checkCIDR("pod-cidr", "10.244.0.0/16", 24))
	for value, says := range map[string]string{
		"10.244.0.0": "must be an IPv4 range", "fd00::/64": "must be an IPv4 range", "10.244.0.1/16": "10.244.0.0/16 is meant",
		"10.0.0.0/30": "between /12 and /24", "10.0.0.0/8": "between /12 and /24",
	} {
		require.ErrorContains(t, checkCIDR("pod-cidr", value, 24), says, value)
	}
}

func TestSettingsStayAsTheFirstStartMadeThem(t *testing.T) {
	n := node{t.TempDir()}
	first := settings{"vm", "10.1.0.0/16", "10.2.0.0/16"}
	none := func(string) bool { return false }
	got, err := n.settle(first, none)
	require.NoError(t, err)
	require.Equal(t, first, got)

	got, err = n.settle(settings{"other", "10.244.0.0/16", "10.96.0.0/16"}, none)

	require.NoError(t, err)
	require.Equal(t, first, got)
	_, err = n.settle(settings{"vm", "10.9.0.0/16", "10.2.0.0/16"}, func(string) bool { return true })
	require.ErrorContains(t, err, "--pod-cidr=10.9.0.0/16: the cluster in "+n.dir+" has 10.1.0.0/16")
}

func TestServiceIP(t *testing.T) {
	ip, err := settings{ServiceCIDR: "10.96.4.0/22"}.serviceIP(dnsIndex)
	require.NoError(t, err)
	require.Equal(t, "10.96.4.10", ip)
}

func TestCoreDNSImage(t *testing.T) {
	repository, tag, err := splitCoreDNS("registry.k8s.io/coredns/coredns:v1.14.2")
	require.NoError(t, err)
	require.Equal(t, []string{"registry.k8s.io/coredns", "v1.14.2"}, []string{repository, tag})
	for _, image := range []string{"coredns", "/coredns:v1", "r/coredns:", "r/bind:9"} {
		_, _, err := splitCoreDNS(image)
		require.ErrorContains(t, err, "must be REPOSITORY/coredns:TAG", image)
	}
}
