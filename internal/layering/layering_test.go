package layering

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/rktnetes/rktshim/"

// allowed lists, for each folder, the folders of ours that it may import. Each
// may also import internal/*, and itself. Imports point down this list.
var allowed = []struct {
	folder string
	may    []string
}{
	{"cmd/rkt-supervisor", []string{"supervisor/server", "supervisor", "stage1"}},
	{"cmd/rkt", []string{"cmd/rkt", "pod", "image"}},
	{"cmd/hello", nil},
	{"rktshim", []string{"transport", "sandbox", "container", "image", "streaming", "pod", "network", "supervisor", "stage1"}},
	{"transport", nil},
	{"sandbox", []string{"pod"}},
	{"container", []string{"pod"}},
	{"image", []string{"image"}},
	{"streaming", nil},
	{"pod", []string{"supervisor", "stage1", "network"}},
	{"network", nil},
	{"supervisor/server", []string{"supervisor", "stage1"}},
	{"supervisor", []string{"supervisor", "stage1"}},
	{"stage1", []string{"stage1"}},
	{"internal", nil},
	{"e2e", nil},
}

// forbidden lists what the packages of a folder may not depend on, however
// indirectly: beginnings of import paths.
var forbidden = []struct {
	folder string
	paths  []string
	why    string
}{
	{"cmd/rkt-supervisor", []string{"k8s.io/", "google.golang.org/grpc", "go.podman.io/", "net/http"}, "one such process stays per pod: its memory is a headline figure"},
	{"supervisor", []string{"k8s.io/", "google.golang.org/grpc", "go.podman.io/"}, "it is linked into the resident process"},
	{"stage1", []string{"k8s.io/", "google.golang.org/grpc", "go.podman.io/"}, "it is linked into the resident process"},
	{"pod", []string{"k8s.io/cri-api"}, "CRI types stop at sandbox and container"},
	{"network", []string{"k8s.io/"}, "it knows pods as plain data"},
	{"", []string{"k8s.io/client-go"}, "only tests are clients of a kubelet"},
	{"cmd/rkt-supervisor", []string{"go.opentelemetry.io/"}, "the resident process has no part in traces"},
	{"pod", []string{"go.opentelemetry.io/otel/sdk"}, "what exports spans is the business of the program"},
	{"", []string{"k8s.io/kubernetes"}, "only hyperkube, a module of its own, depends on Kubernetes"},
}

// statusOnlyIn is the one package that may choose gRPC codes.
const statusOnlyIn = "transport"

type goPackage struct {
	ImportPath string
	Imports    []string
	Deps       []string
}

func load(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports,Deps", module+"...")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		t.Fatalf("go list: %s", exit.Stderr)
	}
	require.NoError(t, err)
	var all []goPackage
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else {
			require.NoError(t, err)
		}
		p.ImportPath = strings.TrimPrefix(p.ImportPath, module)
		all = append(all, p)
	}
}

// within says whether a package path is folder or below it.
func within(path, folder string) bool {
	return folder == "" || path == folder || strings.HasPrefix(path, folder+"/")
}

func TestImportsPointDown(t *testing.T) {
	for _, p := range load(t) {
		if within(p.ImportPath, "internal/layering") {
			continue
		}
		rule, known := ruleOf(p.ImportPath)
		require.True(t, known, "package %s lies in a folder that internal/layering does not know: add it there", p.ImportPath)
		for _, imp := range p.Imports {
			ours, ok := strings.CutPrefix(imp, module)
			if !ok || within(ours, "internal") || within(ours, rule.folder) {
				continue
			}
			require.True(t, mayImport(rule.may, ours), "%s must not import %s", p.ImportPath, ours)
		}
	}
}

func ruleOf(path string) (rule struct {
	folder string
	may    []string
}, known bool) {
	for _, r := range allowed {
		if within(path, r.folder) {
			return r, true
		}
	}
	return rule, false
}

// mayImport matches folders exactly, but for stage1, whose flavors are folders
// below it that only the composition roots name.
func mayImport(may []string, path string) bool {
	for _, m := range may {
		if path == m || within(path, m) && !within(path, "supervisor/server") {
			return true
		}
	}
	return false
}

func TestHeavyDependenciesStayOut(t *testing.T) {
	for _, p := range load(t) {
		for _, f := range forbidden {
			if !within(p.ImportPath, f.folder) {
				continue
			}
			for _, dep := range p.Deps {
				for _, bad := range f.paths {
					require.False(t, strings.HasPrefix(dep+"/", strings.TrimSuffix(bad, "/")+"/"), "%s depends on %s: %s", p.ImportPath, dep, f.why)
				}
			}
		}
	}
}

func TestCodesAreChosenInOnePlace(t *testing.T) {
	for _, p := range load(t) {
		if p.ImportPath == statusOnlyIn {
			continue
		}
		for _, imp := range p.Imports {
			require.NotContains(t, []string{"google.golang.org/grpc/status", "google.golang.org/grpc/codes"}, imp,
				"%s picks gRPC codes; return a class of containerd/errdefs, transport turns it into a code", p.ImportPath)
		}
	}
}
