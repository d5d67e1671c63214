package container

import (
	"os"
	"path/filepath"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
)

func profileOf(action specs.LinuxSeccompAction) *specs.Spec {
	return &specs.Spec{Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{DefaultAction: action}}}
}

func TestEachProfileIsCompiledOnce(t *testing.T) {
	var f filters
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "seccomp.bpf"), make([]byte, 16), 0o600))
	first, err := f.use(profileOf(specs.ActAllow), dir)
	require.NoError(t, err)
	f.learn(&first)

	again, other := profileOf(specs.ActAllow), profileOf(specs.ActErrno)
	_, err = f.use(again, dir)
	require.NoError(t, err)
	_, err = f.use(other, dir)
	require.NoError(t, err)

	require.Equal(t, map[string]string{bpfAnnotation: "AAAAAAAAAAAAAAAAAAAAAA=="}, again.Annotations)
	require.Empty(t, other.Annotations)
}

func TestProgramThatCannotBeReadIsNotLearnt(t *testing.T) {
	for name, content := range map[string][]byte{"absent": nil, "empty": {}, "cut": make([]byte, 9), "huge": make([]byte, maxFilterSize+8)} {
		var f filters
		dir := t.TempDir()
		if content != nil {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "seccomp.bpf"), content, 0o600))
		}
		made, err := f.use(profileOf(specs.ActAllow), dir)
		require.NoError(t, err)
		f.learn(&made)
		require.Empty(t, f.byHash, name)
	}
}

func TestProfileWithFlagsIsLeftToTheRuntime(t *testing.T) {
	var f filters
	spec := profileOf(specs.ActAllow)
	spec.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}
	made, err := f.use(spec, t.TempDir())
	require.NoError(t, err)
	require.Empty(t, made.path)
}
