package supervisorbin

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBinaryIsUnpackedOnceAndMendedIfDamaged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bin")
	path, err := unpack(dir, []byte("#!/bin/sh\n"))
	require.NoError(t, err)
	fi, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o755), fi.Mode())

	again, err := unpack(dir, []byte("#!/bin/sh\n"))
	require.NoError(t, err)
	require.Equal(t, path, again)
	same, err := os.Stat(path)
	require.NoError(t, err)
	require.True(t, os.SameFile(fi, same), "it was right, so it was left alone")

	require.NoError(t, os.WriteFile(path, []byte("#!/bin/rm\n"), 0o755))
	_, err = unpack(dir, []byte("#!/bin/sh\n"))
	require.NoError(t, err)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "#!/bin/sh\n", string(content))
}

func TestNewerBinaryLeavesTheOlderToItsPods(t *testing.T) {
	dir := t.TempDir()
	older, err := unpack(dir, []byte("1"))
	require.NoError(t, err)
	newer, err := unpack(dir, []byte("2"))
	require.NoError(t, err)

	require.NotEqual(t, older, newer)
	require.FileExists(t, older)
}

func TestFolderThatCannotBeWrittenIsNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))

	_, err := unpack(file, []byte("1"))

	require.ErrorContains(t, err, "unpack rkt-supervisor: mkdir "+file)
}
