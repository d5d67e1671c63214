package local

import (
	"fmt"
	"io"
	"strings"

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
		return "", "", fmt.Errorf("--coredns-image=%s: must be REPOSITORY/coredns:TAG, e.g. registry.k8s.io/coredns/coredns:v1.13.1", image)
	}
	return repository, tag, nil
}

// deployDNS makes or updates CoreDNS by kubeadm's manifests.
func deployDNS(client kubernetes.Interface, o options) error {
	repository, tag, err := splitCoreDNS(o.coreDNS)
	if err != nil {
		return err
	}
	return dns.EnsureDNSAddon(&kubeadm.ClusterConfiguration{
		DNS:        kubeadm.DNS{ImageMeta: kubeadm.ImageMeta{ImageRepository: repository, ImageTag: tag}},
		Networking: kubeadm.Networking{DNSDomain: clusterDomain, ServiceSubnet: o.ServiceCIDR},
	}, client, "", io.Discard, false)
}
