package server_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the resident binary must not link, and why.
func TestSupervisorLinksNothingHeavy(t *testing.T) {
	if _, err := exec.LookPath("go"); err != nil {
		t.Skip("no go command on this host")
	}
	out, err := exec.Command("go", "list", "-deps", "github.com/rktnetes/rktshim/cmd/rkt-supervisor").Output()
	require.NoError(t, err)
	for dep := range strings.Lines(string(out)) {
		dep = strings.TrimSpace(dep)
		switch dep {
		case "net", "encoding/json", "log/slog", "os/exec", "regexp", "net/http", "text/template":
			t.Errorf("%s costs resident memory in every pod", dep)
		}
		for _, tree := range []string{"google.golang.org/grpc", "k8s.io/", "github.com/godbus", "github.com/coreos", "github.com/rktnetes/rktshim/pod", "github.com/rktnetes/rktshim/network"} {
			require.False(t, strings.HasPrefix(dep, tree), dep)
		}
	}
}
