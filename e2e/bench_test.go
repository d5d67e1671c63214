package e2e

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// The benchmark of pods runs outside of CI and takes minutes; here it only tries
// everything once, so that a change of what it uses is noticed.
func TestBenchmarkOfPodsWorks(t *testing.T) {
	bench := filepath.Join(t.TempDir(), "bench")
	build := exec.Command("go", "build", "-o", bench, "./bench")
	build.Dir = "../tools"
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	cmd := exec.CommandContext(t.Context(), bench, "-quick", "-rkt", binary(t, "rkt"), "-supervisor", binary(t, "rkt-supervisor"))
	out, err = cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "| RunPodSandbox, host network | ")
}
