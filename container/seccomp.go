package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// seccompOf translates a profile. RuntimeDefault is Docker's profile, as everywhere;
// what it allows depends on the capabilities, so these must be in spec. A privileged
// container has none, and so has one that does not say.
func seccompOf(p *runtimeapi.SecurityProfile, spec *specs.Spec, privileged bool) (*specs.LinuxSeccomp, error) {
	const field = "linux.security_context.seccomp"
	if privileged || p == nil {
		return nil, nil
	}
	switch p.ProfileType {
	case runtimeapi.SecurityProfile_Unconfined:
		return nil, nil
	case runtimeapi.SecurityProfile_RuntimeDefault:
		profile, err := seccomp.GetDefaultProfile(spec)
		if err != nil {
			return nil, fmt.Errorf("%s: default profile: %w", field, err)
		}
		return profile, nil
	case runtimeapi.SecurityProfile_Localhost:
		return localSeccomp(field, p.LocalhostRef, spec)
	}
	return nil, invalid(field+".profile_type", "%d is unknown", p.ProfileType)
}

func localSeccomp(field, path string, spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	if !filepath.IsAbs(path) {
		return nil, invalid(field+".localhost_ref", "%q: want an absolute path", path)
	}
	doc, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s.localhost_ref: profile %s does not exist: %w", field, path, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("%s.localhost_ref: %w", field, err)
	}
	profile, err := seccomp.LoadProfile(string(doc), spec)
	if err != nil {
		return nil, invalid(field+".localhost_ref", "profile %s: %v", path, err)
	}
	return profile, nil
}
