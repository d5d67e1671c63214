package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// hyperkube is each of its commands, as a subcommand and by the name of a symlink.
func TestEachComponentIsInTheBinary(t *testing.T) {
	hyperkube := binary(t, "hyperkube")
	list, err := exec.Command(hyperkube).Output()
	require.NoError(t, err)
	kubernetes := "v1." // which one is the linker's doing: all must say the same
	for _, c := range []struct {
		name string
		args []string
		says string
	}{
		{"kubelet", []string{"--version"}, "Kubernetes v1."},
		{"kube-apiserver", []string{"--version"}, "Kubernetes v1."},
		{"kube-controller-manager", []string{"--version"}, "Kubernetes v1."},
		{"kube-scheduler", []string{"--version"}, "Kubernetes v1."},
		{"kube-proxy", []string{"--version"}, "Kubernetes v1."},
		{"kubectl", []string{"version", "--client"}, "Client Version: v1."},
		{"etcd", []string{"--version"}, "etcd Version: 3."},
		{"rkt", []string{"version"}, "rkt Version: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			require.Contains(t, string(list), "\n  "+c.name+" ")
			sub, err := exec.Command(hyperkube, append([]string{c.name}, c.args...)...).Output()
			require.NoError(t, err)
			link := filepath.Join(t.TempDir(), c.name)
			require.NoError(t, os.Symlink(hyperkube, link))
			linked, err := exec.Command(link, c.args...).Output()
			require.NoError(t, err)

			require.True(t, strings.HasPrefix(string(sub), c.says), "%s", sub)
			require.Equal(t, string(sub), string(linked))
			if _, version, ok := strings.Cut(string(sub), "v1."); ok {
				version = "v1." + strings.Fields(version)[0]
				if kubernetes == "v1." {
					kubernetes = version
				}
				require.Equal(t, kubernetes, version)
			}
		})
	}
}
