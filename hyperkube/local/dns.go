package local

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/phases/addons/dns"
)

// dnsIndex is where the DNS has its address in the Services' range, as kubeadm
// has it.
const dnsIndex = 10

// splitCoreDNS takes an image of CoreDNS apart. Its name must end as kubeadm, whose
// manifests are used, has it.
func splitCoreDNS(image string) (repository, tag string, err error) {
	i := strings.LastIndex(image, "/coredns:")
	if i > 0 {
		repository, tag = image[:i], image[i+len("/coredns:"):]
	}
	if repository == "" || tag == "" {
		return "", "", fmt.Errorf("--coredns-image=%s: must be REPOSITORY/coredns:TAG, e.g. registry.k8s.io/coredns/coredns:v1.14.2, or the path of a file, e.g. ./coredns.aci", image)
	}
	return repository, tag, nil
}

// isFile tells a file's path from an image's name as rkt fetch does.
func isFile(image string) bool { return strings.HasPrefix(image, "/") || strings.HasPrefix(image, ".") }

// checkCoreDNS refuses an image of CoreDNS that could not be deployed.
func (o options) checkCoreDNS() error {
	if o.coreDNS == "" {
		return nil
	}
	if !isFile(o.coreDNS) {
		_, _, err := splitCoreDNS(o.coreDNS)
		return err
	}
	if o.runtime != runtimeRkt {
		return fmt.Errorf("--coredns-image=%s: a file is imported into rkt's store, and the runtime is %s: import it there, and give the image's name", o.coreDNS, o.endpoint)
	}
	info, err := os.Stat(o.coreDNS)
	if err != nil {
		return fmt.Errorf("--coredns-image: %w", err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("--coredns-image=%s: is no file", o.coreDNS)
	}
	return nil
}

// importCoreDNS puts the image of a file into the store and gives the name that it
// has there. It must be there before its pods are: while the kubelet tries to pull an
// image, it uses none that was imported.
func (n node) importCoreDNS(ctx context.Context, file string) (image string, err error) {
	version, err := fileVersion(file)
	if err != nil {
		return "", err
	}
	image = "rktshim.local/coredns:" + version
	cmd := self("rkt", "--dir="+n.rktDir(), "fetch", "--name="+image, file)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("import the image of CoreDNS: %w: %s", err, bytes.TrimSpace(out))
	}
	return image, ctx.Err()
}

// fileVersion is a tag for the image in a file: another file is another image.
func fileVersion(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", file, err)
	}
	return hex.EncodeToString(h.Sum(nil)[:6]), nil
}

// deployDNS makes CoreDNS by kubeadm's manifests. One that is there gets the image and
// stays as it is else: kubeadm would update it too, but only from versions of CoreDNS
// that it has heard of.
func deployDNS(ctx context.Context, client kubernetes.Interface, o options) error {
	repository, tag, err := splitCoreDNS(o.coreDNS)
	if err != nil {
		return err
	}
	if err := setCoreDNSImage(ctx, client, o.coreDNS); !apierrors.IsNotFound(err) {
		return err
	}
	// A start that was interrupted may have made the Deployment and no Service.
	err = client.AppsV1().Deployments(metav1.NamespaceSystem).Delete(ctx, coreDNSName, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return dns.EnsureDNSAddon(&kubeadm.ClusterConfiguration{
		DNS:        kubeadm.DNS{ImageMeta: kubeadm.ImageMeta{ImageRepository: repository, ImageTag: tag}},
		Networking: kubeadm.Networking{DNSDomain: clusterDomain, ServiceSubnet: o.ServiceCIDR},
	}, client, "", io.Discard, false)
}

// Names in kubeadm's manifests. The Service is made last.
const (
	coreDNSName    = "coredns" // of the Deployment and its container
	coreDNSService = "kube-dns"
)

// setCoreDNSImage gives the CoreDNS that is there another image, or says that there
// is none.
func setCoreDNSImage(ctx context.Context, client kubernetes.Interface, image string) error {
	if _, err := client.CoreV1().Services(metav1.NamespaceSystem).Get(ctx, coreDNSService, metav1.GetOptions{}); err != nil {
		return err
	}
	patch := fmt.Sprintf(`{"spec":{"template":{"spec":{"containers":[{"name":%q,"image":%q}]}}}}`, coreDNSName, image)
	_, err := client.AppsV1().Deployments(metav1.NamespaceSystem).Patch(ctx, coreDNSName, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{})
	return err
}
