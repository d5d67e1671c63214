package store_test

import (
	"archive/tar"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// root makes and mounts a root and gives its path.
func (h *host) root(t testing.TB, id, image string) string {
	t.Helper()
	_, err := h.CreateRoot(t.Context(), id, image, store.RootOptions{})
	require.NoError(t, err)
	path, err := h.Mount(t.Context(), id)
	require.NoError(t, err)
	return path
}

// ofRoot is a path of a plain root.
func (h *host) ofRoot(elem ...string) string {
	return filepath.Join(append([]string{h.Root(), "rkt", "roots"}, elem...)...)
}

func TestAPlainRootNeedsNoRecordOfTheLibrary(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": "low", "only": "low"}, registrytest.Files{"a": "high"})
	path := h.root(t, "c", id)
	data, err := os.ReadFile(filepath.Join(path, "a"))
	require.NoError(t, err)
	require.Equal(t, "high", string(data), "layers are in order")
	require.FileExists(t, filepath.Join(path, "only"))
	containers, err := h.Library().Containers()
	require.NoError(t, err)
	require.Empty(t, containers)
	again, err := h.Mount(t.Context(), "c")
	require.NoError(t, err)
	require.Equal(t, path, again)
	require.NoError(t, h.Unmount(t.Context(), "c"))
	require.NoFileExists(t, filepath.Join(path, "a"), "one Unmount is enough")
	require.NoError(t, h.RemoveRoot(t.Context(), "c"))
}

func TestARootKeepsItsImage(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""})
	path := h.root(t, "c", id)
	err := h.Remove(id)
	require.True(t, errdefs.IsFailedPrecondition(err), err)
	require.ErrorContains(t, err, "used by container c")
	_, err = h.GC(t.Context(), store.GCOptions{Images: true})
	require.NoError(t, err)
	require.FileExists(t, filepath.Join(path, "a"))

	other := imagetest.Open(t, h.cfg) // as another process has it
	require.True(t, errdefs.IsFailedPrecondition(other.Remove(id)))
	require.NoError(t, h.RemoveRoot(t.Context(), "c"))
	require.NoError(t, other.Remove(id))
	require.Empty(t, h.layers(t))
}

// Whoever is first wins: there is never a root without its image.
func TestAnImageCannotGoWhileARootOfItIsMade(t *testing.T) {
	h := newHost(t)
	other := imagetest.Open(t, h.cfg)
	for i := range 20 {
		name := fmt.Sprint("app", i)
		id := h.image(t, name, registrytest.Files{"a": name})
		var made, removed error
		var wg sync.WaitGroup
		wg.Go(func() { _, made = h.CreateRoot(t.Context(), name, id, store.RootOptions{}) })
		wg.Go(func() { removed = other.Remove(id) })
		wg.Wait()
		if made == nil {
			require.True(t, errdefs.IsFailedPrecondition(removed), removed)
			_, err := h.Mount(t.Context(), name)
			require.NoError(t, err)
			require.NoError(t, h.RemoveRoot(t.Context(), name))
			continue
		}
		require.True(t, errdefs.IsNotFound(made), made)
		require.NoError(t, removed)
	}
}

func TestAnImageWhoseLockCannotBeMadeIsRemoved(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""})
	h.root(t, "c", id)
	lock := filepath.Join(h.Root(), "rkt", "used", id[len("sha256:"):])
	require.NoError(t, os.Remove(lock))
	require.NoError(t, os.Mkdir(lock, 0o700))
	_, err := h.CreateRoot(t.Context(), "d", id, store.RootOptions{})
	require.ErrorIs(t, err, unix.EISDIR)
	require.True(t, errdefs.IsFailedPrecondition(h.Remove(id)))
	require.NoError(t, h.RemoveRoot(t.Context(), "c"))
	require.NoError(t, h.Remove(id))
	require.Empty(t, h.layers(t))
}

func TestWhatKilledMakersAndRemoversOfRootsLeaveIsSwept(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""})
	h.root(t, "c", id)
	require.NoError(t, os.MkdirAll(h.ofRoot(".new-d-1", "diff"), 0o700))
	require.NoError(t, os.MkdirAll(h.ofRoot(".old-e", "diff", "written"), 0o700))
	require.NoError(t, os.MkdirAll(h.ofRoot(".old-f", "merged"), 0o700))
	roots, err := h.Roots()
	require.NoError(t, err)
	require.Len(t, roots, 1)

	require.NoError(t, h.RemoveRoot(t.Context(), "f"), "the same removal again finishes it")
	require.NoDirExists(t, h.ofRoot(".old-f"))
	require.NoError(t, h.Recover(t.Context()))
	entries, err := os.ReadDir(h.ofRoot())
	require.NoError(t, err)
	require.Len(t, entries, 1)
	require.Equal(t, "c", entries[0].Name())
	require.NoError(t, h.RemoveRoot(t.Context(), "c"))
}

func TestARootOfAnEarlierIDIsRemovedAfterAKilledRemoval(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""})
	require.NoError(t, os.MkdirAll(h.ofRoot(".old-c", "diff", "written"), 0o700))
	h.root(t, "c", id)
	require.NoError(t, h.RemoveRoot(t.Context(), "c"))
	entries, err := os.ReadDir(h.ofRoot())
	require.NoError(t, err)
	require.Empty(t, entries)
}

// After a power cut the record may be empty, which keeps nothing and is in nobody's way.
func TestARootWithADamagedRecordCanBeRemoved(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"empty": func(path string) error { return os.Truncate(path, 0) },
		"newer": func(path string) error { return os.WriteFile(path, []byte(`{"v":99}`), 0o600) },
		"gone":  os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			id := h.image(t, "app", registrytest.Files{"a": ""})
			_, err := h.CreateRoot(t.Context(), "c", id, store.RootOptions{})
			require.NoError(t, err)
			require.NoError(t, damage(h.ofRoot("c", "record.json")))
			roots, err := h.Roots()
			require.NoError(t, err)
			require.Len(t, roots, 1)
			require.Equal(t, "c", roots[0].ID)
			_, err = h.Mount(t.Context(), "c")
			require.True(t, errdefs.IsDataLoss(err), err)
			require.NoError(t, h.RemoveRoot(t.Context(), "c"))
			require.NoDirExists(t, h.ofRoot("c"))
			require.NoError(t, h.Remove(id))
		})
	}
}

func TestARootsFolderLooksLikeItsImages(t *testing.T) {
	h := newHost(t)
	id, _ := h.raw(t, entry{&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o1771, Uid: 12, Gid: 13}, ""})
	path := h.root(t, "c", id)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	require.EqualValues(t, 0o1771, st.Mode&0o7777)
	require.EqualValues(t, []uint32{12, 13}, []uint32{st.Uid, st.Gid})
	require.NoError(t, h.RemoveRoot(t.Context(), "c"))
}

// The names of so many layers do not fit into the options of a mount.
func TestARootOfManyLayersIsTheLibrarys(t *testing.T) {
	h := newHost(t)
	var layers []registrytest.Files
	for i := range 70 {
		layers = append(layers, registrytest.Files{fmt.Sprint("f", i): "x"})
	}
	id := h.image(t, "app", layers...)
	path := h.root(t, "c", id)
	for i := range 70 {
		require.FileExists(t, filepath.Join(path, fmt.Sprint("f", i)))
	}
	_, err := h.CreateRoot(t.Context(), "c", id, store.RootOptions{})
	require.True(t, errdefs.IsAlreadyExists(err), err)
	require.NoError(t, h.RemoveRoot(t.Context(), "c"))
	require.NoError(t, h.Remove(id))
}

func TestNoRootIsMadeOnALayerThatIsGone(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""})
	require.NoError(t, os.RemoveAll(filepath.Join(h.Root(), "overlay", h.layers(t)[0], "diff")))
	_, err := h.CreateRoot(t.Context(), "c", id, store.RootOptions{})
	require.ErrorIs(t, err, os.ErrNotExist)
	entries, err := os.ReadDir(h.ofRoot())
	require.NoError(t, err)
	require.Empty(t, entries)
}

func BenchmarkRoot(b *testing.B) {
	h := newHost(b)
	id := h.image(b, "app", registrytest.Files{"a": ""})
	for b.Loop() {
		h.root(b, "c", id)
		require.NoError(b, h.RemoveRoot(b.Context(), "c"))
	}
}
