package store_test

import (
	"archive/tar"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// entry is one of a layer, of its own size.
type entry struct {
	*tar.Header
	body string
}

func folder(name string) entry {
	return entry{&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}

func regular(name, body string) entry {
	return entry{&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body))}, body}
}

func link(name, target string) entry {
	return entry{&tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}, ""}
}

// raw pulls an image of one layer, which has these entries in this order, and
// gives its id and the layer's folder.
func (h *host) raw(t *testing.T, entries ...entry) (id, dir string) {
	t.Helper()
	pushed := h.r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: func(w *tar.Writer) error {
		for _, e := range entries {
			if err := w.WriteHeader(e.Header); err != nil {
				return err
			}
			if _, err := w.Write([]byte(e.body)); err != nil {
				return err
			}
		}
		return nil
	}}}})
	_, err := h.engine.Pull(t.Context(), pull.Request{Image: h.r.Ref("app", "v1")}, nil)
	require.NoError(t, err)
	return pushed.ID(), filepath.Join(h.Root(), "overlay", pushed.DiffIDs[0].Encoded(), "diff")
}

func TestWhatLayersMayHoldIsNoDamage(t *testing.T) {
	for what, entries := range map[string][]entry{
		"a file below an absolute symlink":        {folder("usr/lib/"), link("lib", "/usr/lib"), regular("lib/x", "hello")},
		"a file below a relative symlink":         {folder("usr/lib/"), link("lib", "usr/lib"), regular("lib/x", "hello")},
		"a file below a symlink that climbs":      {folder("usr/lib/"), link("lib", "../../../usr/lib"), regular("lib/x", "hello")},
		"an empty file below an absolute symlink": {folder("usr/lib/"), link("lib", "/usr/lib"), regular("lib/x", "")},
		"a deletion below an absolute symlink":    {folder("usr/lib/"), link("lib", "/usr/lib"), regular("lib/.wh.x", "")},
		"a deletion and then its name":            {regular(".wh.foo", ""), regular("foo", "hello")},
		"a deletion and then a folder":            {folder("a/"), regular("a/.wh.foo", ""), folder("a/foo/"), regular("a/foo/x", "hello")},
		"a hidden folder":                         {folder("usr/lib/"), regular("usr/lib/.wh..wh..opq", "")},
		"a hidden folder behind a symlink":        {folder("usr/lib/"), link("lib", "/usr/lib"), regular("lib/.wh..wh..opq", "")},
		"a root that hides all":                   {folder("./"), regular(".wh..wh..opq", "")},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t)
			id, _ := h.raw(t, entries...)
			verified, err := h.Verify(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, []store.Verified{{ID: id}}, verified)
		})
	}
}

// The same, with a layer that has been changed.
func TestDamageBehindSymlinksIsFound(t *testing.T) {
	for what, c := range map[string]struct {
		entries []entry
		harm    func(t *testing.T, dir string)
		want    store.Damage
	}{
		"a changed file below an absolute symlink": {
			entries: []entry{folder("usr/lib/"), link("lib", "/usr/lib"), regular("lib/x", "hello")},
			harm: func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "usr/lib/x"), []byte("hellO"), 0o600))
			},
			want: store.Damage{Path: "/lib/x", Problem: "content has changed"},
		},
		"a symlink in place of a file": {
			entries: []entry{regular("x", "hello")},
			harm: func(t *testing.T, dir string) {
				require.NoError(t, os.Remove(filepath.Join(dir, "x")))
				require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(dir, "x")))
			},
			want: store.Damage{Path: "/x", Problem: "is not a regular file"},
		},
		"a lost deletion": {
			entries: []entry{regular(".wh.foo", ""), regular("food", "hello")},
			harm: func(t *testing.T, dir string) {
				require.NoError(t, os.Remove(filepath.Join(dir, "foo")))
			},
			want: store.Damage{Path: "/.wh.foo", Problem: "its deletion is lost: no such file or directory"},
		},
		"a folder behind a symlink that hides no more": {
			entries: []entry{folder("usr/lib/"), link("lib", "/usr/lib"), regular("lib/.wh..wh..opq", "")},
			harm: func(t *testing.T, dir string) {
				require.NoError(t, unix.Removexattr(filepath.Join(dir, "usr/lib"), "trusted.overlay.opaque"))
			},
			want: store.Damage{Path: "/lib/.wh..wh..opq", Problem: "no longer hides the folder below it"},
		},
		"a hiding folder that is gone": {
			entries: []entry{folder("usr/"), regular("usr/.wh..wh..opq", "")},
			harm:    func(t *testing.T, dir string) { require.NoError(t, os.Remove(filepath.Join(dir, "usr"))) },
			want:    store.Damage{Path: "/usr", Problem: "no such file or directory"},
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t)
			id, dir := h.raw(t, c.entries...)
			c.harm(t, dir)
			verified, err := h.Verify(t.Context(), id)
			require.NoError(t, err)
			require.NotEmpty(t, verified[0].Damage)
			c.want.Layer = filepath.Base(filepath.Dir(dir))
			require.Equal(t, c.want, verified[0].Damage[0])
		})
	}
}
