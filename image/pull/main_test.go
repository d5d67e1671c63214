package pull_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

func TestMain(m *testing.M) { imagetest.Main(m, nil) }

// host is one node: a store, its configuration, and an engine.
type host struct {
	dir    string
	store  *store.Store
	engine *pull.Engine
	cfg    pull.Config
}

func newHost(t testing.TB, edit func(*pull.Config)) *host {
	t.Helper()
	dir := imagetest.Dir(t)
	cfg := imagetest.PullConfig(dir)
	if edit != nil {
		edit(&cfg)
	}
	s := imagetest.Open(t, imagetest.StoreConfig(dir))
	return &host{dir: dir, store: s, cfg: cfg, engine: imagetest.Engine(t, s, cfg)}
}

func (h *host) pull(t testing.TB, image string) (pull.Result, error) {
	t.Helper()
	return h.engine.Pull(t.Context(), pull.Request{Image: image}, nil)
}

// write puts a file below the host's etc.
func (h *host) write(t testing.TB, name, content string) string {
	t.Helper()
	path := filepath.Join(h.dir, "etc", name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// root mounts a fresh root of an image and gives its path.
func (h *host) root(t testing.TB, image string) string {
	t.Helper()
	_, err := h.store.CreateRoot(t.Context(), "root", image, store.RootOptions{})
	require.NoError(t, err)
	path, err := h.store.Mount(t.Context(), "root")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, h.store.RemoveRoot(t.Context(), "root")) })
	return path
}

// requireClean fails if anything that no image needs is in the store.
func (h *host) requireClean(t testing.TB) {
	t.Helper()
	for _, dir := range []string{"overlay/staging", "overlay/tempdirs", "overlay-layers/tempdirs"} {
		entries, err := os.ReadDir(filepath.Join(h.store.Root(), dir))
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		require.Empty(t, entries, dir)
	}
}

func files(f registrytest.Files) registrytest.Image {
	return registrytest.Image{Layers: []registrytest.Layer{{Files: f}}}
}
