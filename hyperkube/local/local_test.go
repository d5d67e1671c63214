package local

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// As containerd makes the folder that its configuration names.
func TestFoldersWithoutFilesBecomeACluster(t *testing.T) {
	for _, inside := range []string{".", "cni/net.d"} {
		n := node{filepath.Join(t.TempDir(), "cluster")}
		require.NoError(t, os.MkdirAll(filepath.Join(n.dir, inside), 0o755))

		require.NoError(t, n.claim())

		require.NoError(t, n.isCluster())
	}
	n := node{filepath.Join(t.TempDir(), "none")}
	require.NoError(t, n.claim())
	require.NoError(t, n.isCluster())
}

func TestFilesInFoldersAreKept(t *testing.T) {
	n := node{t.TempDir()}
	require.NoError(t, os.MkdirAll(filepath.Join(n.dir, "a/b"), 0o755))
	require.NoError(t, os.Symlink("nothing", filepath.Join(n.dir, "a/b/link")))

	require.ErrorContains(t, n.claim(), "choose an empty folder")

	require.NoFileExists(t, n.marker())
}
