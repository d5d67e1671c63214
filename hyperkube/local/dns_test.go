package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestImagesOfCoreDNSThatCouldNotBeDeployedAreRefused(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "coredns.aci")
	require.NoError(t, os.WriteFile(file, []byte("an image"), 0o600))
	rkt, other := environment{runtime: runtimeRkt}, environment{runtime: runtimeRemote, endpoint: "unix:///c.sock"}
	for _, image := range []string{"", "r/coredns:1", file} {
		require.NoError(t, options{environment: rkt, coreDNS: image}.checkCoreDNS())
	}
	for _, c := range []struct {
		environment
		image, says string
	}{
		{rkt, "r/bind:9", "must be REPOSITORY/coredns:TAG"},
		{rkt, "./coredns:1", "no such file"},
		{rkt, dir, "is no file"},
		{other, file, "the runtime is unix:///c.sock"},
	} {
		require.ErrorContains(t, options{environment: c.environment, coreDNS: c.image}.checkCoreDNS(), c.says)
	}
}

func TestAnotherFileIsAnotherImage(t *testing.T) {
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	require.NoError(t, os.WriteFile(a, []byte("one"), 0o600))
	require.NoError(t, os.WriteFile(b, []byte("two"), 0o600))

	of := func(file string) string {
		version, err := fileVersion(file)
		require.NoError(t, err)
		require.Regexp(t, "^[0-9a-f]{12}$", version)
		return version
	}

	require.Equal(t, of(a), of(a))
	require.NotEqual(t, of(a), of(b))
	_, err := fileVersion(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// Each start deploys DNS, and no tag is one that kubeadm knows.
func TestDNSIsDeployedAgainWithAnyTag(t *testing.T) {
	client := fake.NewClientset()
	o := options{settings: settings{ServiceCIDR: "10.96.0.0/16"}}
	deployed := func(image string) (got string) {
		o.coreDNS = image
		require.NoError(t, deployDNS(t.Context(), client, o))
		d, err := client.AppsV1().Deployments("kube-system").Get(t.Context(), "coredns", metav1.GetOptions{})
		require.NoError(t, err)
		require.Len(t, d.Spec.Template.Spec.Containers, 1)
		require.Equal(t, []string{"-conf", "/etc/coredns/Corefile"}, d.Spec.Template.Spec.Containers[0].Args)
		s, err := client.CoreV1().Services("kube-system").Get(t.Context(), "kube-dns", metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, "10.96.0.10", s.Spec.ClusterIP)
		return d.Spec.Template.Spec.Containers[0].Image
	}

	require.Equal(t, "r/coredns:mine", deployed("r/coredns:mine"))
	require.Equal(t, "r/coredns:mine", deployed("r/coredns:mine"))
	require.Equal(t, "other/r/coredns:v9.1.0", deployed("other/r/coredns:v9.1.0"))

	require.NoError(t, client.CoreV1().Services("kube-system").Delete(t.Context(), "kube-dns", metav1.DeleteOptions{}))
	require.True(t, apierrors.IsNotFound(setCoreDNSImage(t.Context(), client, "r/coredns:1")))
	require.Equal(t, "r/coredns:1", deployed("r/coredns:1"))
	require.NoError(t, client.AppsV1().Deployments("kube-system").Delete(t.Context(), "coredns", metav1.DeleteOptions{}))
	require.Equal(t, "r/coredns:2", deployed("r/coredns:2"))
}
