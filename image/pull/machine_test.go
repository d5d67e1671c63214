package pull_test

import (
	"archive/tar"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// A small tmpfs stands in for the disk.
func TestALayerLargerThanTheDiskEndsCleanly(t *testing.T) {
	r := registrytest.New(t)
	dir := imagetest.Dir(t)
	require.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m"))
	s := imagetest.Open(t, imagetest.StoreConfig(dir))
	h := &host{dir: dir, store: s, engine: imagetest.Engine(t, s, imagetest.PullConfig(dir))}
	small := r.Push("small", "v1", files(registrytest.Files{"a": "kept"}))
	_, err := h.pull(t, r.Ref("small", "v1"))
	require.NoError(t, err)
	var before, after unix.Statfs_t
	require.NoError(t, unix.Statfs(dir, &before))

	bomb := r.Push("bomb", "v1", registrytest.Image{Layers: []registrytest.Layer{
		{Files: registrytest.Files{"first": "x"}},
		{Tar: entries(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o600, Size: 256 << 20})},
	}})
	require.Less(t, len(r.Blob(bomb.Layers[1])), 2<<20, "it is small on the wire")
	_, err = h.pull(t, r.Ref("bomb", "v1"))
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "no space left on device")
	require.ErrorContains(t, err, r.Ref("bomb", "v1"))
	require.NotErrorIs(t, err, syscall.EPIPE)
	h.engine.Wait()

	h.requireClean(t)
	require.NoError(t, unix.Statfs(dir, &after))
	require.InDelta(t, float64(before.Bfree), float64(after.Bfree), 64, "pages that are not given back")
	verified, err := s.Verify(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, []store.Verified{{ID: small.ID()}}, verified)
	next := r.Push("next", "v1", files(registrytest.Files{"a": "next"}))
	res, err := h.pull(t, r.Ref("next", "v1"))
	require.NoError(t, err)
	require.Equal(t, next.ID(), res.ID)
}

func TestADamagedFileIsFoundAndRepairedByPullingAgain(t *testing.T) {
	content := noise(50_000)
	layer := registrytest.Layer{Tar: func(w *tar.Writer) error {
		hdrs := []*tar.Header{
			{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o755},
			{Name: "dir/file", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))},
			{Name: "dir/empty", Typeflag: tar.TypeReg, Mode: 0o644},
			{Name: "link", Typeflag: tar.TypeSymlink, Linkname: "dir/file"},
			{Name: ".wh.gone", Typeflag: tar.TypeReg},
			{Name: "hidden/.wh..wh..opq", Typeflag: tar.TypeReg},
		}
		for _, h := range hdrs {
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			if h.Size > 0 {
				if _, err := w.Write([]byte(content)); err != nil {
					return err
				}
			}
		}
		return nil
	}}
	for what, c := range map[string]struct {
		damage func(t *testing.T, diff string)
		path   string
	}{
		"a byte": {path: "/dir/file", damage: func(t *testing.T, diff string) {
			f, err := os.OpenFile(filepath.Join(diff, "dir/file"), os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt([]byte{content[100] + 1}, 100)
			require.NoError(t, err)
			require.NoError(t, f.Close())
		}},
		"cut short":    {path: "/dir/file", damage: func(t *testing.T, d string) { require.NoError(t, os.Truncate(filepath.Join(d, "dir/file"), 10)) }},
		"missing file": {path: "/dir/file", damage: func(t *testing.T, d string) { require.NoError(t, os.Remove(filepath.Join(d, "dir/file"))) }},
		"missing empty file": {path: "/dir/empty", damage: func(t *testing.T, d string) {
			require.NoError(t, os.Remove(filepath.Join(d, "dir/empty")))
		}},
		"mode":  {path: "/dir/empty", damage: func(t *testing.T, d string) { require.NoError(t, os.Chmod(filepath.Join(d, "dir/empty"), 0o777)) }},
		"owner": {path: "/dir", damage: func(t *testing.T, d string) { require.NoError(t, os.Chown(filepath.Join(d, "dir"), 1, 1)) }},
		"symlink": {path: "/link", damage: func(t *testing.T, d string) {
			require.NoError(t, os.Remove(filepath.Join(d, "link")))
			require.NoError(t, os.Symlink("/etc/shadow", filepath.Join(d, "link")))
		}},
		"whiteout": {path: "/.wh.gone", damage: func(t *testing.T, d string) { require.NoError(t, os.Remove(filepath.Join(d, "gone"))) }},
		"opaque folder": {path: "/hidden/.wh..wh..opq", damage: func(t *testing.T, d string) {
			require.NoError(t, unix.Removexattr(filepath.Join(d, "hidden"), "trusted.overlay.opaque"))
		}},
		"the whole layer": {path: "/", damage: func(t *testing.T, d string) { require.NoError(t, os.RemoveAll(d)) }},
		"the record of headers": {path: "/", damage: func(t *testing.T, d string) {
			id := filepath.Base(filepath.Dir(d))
			require.NoError(t, os.Truncate(filepath.Join(d, "../../../overlay-layers", id+".tar-split.gz"), 30))
		}},
	} {
		t.Run(what, func(t *testing.T) {
			r := registrytest.New(t)
			h := newHost(t, nil)
			base := registrytest.Layer{Files: registrytest.Files{"gone": "x", "hidden/x": "x"}}
			img := r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{base, layer, {Files: registrytest.Files{"top": "x"}}}})
			other := r.Push("other", "v1", registrytest.Image{Layers: []registrytest.Layer{base}})
			for _, image := range []string{r.Ref("app", "v1"), r.Ref("other", "v1")} {
				_, err := h.pull(t, image)
				require.NoError(t, err)
			}
			verified, err := h.store.Verify(t.Context(), "")
			require.NoError(t, err)
			require.Len(t, verified, 2)
			require.Empty(t, append(verified[0].Damage, verified[1].Damage...))
			chain := store.ChainID(img.DiffIDs[0], img.DiffIDs[1]).Encoded()
			diff := filepath.Join(h.store.Root(), "overlay", chain, "diff")

			c.damage(t, diff)
			verified, err = h.store.Verify(t.Context(), r.Ref("app", "v1"))
			require.NoError(t, err)
			require.Len(t, verified, 1)
			require.Len(t, verified[0].Damage, 1, "%v", verified[0].Damage)
			require.Equal(t, chain, verified[0].Damage[0].Layer)
			require.Equal(t, c.path, verified[0].Damage[0].Path)
			verified, err = h.store.Verify(t.Context(), other.ID())
			require.NoError(t, err)
			require.Empty(t, verified[0].Damage)

			r.Forget()
			_, err = h.pull(t, r.Ref("app", "v1"))
			require.NoError(t, err)
			require.Len(t, r.Requests("/blobs/"), 1, "the damaged layer only")
			require.Len(t, r.Requests(img.Layers[1].String()), 1)
			verified, err = h.store.Verify(t.Context(), "")
			require.NoError(t, err)
			require.Empty(t, append(verified[0].Damage, verified[1].Damage...))
			h.requireClean(t)
			root := h.root(t, img.ID())
			data, err := os.ReadFile(filepath.Join(root, "link"))
			require.NoError(t, err)
			require.Equal(t, content, string(data))
			require.NoFileExists(t, filepath.Join(root, "gone"))
			require.NoFileExists(t, filepath.Join(root, "hidden/x"))
		})
	}
}

func TestARepairLeavesWhatContainersHaveMounted(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": "good", "b": "good"}))
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	root := h.root(t, img.ID())
	diff := filepath.Join(h.store.Root(), "overlay", img.DiffIDs[0].Encoded(), "diff")
	require.NoError(t, os.WriteFile(filepath.Join(diff, "a"), []byte("evil"), 0o644))
	_, err = h.store.Verify(t.Context(), img.ID())
	require.NoError(t, err)

	_, err = h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(root, "b"))
	require.NoError(t, err)
	require.Equal(t, "good", string(data))
	_, err = h.store.CreateRoot(t.Context(), "second", img.ID(), store.RootOptions{})
	require.NoError(t, err)
	second, err := h.store.Mount(t.Context(), "second")
	require.NoError(t, err)
	data, err = os.ReadFile(filepath.Join(second, "a"))
	require.NoError(t, err)
	require.Equal(t, "good", string(data))
	require.NoError(t, h.store.RemoveRoot(t.Context(), "second"))
}

func TestADamagedConfigIsRepairedByPullingAgain(t *testing.T) {
	for _, item := range []string{"config", "manifest"} {
		r := registrytest.New(t)
		h := newHost(t, nil)
		img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
		_, err := h.pull(t, r.Ref("app", "v1"))
		require.NoError(t, err)
		raw, err := h.store.RawManifest(img.ID())
		if item == "config" {
			raw, err = h.store.RawConfig(img.ID())
		}
		require.NoError(t, err)
		damaged := 0
		require.NoError(t, filepath.WalkDir(filepath.Join(h.store.Root(), "overlay-images"), func(path string, d os.DirEntry, err error) error {
			if data, rerr := os.ReadFile(path); rerr == nil && string(data) == string(raw) {
				damaged++
				return os.WriteFile(path, []byte("{}"), 0o600)
			}
			return err
		}))
		require.NotZero(t, damaged)

		verified, err := h.store.Verify(t.Context(), img.ID())
		require.NoError(t, err)
		require.Len(t, verified[0].Damage, 1)
		require.Equal(t, item, verified[0].Damage[0].Path)
		again := imagetest.Open(t, imagetest.StoreConfig(h.dir)) // without the index in memory
		_, err = again.Get(img.ID())
		require.Error(t, err, "an image that cannot be read is absent")

		_, err = h.pull(t, r.Ref("app", "v1"))
		require.NoError(t, err)
		verified, err = h.store.Verify(t.Context(), img.ID())
		require.NoError(t, err)
		require.Empty(t, verified[0].Damage)
		_, err = again.Get(img.ID())
		require.NoError(t, err)
	}
}
