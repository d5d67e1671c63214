package rundir

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDefaultFolderHasTheDefaultRunFolder(t *testing.T) {
	dir, err := Of(DefaultDir + "/")

	require.NoError(t, err)
	require.Equal(t, "/run/rkt", dir)
}

func TestFolderHasOneRunFolderByAllItsNames(t *testing.T) {
	parent := t.TempDir()
	node, link := filepath.Join(parent, "node"), filepath.Join(parent, "link")
	require.NoError(t, os.Mkdir(node, 0o755))
	require.NoError(t, os.Symlink(node, link))

	byName, err := Of(node)
	require.NoError(t, err)
	byLink, err := Of(link)
	require.NoError(t, err)
	other, err := Of(parent)
	require.NoError(t, err)

	require.Equal(t, byName, byLink)
	require.Regexp(t, `^/run/rkt-[0-9a-f]{12}$`, byName)
	require.NotEqual(t, byName, other)
}
