package local

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"github.com/rktnetes/rktshim/hyperkube/preflight"
)

// cluster is a cluster that starts, and then runs.
type cluster struct {
	*children
	options
	progress *progress
	health   *http.Client
	cniBin   string
}

// start brings the cluster up, step by step, to the demo's page.
func (c *cluster) start(ctx context.Context) error {
	began := time.Now()
	if err := c.prepare(ctx); err != nil {
		return err
	}
	var demo errgroup.Group // beside the control plane: neither needs the other
	if c.hasDemo() {
		demo.Go(func() error { return c.importDemo(ctx) })
	}
	err := c.startControlPlane(ctx)
	if err == nil {
		err = c.startNode(ctx)
	}
	if err = errors.Join(err, demo.Wait()); err != nil {
		return err
	}
	if err := c.deploy(ctx); err != nil {
		return err
	}
	c.progress.say("\nThe cluster works, %.1f s after the start.", time.Since(began).Seconds())
	c.sayNext()
	return nil
}

// hasDemo: only our own runtime's store can be given an image without a registry.
func (c *cluster) hasDemo() bool { return c.demo && c.runtime == runtimeRkt }

// prepare checks the machine and writes what the components read.
func (c *cluster) prepare(ctx context.Context) (err error) {
	done := c.progress.step("check the machine (hyperkube preflight shows all checks)")
	if err := c.check(ctx); err != nil {
		return err
	}
	done()
	done = c.progress.step("write certificates and configurations in " + c.dir)
	service, err := c.serviceIP(1)
	if err != nil {
		return err
	}
	if err := c.issue(c.options, service); err != nil {
		return err
	}
	if c.health, err = c.healthClient(); err != nil {
		return err
	}
	for _, step := range []func() error{c.noteNamespaces, c.noteSysctls, c.noteSharedDirs, c.noteRuntime, c.writeKubeletConfig} {
		if err := step(); err != nil {
			return err
		}
	}
	if err := c.writeCNI(c.PodCIDR); err != nil {
		return err
	}
	if err := addRules(ctx, c.PodCIDR); err != nil {
		return err
	}
	done()
	return nil
}

// check refuses a machine on which the cluster could not work, with the list of
// what is missing.
func (c *cluster) check(ctx context.Context) (err error) {
	if c.nodeIP, err = chooseIP(c.nodeIP); err != nil {
		return err
	}
	if err := c.checkCoreDNS(); err != nil {
		return err
	}
	if proc, err := c.otherNamespaces(); err == nil && proc != "" {
		return fmt.Errorf("the cluster in %s was started in other namespaces, and something of it still runs there (process %s): start it there, by nsenter --target %[2]s --net --mount, or end it: hyperkube local-down --dir=%[1]s", c.dir, filepath.Base(proc))
	} else if err != nil && !errors.Is(err, errGone) {
		return err
	}
	var missing []string
	for _, r := range preflight.Run(ctx, c.preflight(c.options)) {
		if r.Status == preflight.Missing {
			missing = append(missing, fmt.Sprintf("  %s: %s\n    %s", r.Name, r.Found, r.Remedy))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("this machine cannot run the cluster yet:\n%s", strings.Join(missing, "\n"))
	}
	if c.runtime == runtimeRkt {
		c.cniBin = preflight.CNIBinDir()
	}
	return nil
}

func (n node) noteRuntimeEndpoint(endpoint string) error {
	if endpoint == "" {
		return os.RemoveAll(n.runtimeFile())
	}
	return os.WriteFile(n.runtimeFile(), []byte(endpoint), 0o600)
}

func (c *cluster) noteRuntime() error { return c.noteRuntimeEndpoint(c.endpoint) }

// startControlPlane starts etcd and what is behind the API.
func (c *cluster) startControlPlane(ctx context.Context) error {
	return c.inTurn(ctx, []component{c.etcd(), c.apiserver(c.options)}, []component{c.controllerManager(c.options), c.scheduler(c.options)})
}

// inTurn starts components one after the other, each when the one before works,
// and then the last ones together.
func (c *cluster) inTurn(ctx context.Context, ordered, together []component) error {
	for _, one := range ordered {
		if err := c.together(ctx, []component{one}); err != nil {
			return err
		}
	}
	return c.together(ctx, together)
}

func (c *cluster) together(ctx context.Context, all []component) error {
	var names []string
	for _, one := range all {
		names = append(names, one.name)
	}
	done := c.progress.step("start " + strings.Join(names, " and "))
	for _, one := range all {
		if err := c.children.start(one); err != nil {
			return err
		}
	}
	for _, one := range all {
		err := c.wait(ctx, one.name+" works", func(ctx context.Context) error {
			_, err := fetch(ctx, c.health, one.health)
			return err
		})
		if err != nil {
			return err
		}
	}
	done()
	return nil
}

// startNode starts the kubelet and kube-proxy and waits until the node is ready.
func (c *cluster) startNode(ctx context.Context) error {
	if err := c.together(ctx, []component{c.kubelet(c.options, c.cniBin), c.proxy(c.options)}); err != nil {
		return err
	}
	done := c.progress.step("wait until node " + c.NodeName + " is ready")
	client, err := c.client()
	if err != nil {
		return err
	}
	if err := c.wait(ctx, "node ready", func(ctx context.Context) error { return nodeReady(ctx, client, c.NodeName) }); err != nil {
		return err
	}
	done()
	return nil
}

// deploy brings DNS and the demo into the cluster and tries the demo.
func (c *cluster) deploy(ctx context.Context) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	if c.coreDNS == "" {
		c.progress.say("no DNS in this cluster: pods reach Services by address (--coredns-image=IMAGE adds it)")
	} else if err := c.startDNS(ctx, client); err != nil {
		return err
	}
	switch {
	case c.hasDemo():
		return c.showDemo(ctx, client)
	case c.demo:
		c.progress.say("no demo: its image is imported into rkt's store, and the runtime is %s", c.endpoint)
	}
	return nil
}

func (c *cluster) startDNS(ctx context.Context, client kubernetes.Interface) (err error) {
	if isFile(c.coreDNS) {
		done := c.progress.step("import CoreDNS from " + c.coreDNS)
		if c.coreDNS, err = c.importCoreDNS(ctx, c.coreDNS); err != nil {
			return err
		}
		done()
	}
	done := c.progress.step("deploy CoreDNS, and wait for it")
	if err := deployDNS(ctx, client, c.options); err != nil {
		return err
	}
	if err := c.wait(ctx, "CoreDNS works", func(ctx context.Context) error {
		return deploymentReady(ctx, client, metav1.NamespaceSystem, coreDNSName)
	}); err != nil {
		return err
	}
	done()
	return nil
}

func (c *cluster) showDemo(ctx context.Context, client kubernetes.Interface) error {
	done := c.progress.step("deploy the demo: 2 web pods and a Service")
	if err := c.deployDemo(ctx); err != nil {
		return err
	}
	if err := c.wait(ctx, "the demo's pods are ready", func(ctx context.Context) error { return deploymentReady(ctx, client, "default", demoName) }); err != nil {
		return err
	}
	done()
	url, err := demoURL(ctx, client)
	if err != nil {
		return err
	}
	done = c.progress.step("fetch its page from the Service, " + url)
	var page string
	err = c.wait(ctx, "the demo's page", func(ctx context.Context) (err error) {
		page, err = fetchDemo(ctx, url)
		return err
	})
	if err != nil {
		return err
	}
	done()
	c.progress.say("    %s", page)
	done = c.progress.step("fetch its page through kubectl port-forward")
	err = c.wait(ctx, "the demo's page through kubectl port-forward", func(ctx context.Context) (err error) {
		page, err = c.fetchForwarded(ctx)
		return err
	})
	if err != nil {
		return err
	}
	done()
	c.progress.say("    %s", page)
	return nil
}

// sayNext prints what to type next.
func (c *cluster) sayNext() {
	kubectl, down := "hyperkube kubectl", ""
	if c.dir != DefaultDir { // hyperkube kubectl knows where the default cluster is
		kubectl += " --kubeconfig=" + c.kubeconfig("admin")
		down = " --dir=" + c.dir
	}
	c.progress.say("  %s get pods -A", kubectl)
	if c.hasDemo() {
		c.progress.say("  %s logs deploy/hello", kubectl)
		c.progress.say("  %s exec deploy/hello -- /hello hostname", kubectl)
		c.progress.say("  %s port-forward service/hello 8080:80", kubectl)
	}
	c.progress.say("kubeconfig %s, logs in %s", c.kubeconfig("admin"), filepath.Dir(c.upLog()))
	c.progress.say("end it, and remove every trace: hyperkube local-down%s%s", down, map[bool]string{true: " (or: make down)"}[down == ""])
}

// writeKubeletConfig writes the kubelet's configuration.
func (c *cluster) writeKubeletConfig() error {
	cgroupRoot, err := c.homePods()
	if err != nil {
		return err
	}
	config := map[string]any{
		"apiVersion":             "kubelet.config.k8s.io/v1beta1",
		"kind":                   "KubeletConfiguration",
		"podLogsDir":             filepath.Join(c.dir, "log", "pods"),
		"volumePluginDir":        c.volumePlugins(),
		"cgroupRoot":             cgroupRoot,
		"failCgroupV1":           false,
		"failSwapOn":             false,
		"address":                c.nodeIP,
		"clusterDomain":          clusterDomain,
		"resolvConf":             resolvConf(),
		"serializeImagePulls":    false,
		"tlsCertFile":            c.cert("kubelet-server"),
		"tlsPrivateKeyFile":      c.key("kubelet-server"),
		"authentication":         map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": true}, "x509": map[string]any{"clientCAFile": c.cert(clusterCA)}},
		"authorization":          map[string]any{"mode": "Webhook"},
		"evictionHard":           map[string]string{"memory.available": "100Mi", "nodefs.available": "1Gi", "nodefs.inodesFree": "2%", "imagefs.available": "1Gi", "pid.available": "2%"},
		"makeIPTablesUtilChains": true,
	}
	if c.endpoint != "" {
		config["containerRuntimeEndpoint"] = c.endpoint
	}
	if c.coreDNS != "" {
		dns, err := c.serviceIP(dnsIndex)
		if err != nil {
			return err
		}
		config["clusterDNS"] = []string{dns}
	}
	b, err := yaml.Marshal(config)
	if err != nil {
		return err
	}
	return os.WriteFile(c.config(), b, 0o600)
}

// ports are where the components listen.
func ports(nodeIP string) []preflight.Port {
	const loopback = "127.0.0.1"
	return []preflight.Port{
		{Host: loopback, Port: "2379", For: "etcd"}, {Host: loopback, Port: "2380", For: "etcd"}, {Host: loopback, Port: "2381", For: "etcd"},
		{Host: nodeIP, Port: apiPort, For: "kube-apiserver"}, {Host: loopback, Port: "10257", For: "kube-controller-manager"},
		{Host: loopback, Port: "10259", For: "kube-scheduler"}, {Host: loopback, Port: "10248", For: "kubelet"}, {Host: nodeIP, Port: "10250", For: "kubelet"},
		{Host: loopback, Port: "10249", For: "kube-proxy"}, {Host: loopback, Port: "10256", For: "kube-proxy"},
	}
}
