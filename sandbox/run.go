package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// RunPodSandbox implements runtime.v1.RuntimeService. The same sandbox (uid,
// attempt) asked for again is the same sandbox, see pod.Engine.Launch.
func (s *Service) RunPodSandbox(ctx context.Context, req *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	spec, err := s.spec(req.GetConfig(), req.GetRuntimeHandler())
	if err != nil {
		return nil, fmt.Errorf("run sandbox: %w", err)
	}
	id, err := s.pods.Launch(ctx, spec)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: string(id)}, nil
}

// spec translates a configuration.
func (s *Service) spec(config *runtimeapi.PodSandboxConfig, handler string) (pod.Spec, error) {
	meta, security := config.GetMetadata(), config.GetLinux().GetSecurityContext()
	if meta.GetUid() == "" || meta.GetName() == "" || meta.GetNamespace() == "" {
		return pod.Spec{}, invalid("metadata", "needs a name, a namespace and a uid")
	}
	if config.GetWindows() != nil {
		return pod.Spec{}, invalid("windows", "this is a Linux node")
	}
	if err := checkSecurity(security); err != nil {
		return pod.Spec{}, err
	}
	if config.GetLogDirectory() != "" && !filepath.IsAbs(config.GetLogDirectory()) {
		return pod.Spec{}, invalid("log_directory", "%q: want an absolute path", config.GetLogDirectory())
	}
	flavor, err := s.chooseFlavor(config, handler)
	if err != nil {
		return pod.Spec{}, err
	}
	parent, err := cgroupParent(config.GetLinux().GetCgroupParent(), s.cfg.Systemd)
	if err != nil {
		return pod.Spec{}, err
	}
	spec := pod.Spec{
		UID:          meta.Uid,
		Attempt:      meta.Attempt,
		Name:         meta.Name,
		Namespace:    meta.Namespace,
		Flavor:       flavor,
		CgroupParent: parent,
		LogDir:       config.GetLogDirectory(),
		Labels:       config.GetLabels(),
		Annotations:  config.GetAnnotations(),
	}
	kept := extra{
		Handler:   handler,
		Overhead:  resourcesOf(config.GetLinux().GetOverhead()),
		Resources: resourcesOf(config.GetLinux().GetResources()),
	}
	if err := s.setNamespaces(&spec, &kept, config); err != nil {
		return pod.Spec{}, err
	}
	if spec.Sysctls, err = s.sysctls(config.GetLinux().GetSysctls()); err != nil {
		return pod.Spec{}, err
	}
	if spec.ResolvConf, err = s.resolvConf(config.GetDnsConfig()); err != nil {
		return pod.Spec{}, err
	}
	if err := setNetwork(&spec, config); err != nil {
		return pod.Spec{}, err
	}
	if spec.Extra, err = json.Marshal(kept); err != nil {
		return pod.Spec{}, err
	}
	return spec, nil
}

// setNamespaces follows CRI's NamespaceOption. A fly pod has the host's, whatever it
// says of IPC and PID: that is what choosing fly means. Of the network it must have
// said so, because the kubelet makes a sandbox anew whose network is not as asked.
func (s *Service) setNamespaces(spec *pod.Spec, kept *extra, config *runtimeapi.PodSandboxConfig) error {
	opts := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	for _, f := range []struct {
		field string
		mode  runtimeapi.NamespaceMode
		known []runtimeapi.NamespaceMode
	}{
		{"network", opts.GetNetwork(), []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE}},
		{"ipc", opts.GetIpc(), []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_NODE}},
		{"pid", opts.GetPid(), []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_NODE}},
	} {
		if !contains(f.known, f.mode) {
			return invalid("linux.security_context.namespace_options."+f.field, "%s is not possible for a sandbox", f.mode)
		}
	}
	kept.PID, kept.IPC = opts.GetPid(), opts.GetIpc()
	spec.HostNetwork = opts.GetNetwork() == runtimeapi.NamespaceMode_NODE
	spec.HostUTS = spec.HostNetwork
	if spec.Flavor == "fly" {
		if !spec.HostNetwork {
			return invalid("linux.security_context.namespace_options.network", "a fly pod has the host's network: set hostNetwork: true")
		}
		kept.PID, kept.IPC = runtimeapi.NamespaceMode_NODE, runtimeapi.NamespaceMode_NODE
	}
	spec.HostIPC = kept.IPC == runtimeapi.NamespaceMode_NODE
	spec.SharedPID = kept.PID == runtimeapi.NamespaceMode_POD
	if !spec.HostIPC {
		spec.ShmBytes = s.cfg.ShmBytes
	}
	if !spec.HostUTS {
		if config.GetHostname() == "" {
			return invalid("hostname", "is empty, which only a sandbox on the node's network may have")
		}
		spec.Hostname = config.GetHostname()
	}
	return nil
}

func contains(list []runtimeapi.NamespaceMode, m runtimeapi.NamespaceMode) bool {
	for _, x := range list {
		if x == m {
			return true
		}
	}
	return false
}

// setNetwork fills in what the network plugins are told.
func setNetwork(spec *pod.Spec, config *runtimeapi.PodSandboxConfig) (err error) {
	if spec.HostNetwork {
		return nil
	}
	for _, m := range config.GetPortMappings() {
		spec.Ports = append(spec.Ports, pod.PortMapping{
			HostPort:      int(m.HostPort),
			ContainerPort: int(m.ContainerPort),
			Protocol:      m.Protocol.String(),
			HostIP:        m.HostIp,
		})
	}
	dns := config.GetDnsConfig()
	spec.DNS = pod.DNS{Servers: dns.GetServers(), Searches: dns.GetSearches(), Options: dns.GetOptions()}
	if spec.Bandwidth.Ingress, err = bandwidth(config.GetAnnotations(), "kubernetes.io/ingress-bandwidth"); err != nil {
		return err
	}
	spec.Bandwidth.Egress, err = bandwidth(config.GetAnnotations(), "kubernetes.io/egress-bandwidth")
	return err
}

// resolvConf renders the DNS configuration as the kubelet gives it, or copies the
// host's if there is none.
func (s *Service) resolvConf(dns *runtimeapi.DNSConfig) (string, error) {
	if len(dns.GetServers())+len(dns.GetSearches())+len(dns.GetOptions()) == 0 {
		host, err := os.ReadFile(s.cfg.ResolvConf)
		if os.IsNotExist(err) {
			return "", nil
		}
		if err != nil {
			return "", fmt.Errorf("dns_config is empty and the node's own cannot be read: %w", err)
		}
		return string(host), nil
	}
	return renderDNS(dns)
}

// notYet is the error for what CRI has and this program does not do yet.
func notYet(field, what string) error {
	return fmt.Errorf("%s: %s: %w", field, what, errdefs.ErrNotImplemented)
}

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}

// checkSecurity refuses what is impossible and what is not built yet. A sandbox has
// no process of its own that user, seccomp profile or root filesystem would apply
// to; these are its containers'.
func checkSecurity(c *runtimeapi.LinuxSandboxSecurityContext) error {
	const in = "linux.security_context."
	switch {
	case c.GetRunAsGroup() != nil && c.GetRunAsUser() == nil:
		return invalid(in+"run_as_group", "needs run_as_user")
	case c.GetNamespaceOptions().GetUsernsOptions() != nil && c.GetNamespaceOptions().GetUsernsOptions().Mode != runtimeapi.NamespaceMode_NODE:
		return notYet(in+"namespace_options.userns_options", "user namespaces are not built yet, set hostUsers: true")
	case selinuxAsked(c.GetSelinuxOptions()):
		return notYet(in+"selinux_options", "SELinux is not built yet")
	case c.GetApparmor() != nil && c.GetApparmor().ProfileType != runtimeapi.SecurityProfile_Unconfined:
		return notYet(in+"apparmor", "AppArmor is not built yet, use Unconfined")
	}
	return nil
}

func selinuxAsked(o *runtimeapi.SELinuxOption) bool {
	return o.GetUser()+o.GetRole()+o.GetType()+o.GetLevel() != ""
}
