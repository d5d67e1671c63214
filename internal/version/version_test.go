package version

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The linker says nothing if the variable that it is to set is not there.
func TestMakefileSetsThisVersionInBothPrograms(t *testing.T) {
	out, err := exec.CommandContext(t.Context(), "make", "-n", "-C", "../..", "build").CombinedOutput()

	require.NoError(t, err, string(out))
	sets := regexp.MustCompile(`-X github.com/rktnetes/rktshim/internal/version\.Version=` + regexp.QuoteMeta(Version) + `\+g[0-9a-z]+ `)
	require.Len(t, sets.FindAllString(string(out), -1), 2, string(out))
}

const tags = "containers_image_openpgp,exclude_graphdriver_btrfs,exclude_graphdriver_devicemapper"

// rktshim's own variable must get what the linker has set here, not a copy that
// the compiler made of the text in this package.
func TestRktAndTheRuntimePrintWhatTheLinkerHasSet(t *testing.T) {
	runtime := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(runtime, []byte(`package main

import "github.com/rktnetes/rktshim/rktshim"

func main() { println(rktshim.Version) }
`), 0o600))
	for want, args := range map[string][]string{
		"rkt Version: 9.8.7+gtest\n": {"../../cmd/rkt", "version"},
		"9.8.7+gtest\n":              {runtime},
	} {
		run := exec.CommandContext(t.Context(), "go", append([]string{"run", "-tags", tags,
			"-ldflags", "-X github.com/rktnetes/rktshim/internal/version.Version=9.8.7+gtest"}, args...)...)
		run.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := run.CombinedOutput()
		require.NoError(t, err, string(out))
		require.True(t, strings.HasPrefix(string(out), want), string(out))
	}
}
