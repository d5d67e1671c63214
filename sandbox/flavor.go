package sandbox

import (
	"strings"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Stage1Annotation chooses a privileged pod's isolation. It is the annotation of
// rktnetes (Kubernetes 1.3 to 1.10), kept as it was.
const Stage1Annotation = "rkt.alpha.kubernetes.io/stage1-name-override"

// stage1Images are rkt's names of the flavors.
var stage1Images = []struct{ flavor, image string }{
	{"nspawn", "coreos.com/rkt/stage1-coreos"},
	{"lean", "coreos.com/rkt/stage1-lean"},
	{"fly", "coreos.com/rkt/stage1-fly"},
	{"kvm", "coreos.com/rkt/stage1-kvm"},
}

// Flavor returns the flavor that a name means: the flavor's own, or rkt's image
// name, with or without a version. Else it says what the name is instead.
func Flavor(name string) (flavor, problem string) {
	bare, _, _ := strings.Cut(name, ":")
	var known []string
	for _, s := range stage1Images {
		if bare == s.flavor || bare == s.image {
			if s.flavor == "kvm" {
				return "", "is not built yet; use nspawn, lean or fly"
			}
			return s.flavor, ""
		}
		if s.flavor != "kvm" {
			known = append(known, s.flavor+" ("+s.image+")")
		}
	}
	return "", "is unknown; known are " + strings.Join(known, ", ")
}

// chooseFlavor takes the first that there is: the annotation, the RuntimeClass
// handler, the node's default.
func (s *Service) chooseFlavor(config *runtimeapi.PodSandboxConfig, handler string) (flavor string, err error) {
	privileged := config.GetLinux().GetSecurityContext().GetPrivileged()
	name, annotated := config.GetAnnotations()[Stage1Annotation]
	field := "annotation " + Stage1Annotation
	switch {
	case annotated && !privileged:
		return "", invalid(field, "only a pod with a privileged container may choose its stage1")
	case annotated:
	case handler != "":
		name, field = handler, "runtime_handler"
	default:
		name, field = s.cfg.Stage1, "node's stage1"
	}
	flavor, problem := Flavor(name)
	if problem != "" {
		return "", invalid(field, "stage1 %q %s", name, problem)
	}
	if flavor == "fly" && !privileged {
		return "", invalid(field, "a fly pod has no isolation, so it needs a privileged container")
	}
	return flavor, nil
}
