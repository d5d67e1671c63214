package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// newSmallHost has its store on a disk of its own, of a few MiB.
func newSmallHost(t *testing.T) (h *host, fill func()) {
	t.Helper()
	dir := imagetest.Dir(t)
	disk := filepath.Join(dir, "disk")
	require.NoError(t, os.Mkdir(disk, 0o700))
	require.NoError(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	cfg := store.Config{Root: filepath.Join(disk, "root"), RunRoot: filepath.Join(dir, "run")}
	s := imagetest.Open(t, cfg)
	h = &host{Store: s, cfg: cfg, r: registrytest.New(t), engine: imagetest.Engine(t, s, imagetest.PullConfig(dir))}
	fills := 0
	return h, func() {
		fills++
		f, err := os.Create(filepath.Join(disk, fmt.Sprint("filler", fills)))
		require.NoError(t, err)
		defer f.Close()
		for page := make([]byte, 4096); err == nil; {
			_, err = f.Write(page)
		}
		require.ErrorIs(t, err, unix.ENOSPC)
	}
}

func TestAFullDiskCanBeEmptied(t *testing.T) {
	h, fill := newSmallHost(t)
	ids := map[string]string{}
	for _, name := range []string{"one", "two", "three"} {
		ids[name] = h.image(t, name, registrytest.Files{name: name}, registrytest.Files{"more": name})
	}
	h.image(t, "passing", registrytest.Files{"orphan": "x"})
	h.orphan(t, "passing")
	_, err := h.CreateRoot(t.Context(), "c", ids["one"], store.RootOptions{})
	require.NoError(t, err)

	fill()
	require.NoError(t, h.Remove(ids["two"]))
	require.Len(t, h.layers(t), 2+2+1, "one's, three's and the orphan")
	fill()
	require.NoError(t, h.RemoveRoot(t.Context(), "c"))
	fill()
	res, err := h.GC(t.Context(), store.GCOptions{Images: true})
	require.NoError(t, err)
	require.Len(t, res.Images, 2)
	require.Equal(t, 1, res.Layers)
	require.Empty(t, h.layers(t))
}

func TestAStoreOnAFullDiskOpens(t *testing.T) {
	h, fill := newSmallHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""}, registrytest.Files{"b": ""})
	h.rewriteBoot(t, "another-boot")
	h.orphan(t, "app")
	fill()
	require.NoError(t, h.Close())
	h.Store = imagetest.Open(t, h.cfg)
	require.Empty(t, h.layers(t), "what killed processes left goes")
	_, err := h.Get(id)
	require.Error(t, err)
}

// Without what is set aside, too: it may have been used up.
func TestAFullDiskWithoutReserveSaysSo(t *testing.T) {
	h, fill := newSmallHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""})
	require.NoError(t, os.Truncate(filepath.Join(h.Root(), "rkt", "reserve"), 0))
	fill()
	for range 2 {
		require.ErrorIs(t, h.Remove(id), unix.ENOSPC)
		_, err := h.Get(id)
		require.NoError(t, err, "it is still there")
	}
	require.NoError(t, os.Remove(filepath.Join(filepath.Dir(h.Root()), "filler1")))
	require.NoError(t, h.Remove(id))
	require.Empty(t, h.layers(t))
	st, err := os.Stat(filepath.Join(h.Root(), "rkt", "reserve"))
	require.NoError(t, err)
	require.EqualValues(t, 1<<20, st.Size(), "it is made again")
}
