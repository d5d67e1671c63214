package pull_test

import (
	"archive/tar"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/registrytest"
)

func entries(hdrs ...*tar.Header) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		for _, h := range hdrs {
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			if h.Size > 0 {
				if _, err := w.Write(make([]byte, h.Size)); err != nil {
					return err
				}
			}
		}
		return nil
	}
}

func TestUnpackedFilesKeepAllThatTheArchiveSays(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	mtime := time.Unix(1234567890, 123456789)
	capability := "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	img := r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: entries(
		&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o751, Uid: 3, Gid: 4},
		&tar.Header{Name: "dir/", Typeflag: tar.TypeDir, Mode: 0o1777, ModTime: mtime, Format: tar.FormatPAX},
		&tar.Header{Name: "setuid", Typeflag: tar.TypeReg, Mode: 0o4755, Size: 5},
		&tar.Header{Name: "setgid", Typeflag: tar.TypeReg, Mode: 0o2711, Gid: 42},
		&tar.Header{Name: "big-ids", Typeflag: tar.TypeReg, Mode: 0o600, Uid: 4000000000, Gid: 3999999999, Format: tar.FormatPAX},
		&tar.Header{Name: "timed", Typeflag: tar.TypeReg, Mode: 0o666, ModTime: mtime, Format: tar.FormatPAX},
		&tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "setuid", Mode: 0o4755},
		&tar.Header{Name: "abs", Typeflag: tar.TypeSymlink, Linkname: "/setuid", Uid: 9},
		&tar.Header{Name: "null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3},
		&tar.Header{Name: "loop", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 7, Devminor: 300},
		&tar.Header{Name: "pipe", Typeflag: tar.TypeFifo, Mode: 0o600},
		&tar.Header{Name: "xattrs", Typeflag: tar.TypeReg, Mode: 0o755, Format: tar.FormatPAX, PAXRecords: map[string]string{
			"SCHILY.xattr.user.note": "hello", "SCHILY.xattr.security.capability": capability,
		}},
		&tar.Header{Name: "implied/file", Typeflag: tar.TypeReg, Mode: 0o600},
		&tar.Header{Name: "caf\xe9", Typeflag: tar.TypeReg, Mode: 0o644}, // no UTF-8
	)}}})

	_, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)

	root := h.root(t, img.ID())
	stat := func(name string) unix.Stat_t {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(filepath.Join(root, name), &st), name)
		return st
	}
	require.EqualValues(t, unix.S_IFDIR|0o751, stat("").Mode)
	require.EqualValues(t, []uint32{3, 4}, []uint32{stat("").Uid, stat("").Gid})
	require.EqualValues(t, unix.S_IFDIR|0o1777, stat("dir").Mode)
	require.Equal(t, mtime.UnixNano(), syscall.TimespecToNsec(syscall.Timespec(stat("dir").Mtim)))
	require.EqualValues(t, unix.S_IFREG|0o4755, stat("setuid").Mode)
	require.EqualValues(t, unix.S_IFREG|0o2711, stat("setgid").Mode)
	require.EqualValues(t, 42, stat("setgid").Gid)
	require.EqualValues(t, []uint32{4000000000, 3999999999}, []uint32{stat("big-ids").Uid, stat("big-ids").Gid})
	require.EqualValues(t, unix.S_IFREG|0o666, stat("timed").Mode, "no umask")
	require.Equal(t, mtime.UnixNano(), syscall.TimespecToNsec(syscall.Timespec(stat("timed").Mtim)))
	require.Equal(t, stat("setuid").Ino, stat("hard").Ino)
	require.EqualValues(t, 9, stat("abs").Uid)
	target, err := os.Readlink(filepath.Join(root, "abs"))
	require.NoError(t, err)
	require.Equal(t, "/setuid", target)
	require.EqualValues(t, unix.S_IFCHR|0o666, stat("null").Mode)
	require.Equal(t, unix.Mkdev(1, 3), stat("null").Rdev)
	require.EqualValues(t, unix.S_IFBLK|0o660, stat("loop").Mode)
	require.Equal(t, unix.Mkdev(7, 300), stat("loop").Rdev)
	require.EqualValues(t, unix.S_IFIFO|0o600, stat("pipe").Mode)
	stat("caf\xe9")
	require.EqualValues(t, unix.S_IFDIR|0o755, stat("implied").Mode)
	for name, want := range map[string]string{"user.note": "hello", "security.capability": capability} {
		buf := make([]byte, 64)
		n, err := unix.Lgetxattr(filepath.Join(root, "xattrs"), name, buf)
		require.NoError(t, err, name)
		require.Equal(t, want, string(buf[:n]))
	}
}

func TestWhiteoutsHideWhatIsBelow(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{
		{Files: registrytest.Files{"gone": "x", "kept": "x", "full/a": "x", "full/b": "x", "tree/a/b": "x"}},
		{Files: registrytest.Files{".wh.gone": "", "full/.wh..wh..opq": "", "full/c": "x", "tree/.wh.a": ""}},
	}})

	_, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)

	root := h.root(t, img.ID())
	var found []string
	require.NoError(t, filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		found = append(found, rel)
		return err
	}))
	require.Equal(t, []string{".", "full", "full/c", "kept", "tree"}, found)
}

// A layer without an entry for "/" must not change what the layer below says.
func TestTheRootFolderComesFromTheLowestLayerThatHasIt(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{
		{Tar: entries(&tar.Header{Name: "/", Typeflag: tar.TypeDir, Mode: 0o711, Uid: 5, Gid: 6})},
		{Files: registrytest.Files{"a": ""}},
		{Files: registrytest.Files{"b": ""}},
	}})
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(h.root(t, img.ID()), &st))
	require.EqualValues(t, unix.S_IFDIR|0o711, st.Mode)
	require.EqualValues(t, []uint32{5, 6}, []uint32{st.Uid, st.Gid})
}

// Each layer tries to write to a file outside of its folder.
func TestLayersCannotReachOutOfTheirFolder(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	require.NoError(t, os.WriteFile(victim, []byte("untouched"), 0o644))
	evil := func(name string) *tar.Header {
		return &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o777, Size: 4}
	}
	for what, layer := range map[string]func(*tar.Writer) error{
		"dots":                entries(evil("../../../../../../../../../../.." + victim)),
		"absolute name":       entries(evil(victim)),
		"absolute symlink":    entries(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, evil("l/victim")),
		"relative symlink":    entries(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../../../.." + outside}, evil("l/victim")),
		"symlink to the file": entries(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: victim}, evil("l")),
		"hard link":           entries(&tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: victim}, evil("l")),
		"hard link with dots": entries(&tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "../../../../../../../.." + victim}, evil("l")),
		"symlinked folder":    entries(&tar.Header{Name: "d", Typeflag: tar.TypeSymlink, Linkname: "/"}, &tar.Header{Name: "d" + outside + "/", Typeflag: tar.TypeDir, Mode: 0o777}, evil("d"+victim)),
		"whiteout of a link":  entries(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, &tar.Header{Name: "l/.wh.victim", Typeflag: tar.TypeReg}),
		"opaque link":         entries(&tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: outside}, &tar.Header{Name: "l/.wh..wh..opq", Typeflag: tar.TypeReg}),
	} {
		t.Run(what, func(t *testing.T) {
			r := registrytest.New(t)
			h := newHost(t, nil)
			r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{{Tar: layer}}})

			_, err := h.pull(t, r.Ref("app", "v1")) // whether it is refused or unpacked harmlessly
			t.Log(err)

			data, err := os.ReadFile(victim)
			require.NoError(t, err)
			require.Equal(t, "untouched", string(data))
			found, err := os.ReadDir(outside)
			require.NoError(t, err)
			require.Len(t, found, 1)
			h.requireClean(t)
		})
	}
}

func TestManyLayersAndNone(t *testing.T) {
	for _, n := range []int{0, 1, 127} {
		r := registrytest.New(t)
		h := newHost(t, nil)
		img := registrytest.Image{}
		for i := range n {
			img.Layers = append(img.Layers, registrytest.Layer{Files: registrytest.Files{"n": string(rune('0' + i))}})
		}
		pushed := r.Push("app", "v1", img)

		res, err := h.pull(t, r.Ref("app", "v1"))
		require.NoError(t, err, "%d layers", n)
		require.Equal(t, pushed.ID(), res.ID)

		root := h.root(t, pushed.ID())
		if n > 0 {
			data, err := os.ReadFile(filepath.Join(root, "n"))
			require.NoError(t, err)
			require.Equal(t, string(rune('0'+n-1)), string(data))
		}
		require.NoError(t, os.WriteFile(filepath.Join(root, "new"), nil, 0o600))
		got, err := h.store.Get(pushed.ID())
		require.NoError(t, err)
		require.Positive(t, got.Size)
	}
}
