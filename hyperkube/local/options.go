package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/component-helpers/node/util"
)

// options are what a cluster is started with, beside its folder.
type options struct {
	settings
	environment
	nodeIP     string
	coreDNS    string // image; empty: no DNS
	demo       bool
	foreground bool
}

// settings stay as the first start has made them.
type settings struct {
	NodeName    string `json:"nodeName"`
	PodCIDR     string `json:"podCIDR"`
	ServiceCIDR string `json:"serviceCIDR"`
}

// environment is what is taken from environment variables, by the names that the
// local cluster script of Kubernetes gave them.
type environment struct {
	runtime  string // CONTAINER_RUNTIME: rkt, or remote at endpoint
	endpoint string // CONTAINER_RUNTIME_ENDPOINT
	rktPath  string // RKT_PATH
	stage1   string // RKT_STAGE1_IMAGE
	logLevel string // LOG_LEVEL
}

// Values of CONTAINER_RUNTIME.
const (
	runtimeRkt    = "rkt"
	runtimeRemote = "remote"
)

// readEnvironment refuses what it does not know, rather than ignore it.
func readEnvironment(environ []string) (environment, error) {
	e := environment{runtime: runtimeRkt}
	into := map[string]*string{
		"CONTAINER_RUNTIME": &e.runtime, "CONTAINER_RUNTIME_ENDPOINT": &e.endpoint,
		"RKT_PATH": &e.rktPath, "RKT_STAGE1_IMAGE": &e.stage1, "LOG_LEVEL": &e.logLevel,
	}
	var errs []error
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if p := into[name]; p != nil && value != "" {
			*p = value
		}
		if strings.HasPrefix(name, "KUBE_") && name != "KUBE_EDITOR" { // kubectl's own
			errs = append(errs, fmt.Errorf("%s is set, which local-up does not know: unset it, and see \"The cluster\" in the README for what there is instead", name))
		}
	}
	switch {
	case e.runtime != runtimeRkt && e.runtime != runtimeRemote:
		errs = append(errs, fmt.Errorf("CONTAINER_RUNTIME=%s: must be %q or %q", e.runtime, runtimeRkt, runtimeRemote))
	case e.runtime == runtimeRemote && e.endpoint == "":
		errs = append(errs, errors.New("CONTAINER_RUNTIME=remote needs CONTAINER_RUNTIME_ENDPOINT, e.g. unix:///run/containerd/containerd.sock"))
	case e.runtime == runtimeRkt && e.endpoint != "":
		errs = append(errs, fmt.Errorf("CONTAINER_RUNTIME_ENDPOINT=%s needs CONTAINER_RUNTIME=remote", e.endpoint))
	}
	if e.logLevel != "" && strings.Trim(e.logLevel, "0123456789") != "" {
		errs = append(errs, fmt.Errorf("LOG_LEVEL=%s: must be a number", e.logLevel))
	}
	return e, errors.Join(errs...)
}

// addFlags adds the flags of local-up; the function it returns reads them and the
// environment.
func addFlags(cmd *cobra.Command) func() (options, error) {
	var o options
	f := cmd.Flags()
	f.BoolVar(&o.foreground, "foreground", false, "stay until interrupted, and stop the cluster then; its pods go on")
	f.BoolVar(&o.demo, "demo", true, "deploy two web pods and a Service, and fetch their page")
	f.StringVar(&o.coreDNS, "coredns-image", "", "image of CoreDNS: REPOSITORY/coredns:TAG, or a file as rkt fetch imports it; empty: no DNS in the cluster")
	f.StringVar(&o.nodeIP, "node-ip", "", "address of the node and of the API; empty: the one that the default route uses")
	f.StringVar(&o.NodeName, "node-name", "", "name of the node; empty: the machine's host name")
	f.StringVar(&o.PodCIDR, "pod-cidr", "10.244.0.0/16", "addresses of pods")
	f.StringVar(&o.ServiceCIDR, "service-cidr", "10.96.0.0/16", "addresses of Services")
	return func() (options, error) {
		name, err := util.GetHostname(o.NodeName)
		if err != nil {
			return o, fmt.Errorf("--node-name=%s: %w", o.NodeName, err)
		}
		o.NodeName = name
		o.environment, err = readEnvironment(os.Environ())
		return o, errors.Join(err, checkCIDR("pod-cidr", o.PodCIDR, 24), checkCIDR("service-cidr", o.ServiceCIDR, 24))
	}
}

func checkCIDR(flag, value string, longest int) error {
	p, err := netip.ParsePrefix(value)
	switch {
	case err != nil || !p.Addr().Is4():
		return fmt.Errorf("--%s=%s: must be an IPv4 range like 10.1.0.0/16", flag, value)
	case p != p.Masked():
		return fmt.Errorf("--%s=%s: has bits set after its first %d; %s is meant?", flag, value, p.Bits(), p.Masked())
	case p.Bits() > longest || p.Bits() < 12:
		return fmt.Errorf("--%s=%s: must be between /12 and /%d", flag, value, longest)
	}
	return nil
}

func (n node) settingsFile() string { return filepath.Join(n.dir, "cluster.json") }

// settle records the settings of a first start. Later starts continue with them,
// and are refused if they ask for others.
func (n node) settle(asked settings, given func(flag string) bool) (settings, error) {
	b, err := os.ReadFile(n.settingsFile())
	if errors.Is(err, fs.ErrNotExist) {
		b, err = json.Marshal(asked)
		if err != nil {
			return asked, err
		}
		return asked, os.WriteFile(n.settingsFile(), append(b, '\n'), 0o600)
	}
	if err != nil {
		return asked, err
	}
	var have settings
	if err := json.Unmarshal(b, &have); err != nil {
		return asked, fmt.Errorf("read %s: %w", n.settingsFile(), err)
	}
	var errs []error
	for _, s := range []struct{ flag, have, asked string }{
		{"node-name", have.NodeName, asked.NodeName}, {"pod-cidr", have.PodCIDR, asked.PodCIDR}, {"service-cidr", have.ServiceCIDR, asked.ServiceCIDR},
	} {
		if given(s.flag) && s.have != s.asked {
			errs = append(errs, fmt.Errorf("--%s=%s: the cluster in %s has %s; leave the flag out, or end that cluster: hyperkube local-down --dir=%s", s.flag, s.asked, n.dir, s.have, n.dir))
		}
	}
	return have, errors.Join(errs...)
}
