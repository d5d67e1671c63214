package local

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	certutil "k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
	kubeadm "k8s.io/kubernetes/cmd/kubeadm/app/apis/kubeadm"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/kubeconfig"
	"k8s.io/kubernetes/cmd/kubeadm/app/util/pkiutil"
)

// Authorities. etcd has its own: who has a certificate of the cluster may not read
// the database. So has the API's proxying to extension servers.
const (
	clusterCA    = "ca"
	etcdCA       = "etcd-ca"
	frontProxyCA = "front-proxy-ca"
)

// serviceAccountKey signs the tokens of pods.
const serviceAccountKey = "sa"

func (n node) pki(name string) string        { return filepath.Join(n.dir, "pki", name) }
func (n node) cert(name string) string       { return n.pki(name + ".crt") }
func (n node) key(name string) string        { return n.pki(name + ".key") }
func (n node) kubeconfig(name string) string { return filepath.Join(n.dir, name+".kubeconfig") }

// A leaf is a certificate of a component.
type leaf struct {
	name, ca, user string
	groups         []string
	serves         []string // names and addresses; none: it is a client only
	kubeconfig     bool     // it is put into one, named like it, not into files
}

// leaves are the certificates of a cluster.
func leaves(o options, serviceIP string) []leaf {
	return []leaf{
		{name: "etcd", ca: etcdCA, user: "etcd", serves: []string{"localhost", "127.0.0.1"}},
		{name: "etcd-client", ca: etcdCA, user: "kube-apiserver"},
		{name: "apiserver", ca: clusterCA, user: "kube-apiserver", serves: []string{
			"localhost", "127.0.0.1", o.nodeIP, o.NodeName, serviceIP,
			"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + clusterDomain}},
		{name: "apiserver-kubelet-client", ca: clusterCA, user: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		{name: "front-proxy-client", ca: frontProxyCA, user: "front-proxy-client"},
		{name: "controller-manager-server", ca: clusterCA, user: "kube-controller-manager", serves: []string{"localhost", "127.0.0.1"}},
		{name: "scheduler-server", ca: clusterCA, user: "kube-scheduler", serves: []string{"localhost", "127.0.0.1"}},
		{name: "kubelet-server", ca: clusterCA, user: "system:node:" + o.NodeName, groups: []string{"system:nodes"}, serves: []string{o.NodeName, o.nodeIP, "127.0.0.1"}},
		{name: "admin", ca: clusterCA, user: "kubernetes-super-admin", groups: []string{"system:masters"}, kubeconfig: true},
		{name: "controller-manager", ca: clusterCA, user: "system:kube-controller-manager", kubeconfig: true},
		{name: "scheduler", ca: clusterCA, user: "system:kube-scheduler", kubeconfig: true},
		{name: "kube-proxy", ca: clusterCA, user: "system:kube-proxy", kubeconfig: true},
		{name: "kubelet", ca: clusterCA, user: "system:node:" + o.NodeName, groups: []string{"system:nodes"}, kubeconfig: true},
	}
}

// authority is a CA with its key.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

// issue makes the certificates and kubeconfigs. Authorities and the key of service
// accounts stay as the first start made them; all others are new at each start, so
// that they fit the node's address and never expire in use of a cluster that is
// started once a year.
func (n node) issue(o options, serviceIP string) error {
	if err := os.MkdirAll(n.pki(""), 0o700); err != nil {
		return err
	}
	authorities := map[string]authority{}
	for _, name := range []string{clusterCA, etcdCA, frontProxyCA} {
		a, err := n.authority(name)
		if err != nil {
			return fmt.Errorf("certificate authority %s: %w", name, err)
		}
		authorities[name] = a
	}
	if err := n.makeServiceAccountKey(); err != nil {
		return err
	}
	for _, l := range leaves(o, serviceIP) {
		if err := n.issueLeaf(l, authorities[l.ca], apiURL(o.nodeIP)); err != nil {
			return fmt.Errorf("certificate %s: %w", l.name, err)
		}
	}
	return nil
}

func (n node) authority(name string) (a authority, err error) {
	if pkiutil.CertOrKeyExist(n.pki(""), name) {
		a.cert, a.key, err = pkiutil.TryLoadCertAndKeyFromDisk(n.pki(""), name)
		return a, err
	}
	a.cert, a.key, err = pkiutil.NewCertificateAuthority(&pkiutil.CertConfig{
		Config:              certutil.Config{CommonName: "rktshim-local-" + name},
		NotAfter:            time.Now().AddDate(10, 0, 0),
		EncryptionAlgorithm: kubeadm.EncryptionAlgorithmECDSAP256,
	})
	if err != nil {
		return a, err
	}
	return a, pkiutil.WriteCertAndKey(n.pki(""), name, a.cert, a.key)
}

func (n node) makeServiceAccountKey() error {
	if _, err := os.Stat(n.key(serviceAccountKey)); err == nil {
		return nil
	}
	key, err := pkiutil.GeneratePrivateKey(kubeadm.EncryptionAlgorithmECDSAP256)
	if err != nil {
		return err
	}
	if err := pkiutil.WritePublicKey(n.pki(""), serviceAccountKey, key.Public()); err != nil {
		return err
	}
	return pkiutil.WriteKey(n.pki(""), serviceAccountKey, key)
}

func (n node) issueLeaf(l leaf, ca authority, server string) error {
	config := &pkiutil.CertConfig{
		Config: certutil.Config{
			CommonName:   l.user,
			Organization: l.groups,
			NotBefore:    ca.cert.NotBefore,
			Usages:       []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		},
		NotAfter:            time.Now().AddDate(1, 0, 0),
		EncryptionAlgorithm: kubeadm.EncryptionAlgorithmECDSAP256,
	}
	for _, s := range l.serves {
		if ip := net.ParseIP(s); ip != nil {
			config.AltNames.IPs = append(config.AltNames.IPs, ip)
		} else {
			config.AltNames.DNSNames = append(config.AltNames.DNSNames, s)
		}
	}
	if len(l.serves) > 0 {
		config.Usages = append(config.Usages, x509.ExtKeyUsageServerAuth)
	}
	cert, key, err := pkiutil.NewCertAndKey(ca.cert, ca.key, config)
	if err != nil {
		return err
	}
	if !l.kubeconfig {
		return pkiutil.WriteCertAndKey(n.pki(""), l.name, cert, key)
	}
	pem, err := keyutil.MarshalPrivateKeyToPEM(key)
	if err != nil {
		return err
	}
	kc := kubeconfig.CreateWithCerts(server, "rktshim-local", l.user, pkiutil.EncodeCertPEM(ca.cert), pem, pkiutil.EncodeCertPEM(cert))
	return kubeconfig.WriteToDisk(n.kubeconfig(l.name), kc)
}
