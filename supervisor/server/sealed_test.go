package server

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/reap"
)

// copyOf puts a copy of a program in place of another.
func copyOf(t *testing.T, program, to string) {
	t.Helper()
	b, err := os.ReadFile(program)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to+".new", b, 0o755))
	require.NoError(t, os.Rename(to+".new", to))
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts take root")
	}
}

func TestSealedProgramIsBehindAReadOnlyMount(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "crun")
	copyOf(t, "/bin/true", path)
	s := newSealed(path)
	defer s.giveUp()

	command := s.command()

	require.NotEqual(t, path, command)
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(command, &st))
	require.NotZero(t, st.Flags&unix.ST_RDONLY)
	_, err := os.OpenFile(command, os.O_WRONLY, 0)
	require.ErrorIs(t, err, unix.EROFS)
	require.Equal(t, command, s.command(), "one mount is enough")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	require.NotContains(t, string(mounts), path, "nobody sees it")
}

func TestSealedProgramIsTheOneThatIsInstalled(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "crun")
	copyOf(t, "/bin/true", path)
	s := newSealed(path)
	defer s.giveUp()
	s.command()
	copyOf(t, "/bin/false", path)

	command := s.command()

	got, err := os.ReadFile(command)
	require.NoError(t, err)
	want, err := os.ReadFile("/bin/false")
	require.NoError(t, err)
	require.True(t, bytes.Equal(want, got), "it was upgraded")
}

func TestProgramThatIsGoneIsNotSealed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "crun")
	require.Equal(t, path, newSealed(path).command())
}

func TestScriptIsNotSealed(t *testing.T) {
	needRoot(t)
	path := filepath.Join(t.TempDir(), "crun")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\nexec /usr/bin/crun \"$@\"\n"), 0o755))
	s := newSealed(path)
	require.Equal(t, path, s.command())
	require.Equal(t, -1, s.fd)
}

// Where the mount cannot be executed from, the program is by its path, from then on.
func TestRuntimeRunsWithoutTheMountWhereItMust(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "crun")
	copyOf(t, "/bin/true", path)
	s := newSealed(path)
	s.command()
	closed, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 1000)
	require.NoError(t, err)
	require.NoError(t, unix.Close(closed))
	require.NoError(t, unix.Close(s.fd))
	s.fd = closed // leads nowhere

	reaper := reap.New()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = reaper.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	r := &ociRuntime{reaper: reaper, path: path, root: dir, tmp: dir, sealed: s}
	require.NoError(t, r.run(t.Context(), "state"))
	require.Equal(t, path, s.command())
}
