package pull_test

import (
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/internal/registrytest"
)

func TestPullByTagUnpacksLayersInOrder(t *testing.T) {
	for _, docker := range []bool{false, true} {
		r := registrytest.New(t)
		h := newHost(t, nil)
		img := r.Push("app", "v1", registrytest.Image{
			Docker: docker,
			Layers: []registrytest.Layer{
				{Files: registrytest.Files{"etc/motd": "one", "low": "1"}},
				{Files: registrytest.Files{"etc/motd": "two"}, Compression: registrytest.Zstd},
				{Files: registrytest.Files{"top": "3"}, Compression: registrytest.None},
			},
			Config: v1.Image{Config: v1.ImageConfig{User: "7:8", Env: []string{"A=b"}}},
		})

		res, err := h.pull(t, r.Ref("app", "v1"))
		require.NoError(t, err)
		require.Equal(t, img.ID(), res.ID)

		got, err := h.store.Get(r.Ref("app", "v1"))
		require.NoError(t, err)
		require.Equal(t, img.ID(), got.ID)
		require.Equal(t, []string{r.Ref("app", "v1")}, got.Tags)
		require.Equal(t, []string{r.Ref("app", "@"+img.Manifest.String())}, got.Digests)
		require.Equal(t, "7:8", got.Config.Config.User)
		require.Positive(t, got.Size)

		root := h.root(t, img.ID())
		for name, want := range map[string]string{"etc/motd": "two", "low": "1", "top": "3"} {
			data, err := os.ReadFile(filepath.Join(root, name))
			require.NoError(t, err)
			require.Equal(t, want, string(data))
		}
		h.requireClean(t)
	}
}
