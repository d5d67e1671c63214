package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestScratchOfAKilledProcessIsRemovedAndThatOfALivingOneStays(t *testing.T) {
	g := &global{dir: t.TempDir()}
	dead, alive := filepath.Join(g.dir, "tmp/rkt-1"), filepath.Join(g.dir, "tmp/rkt-2")
	for _, dir := range []string{dead, alive} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "big"), 0o700))
	}
	lock, err := locked(alive, unix.LOCK_EX)
	require.NoError(t, err)
	defer lock.Close()

	var own string
	require.NoError(t, g.withScratch(func(dir string) error {
		own = dir
		require.DirExists(t, own)
		require.NoDirExists(t, dead)
		require.DirExists(t, alive)
		require.NoError(t, g.withScratch(func(other string) error {
			require.NotEqual(t, own, other)
			return nil
		}))
		require.DirExists(t, own, "a second process leaves it alone")
		return nil
	}))
	require.NoDirExists(t, own)
}

func TestScratchThatCannotBeMadeNamesItsPlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	err := (&global{dir: file}).withScratch(func(string) error { return nil })
	require.ErrorContains(t, err, "make a temporary folder below "+file)
}
