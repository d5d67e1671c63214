package container

import (
	"encoding/json"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// ociVersion is the newest that Debian 12's crun 1.8.1 accepts; nothing here needs
// a newer one.
const ociVersion = "1.0.2"

// request is one container to translate.
type request struct {
	config  *runtimeapi.ContainerConfig
	sandbox *runtimeapi.PodSandboxConfig
	image   Image
	filters *filters // nil: none are known
	filter  filter   // set by configure if crun is about to compile it
}

func (r *request) security() *runtimeapi.LinuxContainerSecurityContext {
	return r.config.GetLinux().GetSecurityContext()
}

// check finds what can be found wrong before anything is made.
func (r *request) check(n *Node, p *pod.Pod) error {
	const in = "linux.security_context."
	s := r.security()
	switch {
	case r.config.GetMetadata().GetName() == "":
		return invalid("metadata.name", "is empty")
	case r.config.GetImage().GetImage() == "":
		return invalid("image.image", "is empty")
	case r.config.GetWindows() != nil:
		return invalid("windows", "this is a Linux node")
	case s.GetPrivileged() && !r.sandbox.GetLinux().GetSecurityContext().GetPrivileged():
		return invalid(in+"privileged", "the sandbox is not privileged")
	case p.Spec.Flavor == "fly" && !s.GetPrivileged():
		return invalid(in+"privileged", "a fly pod has no isolation, so its containers must be privileged")
	case selinuxAsked(s.GetSelinuxOptions()):
		return notYet(in+"selinux_options", "SELinux is not built yet")
	case !s.GetPrivileged() && s.GetApparmor() != nil && s.GetApparmor().ProfileType != runtimeapi.SecurityProfile_Unconfined:
		return notYet(in+"apparmor", "AppArmor is not built yet, use Unconfined")
	//lint:ignore SA1019 a profile that stands in the old field alone must not be ignored
	case s.GetSeccomp() == nil && !unconfined(s.GetSeccompProfilePath()):
		return invalid(in+"seccomp_profile_path", "is no longer read, use seccomp")
	//lint:ignore SA1019 as above
	case !s.GetPrivileged() && s.GetApparmor() == nil && !unconfined(s.GetApparmorProfile()):
		return notYet(in+"apparmor_profile", "AppArmor is not built yet, use unconfined")
	}
	return checkNamespaces(s.GetNamespaceOptions(), p.Spec)
}

// unconfined says what the deprecated fields of profiles, which the kubelet fills in
// beside the new ones, mean when they stand alone.
func unconfined(profile string) bool { return profile == "" || profile == "unconfined" }

func selinuxAsked(o *runtimeapi.SELinuxOption) bool {
	return o.GetUser()+o.GetRole()+o.GetType()+o.GetLevel() != ""
}

// configure builds config.json at the place that the engine has made.
func (r *request) configure(n *Node, place *pod.Place) (pod.Configured, error) {
	spec, err := r.spec(n, place)
	if err != nil {
		return pod.Configured{}, err
	}
	config, err := json.Marshal(spec)
	if err != nil {
		return pod.Configured{}, fmt.Errorf("encode config.json: %w", err)
	}
	number, signal, err := stopSignal(r.config.GetStopSignal(), r.image.StopSignal)
	if err != nil {
		return pod.Configured{}, err
	}
	kept, err := json.Marshal(extra{
		ImageRef:   r.image.Ref,
		Image:      r.config.GetImage(),
		Mounts:     r.config.GetMounts(),
		Resources:  r.config.GetLinux().GetResources(),
		User:       effective(spec.Process.User),
		StopSignal: signal,
	})
	if err != nil {
		return pod.Configured{}, fmt.Errorf("encode what is kept of the container: %w", err)
	}
	return pod.Configured{Config: config, Extra: kept, StopSignal: number}, nil
}

// spec is the whole translation. Of annotations it has ours at most, on purpose.
func (r *request) spec(n *Node, place *pod.Place) (*specs.Spec, error) {
	s, fly := r.security(), place.Pod.Spec.Flavor == "fly"
	process, err := r.process(n, place)
	if err != nil {
		return nil, err
	}
	resources, err := n.resources("linux.resources", r.config.GetLinux().GetResources())
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{
		Version: ociVersion,
		Root:    &specs.Root{Path: place.Root, Readonly: s.GetReadonlyRootfs()},
		Process: process,
		Linux: &specs.Linux{
			CgroupsPath: place.Cgroup,
			Namespaces:  n.namespaces(s.GetNamespaceOptions(), place, s.GetPrivileged()),
			Resources:   resources,
		},
	}
	if !s.GetPrivileged() {
		spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths = s.GetMaskedPaths(), s.GetReadonlyPaths()
	}
	base := baseMounts(place, s.GetPrivileged(), s.GetReadonlyRootfs())
	if fly {
		base = flyMounts(place, s.GetReadonlyRootfs())
	}
	if base, err = withVolumes(base, &r.image, place.Root); err != nil {
		return nil, err
	}
	if spec.Mounts, spec.Linux.RootfsPropagation, err = n.withAsked(base, r.config); err != nil {
		return nil, err
	}
	if err := setDevices(spec, r.config, s.GetPrivileged(), fly); err != nil {
		return nil, err
	}
	if spec.Linux.Seccomp, err = seccompOf(s.GetSeccomp(), spec, s.GetPrivileged()); err != nil {
		return nil, err
	}
	if n.CompiledSeccomp && r.filters != nil && spec.Linux.Seccomp != nil {
		r.filter, err = r.filters.use(spec, place.RuntimeState)
	}
	return spec, err
}

func (r *request) process(n *Node, place *pod.Place) (p *specs.Process, err error) {
	s := r.security()
	p = &specs.Process{Terminal: r.config.GetTty(), NoNewPrivileges: s.GetNoNewPrivs()}
	if p.Args, err = args(r.config, &r.image); err != nil {
		return nil, err
	}
	if p.Env, err = env(r.config, &r.image, place.Pod.Spec.Hostname); err != nil {
		return nil, err
	}
	if p.Cwd, err = cwd(r.config, &r.image); err != nil {
		return nil, err
	}
	if p.User, err = userOf(s, &r.image, place.Root); err != nil {
		return nil, err
	}
	if p.Capabilities, err = n.capabilities(s.GetCapabilities(), s.GetPrivileged()); err != nil {
		return nil, err
	}
	p.OOMScoreAdj, err = n.oomScore(r.config.GetLinux().GetResources())
	return p, err
}
