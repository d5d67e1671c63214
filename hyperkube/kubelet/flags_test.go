package kubelet

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFlagsOfOursAreTakenAndTheRestIsKept(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		rest []string
		dir  string
	}{
		{"ours with =", []string{"--rkt-dir=/x"}, nil, "/x"},
		{"ours with a space", []string{"--rkt-dir", "/x"}, nil, "/x"},
		{"ours with underscores", []string{"--rkt_dir=/x"}, nil, "/x"},
		{"between the kubelet's", []string{"--v=4", "--rkt-dir", "/x", "--node-ip", "10.0.0.1"}, []string{"--v=4", "--node-ip=10.0.0.1"}, "/x"},
		{"a value that looks like ours", []string{"--hostname-override", "--rkt-dir"}, []string{"--hostname-override=--rkt-dir"}, "/var/lib/rkt"},
		{"short and boolean", []string{"-v", "4", "-h"}, []string{"--v=4", "--help=true"}, "/var/lib/rkt"},
		{"twice the same map", []string{"--feature-gates=A=true", "--feature-gates=B=true"}, []string{"--feature-gates=A=true", "--feature-gates=B=true"}, "/var/lib/rkt"},
		{"what is no flag", []string{"--rkt-dir=/x", "stray"}, []string{"stray"}, "/x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFlags()

			rest, err := f.take(c.args)

			require.NoError(t, err)
			require.Equal(t, c.rest, rest)
			require.Equal(t, c.dir, f.config.Dir)
		})
	}
}

func TestAllBadFlagsAreNamedAtOnce(t *testing.T) {
	_, err := newFlags().take([]string{"--rkt-dir=x", "--cni-conf-dir=y", "--container-runtime=z"})

	require.EqualError(t, err, `--container-runtime=z: must be "rkt" or "remote"
--rkt-dir=x: must be an absolute path
--cni-conf-dir=y: must be an absolute path`)
}

func TestFlagWithoutItsValueIsRefused(t *testing.T) {
	_, err := newFlags().take([]string{"--rkt-dir"})

	require.EqualError(t, err, "parse kubelet flags: flag needs an argument: --rkt-dir")
}
