package aci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func TestHostileArchivesAreRefused(t *testing.T) {
	m := file("manifest", minimal(t, nil))
	far := file("rootfs/x", "")
	far.Uid = 1<<32 - 1
	for name, c := range map[string]struct {
		want    string
		entries []entry
	}{
		"traversal":           {`entry "rootfs/../../x": the path leaves`, []entry{m, file("rootfs/../../x", "")}},
		"traversal inside":    {`the path leaves`, []entry{m, file("rootfs/a/../b", "")}},
		"absolute":            {`entry "/rootfs/x": the path is absolute`, []entry{m, file("/rootfs/x", "")}},
		"beside the rootfs":   {`entry "other": an ACI holds nothing but`, []entry{m, dir("rootfs"), file("other", "")}},
		"like rootfs":         {`entry "rootfs2/x"`, []entry{m, file("rootfs2/x", "")}},
		"second manifest":     {"second manifest", []entry{m, dir("rootfs"), file("./manifest", "{}")}},
		"no manifest":         {"it has no manifest", []entry{dir("rootfs")}},
		"no rootfs":           {"it has no rootfs", []entry{m}},
		"nothing":             {"it has no manifest", nil},
		"manifest is a link":  {"manifest is not a regular file", []entry{link(tar.TypeSymlink, "manifest", "/etc/passwd"), dir("rootfs")}},
		"rootfs is a link":    {"rootfs is not a directory", []entry{m, link(tar.TypeSymlink, "rootfs", "/")}},
		"hard link outside":   {`hard link to "manifest" outside of rootfs`, []entry{m, link(tar.TypeLink, "rootfs/x", "manifest")}},
		"hard link up":        {`hard link to "rootfs/../../etc/shadow" outside`, []entry{m, link(tar.TypeLink, "rootfs/x", "rootfs/../../etc/shadow")}},
		"hard link absolute":  {`hard link to "/etc/shadow" outside`, []entry{m, link(tar.TypeLink, "rootfs/x", "/etc/shadow")}},
		"whiteout":            {`names that start with .wh.`, []entry{m, file("rootfs/a/.wh..wh..opq", "")}},
		"owner":               {"is out of range", []entry{m, far}},
		"unknown type":        {"unknown type '7'", []entry{m, {tar.Header{Typeflag: tar.TypeCont, Name: "rootfs/x"}, ""}}},
		"manifest is no JSON": {"appc manifest", []entry{file("manifest", "x"), dir("rootfs")}},
		"whitelisted hard link": {"pathWhitelist keeps /b, a hard link to /a, but not that", []entry{
			file("manifest", minimal(t, map[string]any{"pathWhitelist": []string{"/b"}})),
			file("rootfs/a", ""), link(tar.TypeLink, "rootfs/b", "rootfs/a")}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), write(t, pack(t, c.entries...)), DefaultLimits)
			require.ErrorContains(t, err, c.want)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		})
	}
}

func TestLimitsHold(t *testing.T) {
	small := Limits{Manifest: 1000, BeforeManifest: 4000, Layer: 9000, Trailing: 2000}
	m := file("manifest", minimal(t, nil))
	kilo := func(name string, n int) entry { return file(name, string(make([]byte, n*1000))) }
	for want, raw := range map[string][]byte{
		"manifest has 2000 bytes, the limit is 1000":       pack(t, kilo("manifest", 2), dir("rootfs")),
		"no manifest within the first 4000 bytes of files": pack(t, kilo("rootfs/a", 4), m),
		"its files take more than 9000 bytes":              pack(t, m, kilo("rootfs/a", 9)),
		"more than 2000 bytes follow the end of the tar":   append(pack(t, m, dir("rootfs")), make([]byte, 3000)...),
	} {
		_, err := Open(t.Context(), write(t, raw), small)
		require.ErrorContains(t, err, want)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
	_, err := Open(t.Context(), write(t, pack(t, m, kilo("rootfs/a", 8))), small)
	require.NoError(t, err)
}

func TestManifestAfterTenGigabytesIsRefused(t *testing.T) {
	// The header alone says it: nothing of the 10 GB is read or written.
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	require.NoError(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "rootfs/big", Size: 10 << 30}))
	_, err := Open(t.Context(), write(t, buf.Bytes()), DefaultLimits)
	require.ErrorContains(t, err, "no manifest within the first 10737418240 bytes")
}

func TestTruncatedOrDamagedArchiveIsRefused(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, err := w.Write(pack(t, file("manifest", minimal(t, nil)), file("rootfs/a", "some content")))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	whole := zipped.Bytes()
	flipped := bytes.Clone(whole)
	flipped[len(flipped)-5] ^= 1 // in the checksum, behind all data
	plain := pack(t, file("manifest", minimal(t, nil)), file("rootfs/a", "some content"))

	for name, raw := range map[string][]byte{
		"cut": whole[:len(whole)/2], "checksum cut off": whole[:len(whole)-4], "wrong checksum": flipped,
		"cut in a file": plain[:1024+512+3], "noise": []byte("this is not a tar file, and it is longer than one block " + string(make([]byte, 512))),
		"empty": {},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(t.Context(), write(t, raw), DefaultLimits)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		})
	}
}

func TestCancelledReadEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Open(ctx, write(t, pack(t, file("manifest", minimal(t, nil)), dir("rootfs"))), DefaultLimits)
	require.ErrorIs(t, err, context.Canceled)
}

func TestFileThatChangedAfterOpenIsAnErrorOrAnotherDigest(t *testing.T) {
	path := write(t, pack(t, file("manifest", minimal(t, nil)), dir("rootfs"), file("rootfs/a", "1")))
	img, err := Open(t.Context(), path, DefaultLimits)
	require.NoError(t, err)
	defer img.Close()
	require.NoError(t, os.Truncate(path, 700))
	r, err := img.Layer(t.Context())
	require.NoError(t, err)
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestEveryCompressionOfTheFormatIsRead(t *testing.T) {
	plain := openACI(t, file("manifest", full), dir("rootfs"), file("rootfs/a", "1"))
	for _, tool := range []string{"gzip", "bzip2", "xz", "zstd"} {
		t.Run(tool, func(t *testing.T) {
			path := write(t, pack(t, file("manifest", full), dir("rootfs"), file("rootfs/a", "1")))
			out, err := exec.CommandContext(t.Context(), tool, "-c", path).Output()
			require.NoError(t, err, "%s is needed", tool)
			packed := filepath.Join(t.TempDir(), "any-name.tar")
			require.NoError(t, os.WriteFile(packed, out, 0o600))
			img, err := Open(t.Context(), packed, DefaultLimits)
			require.NoError(t, err)
			defer img.Close()
			require.Equal(t, string(plain.OCI), string(img.OCI))
		})
	}
}

func FuzzArchive(f *testing.F) {
	m := file("manifest", minimal(f, nil))
	f.Add(pack(f, m, dir("rootfs"), file("rootfs/a", "1"), link(tar.TypeLink, "rootfs/b", "rootfs/a")))
	f.Add(pack(f, dir("rootfs"), m))
	f.Add(pack(f, m, file("rootfs/../x", "")))
	f.Add([]byte{})
	limits := Limits{Manifest: 4096, BeforeManifest: 1 << 20, Layer: 1 << 20, Trailing: 4096}
	f.Fuzz(func(t *testing.T, raw []byte) {
		scan, err := newScanner(t.Context(), bytes.NewReader(raw), limits, nil)
		if err != nil {
			return
		}
		defer scan.Close()
		out, err := io.ReadAll(scan)
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			return
		}
		for in := tar.NewReader(bytes.NewReader(out)); ; {
			h, err := in.Next()
			if err == io.EOF {
				return
			}
			require.NoError(t, err)
			require.True(t, filepath.IsLocal(h.Name), h.Name)
			if h.Typeflag == tar.TypeLink {
				require.True(t, filepath.IsLocal(h.Linkname), h.Linkname)
			}
		}
	})
}
