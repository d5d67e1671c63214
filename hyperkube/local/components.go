package local

import (
	"net"
	"path/filepath"
)

// clusterDomain is the suffix of names in the cluster's DNS.
const clusterDomain = "cluster.local"

// apiPort is where the API is served, on the node's address.
const apiPort = "6443"

func apiURL(nodeIP string) string { return "https://" + net.JoinHostPort(nodeIP, apiPort) }

// A component is a program of the cluster: this binary under another name.
type component struct {
	name   string
	health string // URL that says 200 once the component works
	args   []string
}

func (n node) etcd() component {
	return component{"etcd", "http://127.0.0.1:2381/readyz", []string{
		"--name=local", "--data-dir=" + filepath.Join(n.dir, "etcd"), "--log-level=warn",
		"--listen-client-urls=https://127.0.0.1:2379", "--advertise-client-urls=https://127.0.0.1:2379",
		"--listen-peer-urls=https://127.0.0.1:2380", "--initial-advertise-peer-urls=https://127.0.0.1:2380",
		"--initial-cluster=local=https://127.0.0.1:2380", "--listen-metrics-urls=http://127.0.0.1:2381",
		"--client-cert-auth", "--trusted-ca-file=" + n.cert(etcdCA), "--cert-file=" + n.cert("etcd"), "--key-file=" + n.key("etcd"),
		"--peer-client-cert-auth", "--peer-trusted-ca-file=" + n.cert(etcdCA), "--peer-cert-file=" + n.cert("etcd"), "--peer-key-file=" + n.key("etcd"),
		"--watch-progress-notify-interval=5s", "--auto-compaction-retention=1h",
	}}
}

func (n node) apiserver(o options) component {
	return component{"kube-apiserver", apiURL(o.nodeIP) + "/readyz", []string{
		"--advertise-address=" + o.nodeIP, "--bind-address=" + o.nodeIP, "--secure-port=" + apiPort,
		"--etcd-servers=https://127.0.0.1:2379", "--etcd-cafile=" + n.cert(etcdCA),
		"--etcd-certfile=" + n.cert("etcd-client"), "--etcd-keyfile=" + n.key("etcd-client"),
		"--client-ca-file=" + n.cert(clusterCA), "--tls-cert-file=" + n.cert("apiserver"), "--tls-private-key-file=" + n.key("apiserver"),
		"--kubelet-certificate-authority=" + n.cert(clusterCA), "--kubelet-preferred-address-types=InternalIP",
		"--kubelet-client-certificate=" + n.cert("apiserver-kubelet-client"), "--kubelet-client-key=" + n.key("apiserver-kubelet-client"),
		"--requestheader-client-ca-file=" + n.cert(frontProxyCA), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + n.cert("front-proxy-client"), "--proxy-client-key-file=" + n.key("front-proxy-client"),
		"--service-account-issuer=https://kubernetes.default.svc." + clusterDomain,
		"--service-account-key-file=" + n.pki(serviceAccountKey+".pub"), "--service-account-signing-key-file=" + n.key(serviceAccountKey),
		"--service-cluster-ip-range=" + o.ServiceCIDR, "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--enable-bootstrap-token-auth", "--allow-privileged", "--profiling=false", o.verbosity(),
	}}
}

func (n node) controllerManager(o options) component {
	config := n.kubeconfig("controller-manager")
	return component{"kube-controller-manager", "https://127.0.0.1:10257/healthz", []string{
		"--bind-address=127.0.0.1", "--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--client-ca-file=" + n.cert(clusterCA), "--requestheader-client-ca-file=" + n.cert(frontProxyCA),
		"--tls-cert-file=" + n.cert("controller-manager-server"), "--tls-private-key-file=" + n.key("controller-manager-server"),
		"--leader-elect=false", "--use-service-account-credentials", "--controllers=*,bootstrapsigner,tokencleaner",
		"--root-ca-file=" + n.cert(clusterCA), "--service-account-private-key-file=" + n.key(serviceAccountKey),
		"--cluster-signing-cert-file=" + n.cert(clusterCA), "--cluster-signing-key-file=" + n.key(clusterCA),
		"--flex-volume-plugin-dir=" + n.volumePlugins(), "--profiling=false", o.verbosity(),
	}}
}

func (n node) scheduler(o options) component {
	config := n.kubeconfig("scheduler")
	return component{"kube-scheduler", "https://127.0.0.1:10259/healthz", []string{
		"--bind-address=127.0.0.1", "--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--client-ca-file=" + n.cert(clusterCA), "--requestheader-client-ca-file=" + n.cert(frontProxyCA),
		"--tls-cert-file=" + n.cert("scheduler-server"), "--tls-private-key-file=" + n.key("scheduler-server"),
		"--leader-elect=false", "--profiling=false", o.verbosity(),
	}}
}

func (n node) proxy(o options) component {
	return component{"kube-proxy", "http://127.0.0.1:10256/healthz", []string{
		"--kubeconfig=" + n.kubeconfig("kube-proxy"), "--hostname-override=" + o.NodeName, "--proxy-mode=iptables", "--cluster-cidr=" + o.PodCIDR,
		"--healthz-bind-address=127.0.0.1:10256", "--metrics-bind-address=127.0.0.1:10249",
		// The kernel's own limits of connection tracking are left alone.
		"--conntrack-max-per-core=0", "--conntrack-min=0", "--conntrack-tcp-timeout-established=0s", "--conntrack-tcp-timeout-close-wait=0s",
		o.verbosity(),
	}}
}

func (n node) kubelet(o options, cniBin string) component {
	args := []string{
		"--config=" + n.config(), "--kubeconfig=" + n.kubeconfig("kubelet"), "--root-dir=" + n.kubeletRoot(), "--cert-dir=" + n.pki("kubelet"),
		"--hostname-override=" + o.NodeName, "--node-ip=" + o.nodeIP, "--container-runtime=" + o.runtime, o.verbosity(),
	}
	if o.runtime == runtimeRkt {
		args = append(args, "--rkt-dir="+n.rktDir(), "--rkt-cri-socket="+n.criSocket(), "--cni-conf-dir="+n.cniConf(), "--cni-bin-dir="+cniBin)
		if o.rktPath != "" {
			args = append(args, "--rkt-path="+o.rktPath)
		}
		if o.stage1 != "" {
			args = append(args, "--rkt-stage1-image="+o.stage1)
		}
	}
	return component{"kubelet", "http://127.0.0.1:10248/healthz", args}
}

func (o options) verbosity() string {
	if o.logLevel == "" {
		return "--v=2"
	}
	return "--v=" + o.logLevel
}
