package aci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ociv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
)

func config(t *testing.T, img *Image) ociv1.Image {
	t.Helper()
	var c ociv1.Image
	require.NoError(t, json.Unmarshal(img.Config, &c))
	return c
}

func TestEveryFieldIsCarriedOver(t *testing.T) {
	img := openACI(t, file("manifest", full), dir("rootfs"))
	c := config(t, img)

	require.Equal(t, ociv1.Platform{OS: "linux", Architecture: "arm", Variant: "v7"}, c.Platform)
	require.Equal(t, "Carly Container <carly@example.com>", c.Author)
	require.Equal(t, "2014-10-27T19:32:27.67021798Z", c.Created.Format("2006-01-02T15:04:05.999999999Z07:00"))
	labels := map[string]string{
		"appc.io/name":                     "example.com/reduce-worker",
		"appc.io/label/channel":            "beta",
		"appc.io/annotation/authors":       "Carly Container <carly@example.com>",
		"appc.io/annotation/created":       "2014-10-27T19:32:27.67021798Z",
		"appc.io/annotation/homepage":      "https://example.com",
		"appc.io/isolator/resource/cpu":    `{"request":"250","limit":"500"}`,
		"appc.io/supplementaryGIDs":        "400,500",
		"appc.io/mountPoints":              `[{"name":"work","path":"/var/lib/work/","readOnly":false}]`,
		"appc.io/ports":                    `[{"name":"health","protocol":"tcp","port":4000,"count":0,"socketActivated":true},{"name":"rpc","protocol":"udp","port":5000,"count":3,"socketActivated":false}]`,
		"appc.io/userAnnotation/owner":     "me",
		"appc.io/userLabel/tier":           "2",
		"org.opencontainers.image.authors": "Carly Container <carly@example.com>",
		"org.opencontainers.image.url":     "https://example.com",
		"org.opencontainers.image.version": "1.0.0+git",
	}
	require.Equal(t, ociv1.ImageConfig{
		User:         "100:300",
		Entrypoint:   []string{"/usr/bin/reduce-worker", "--quiet"},
		Env:          []string{"REDUCE_WORKER_DEBUG=a=b"},
		WorkingDir:   "/opt/work",
		Volumes:      map[string]struct{}{"/var/lib/work": {}},
		ExposedPorts: map[string]struct{}{"4000/tcp": {}, "5000/udp": {}, "5001/udp": {}, "5002/udp": {}},
		Labels:       labels,
	}, c.Config)

	var m ociv1.Manifest
	require.NoError(t, json.Unmarshal(img.OCI, &m))
	require.Equal(t, labels, m.Annotations)
	require.Equal(t, digest.FromBytes(img.Config), m.Config.Digest)
	require.Equal(t, []digest.Digest{m.Layers[0].Digest}, c.RootFS.DiffIDs)
}

func TestImageWithoutAppHasNoEntrypointAndThisArchitecture(t *testing.T) {
	c := config(t, openACI(t, file("manifest", minimal(t, nil)), dir("rootfs")))
	require.Empty(t, c.Config.Entrypoint)
	require.Empty(t, c.Config.User)
	require.Equal(t, ociv1.Platform{OS: "linux", Architecture: runtime.GOARCH}, c.Platform)
}

func TestLayerIsTheRootfsWithoutItsPrefix(t *testing.T) {
	odd := file("./rootfs/bin/su", "body")
	odd.Mode, odd.Uid, odd.Gid = 0o4755, 3_000_000_000, 70_000
	odd.Uname, odd.Devmajor = "ann", 0
	odd.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x02", "VENDOR.x": "dropped"}
	node := entry{tar.Header{Typeflag: tar.TypeChar, Name: "rootfs/dev/null", Devmajor: 1, Devminor: 3, Mode: 0o666, ModTime: mtime}, ""}
	img := openACI(t, file("./manifest", minimal(t, nil)), dir("./rootfs/"), dir("rootfs/bin"), odd,
		link(tar.TypeLink, "rootfs/bin/hard", "rootfs/bin/su"), link(tar.TypeSymlink, "rootfs/bin/soft", "/etc/../x"), node)

	headers, bodies, names := layer(t, img)
	require.Equal(t, []string{"./", "bin/", "bin/su", "bin/hard", "bin/soft", "dev/null"}, names)
	su := headers["bin/su"]
	require.Equal(t, "body", bodies["bin/su"])
	require.EqualValues(t, 0o4755, su.Mode)
	require.Equal(t, []int{3_000_000_000, 70_000}, []int{su.Uid, su.Gid})
	require.Empty(t, su.Uname)
	require.True(t, mtime.Equal(su.ModTime))
	require.Equal(t, "\x01\x00\x02", su.PAXRecords["SCHILY.xattr.security.capability"])
	require.NotContains(t, su.PAXRecords, "VENDOR.x")
	require.Equal(t, "bin/su", headers["bin/hard"].Linkname)
	require.Equal(t, "/etc/../x", headers["bin/soft"].Linkname)
	require.Equal(t, []int64{1, 3}, []int64{headers["dev/null"].Devmajor, headers["dev/null"].Devminor})
}

func TestLayerHasTheDigestAndSizeThatTheManifestSays(t *testing.T) {
	img := openACI(t, file("manifest", minimal(t, nil)), dir("rootfs"), file("rootfs/a", string(make([]byte, 300_000))))
	r, size, err := img.blob(t.Context(), img.layer.Digest)
	require.NoError(t, err)
	defer r.Close()
	raw, err := io.ReadAll(r)
	require.NoError(t, err)
	require.EqualValues(t, size, len(raw))
	require.Equal(t, img.layer.Digest, digest.FromBytes(raw))

	_, _, err = img.blob(t.Context(), digest.FromString("other"))
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestManifestMayComeLast(t *testing.T) {
	first := openACI(t, file("manifest", full), dir("rootfs"), file("rootfs/a", "1"))
	last := openACI(t, dir("rootfs"), file("rootfs/a", "1"), file("manifest", full))
	require.Equal(t, string(first.OCI), string(last.OCI))
}

func TestWhitelistKeepsItsPathsAndTheirParents(t *testing.T) {
	manifest := file("manifest", minimal(t, map[string]any{"pathWhitelist": []string{"/usr/bin/a", "/etc/"}}))
	files := []entry{dir("rootfs"), dir("rootfs/usr"), dir("rootfs/usr/bin"), file("rootfs/usr/bin/a", "1"),
		file("rootfs/usr/bin/b", "2"), dir("rootfs/etc"), file("rootfs/etc/passwd", "3"), dir("rootfs/var")}
	want := []string{"./", "usr/", "usr/bin/", "usr/bin/a", "etc/"}

	_, _, names := layer(t, openACI(t, append([]entry{manifest}, files...)...))
	require.Equal(t, want, names, "manifest first")
	img := openACI(t, append(files, manifest)...)
	_, _, names = layer(t, img)
	require.Equal(t, want, names, "manifest last")
	var m ociv1.Manifest
	require.NoError(t, json.Unmarshal(img.OCI, &m))
	r, err := img.Layer(t.Context())
	require.NoError(t, err)
	defer r.Close()
	got, err := digest.FromReader(r)
	require.NoError(t, err)
	require.Equal(t, m.Layers[0].Digest, got)
}

func TestUserAndGroupMayBeTheOwnerOfAFile(t *testing.T) {
	manifest := file("manifest", minimal(t, map[string]any{"app": map[string]any{"user": "/srv/", "group": "/srv/data"}}))
	srv, data := dir("rootfs/srv"), file("rootfs/srv/data", "")
	srv.Uid, srv.Gid, data.Uid, data.Gid = 7, 8, 9, 10
	for _, order := range [][]entry{{manifest, srv, data}, {srv, data, manifest}} {
		require.Equal(t, "7:10", config(t, openACI(t, order...)).Config.User)
	}
	_, err := Open(t.Context(), write(t, pack(t, manifest, srv)), DefaultLimits)
	require.ErrorContains(t, err, "app.group: no file /srv/data in rootfs")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestSparseFilesAreWrittenOut(t *testing.T) {
	// An old GNU sparse entry: 3 bytes at offset 5 of a file of 9 bytes.
	block := make([]byte, 512)
	h := tar.Header{Typeflag: tar.TypeReg, Name: "rootfs/sparse", Mode: 0o644, Size: 3, ModTime: mtime, Format: tar.FormatGNU}
	var buf bytes.Buffer
	require.NoError(t, tar.NewWriter(&buf).WriteHeader(&h))
	copy(block, buf.Bytes())
	block[156] = 'S'
	copy(block[386:], fmt.Sprintf("%011o\x00%011o\x00", 5, 3))
	copy(block[483:], fmt.Sprintf("%011o\x00", 9))
	copy(block[148:156], "        ")
	sum := 0
	for _, b := range block {
		sum += int(b)
	}
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
	data := make([]byte, 512)
	copy(data, "abc")
	head := pack(t, file("manifest", minimal(t, nil)))
	raw := append(append(append(head[:len(head)-1024:len(head)-1024], block...), data...), make([]byte, 1024)...)

	img, err := Open(t.Context(), write(t, raw), DefaultLimits)
	require.NoError(t, err)
	defer img.Close()
	_, bodies, _ := layer(t, img)
	require.Equal(t, "\x00\x00\x00\x00\x00abc\x00", bodies["sparse"])
}

func TestGlobalHeadersAndDotAreIgnored(t *testing.T) {
	global := entry{tar.Header{Typeflag: tar.TypeXGlobalHeader, Name: "pax_global_header", PAXRecords: map[string]string{"comment": "x"}}, ""}
	img := openACI(t, global, dir("./"), file("manifest", minimal(t, nil)), dir("rootfs"))
	_, _, names := layer(t, img)
	require.Equal(t, []string{"./"}, names)
}

func TestMissingFileAndDirectoryAreErrors(t *testing.T) {
	_, err := Open(t.Context(), filepath.Join(t.TempDir(), "none"), DefaultLimits)
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Open(t.Context(), t.TempDir(), DefaultLimits)
	require.ErrorContains(t, err, "not a regular file")
}

func TestReadManifestStopsAtTheManifest(t *testing.T) {
	whole := pack(t, file("manifest", full), dir("rootfs"), file("rootfs/a", "1"))
	m, err := ReadManifest(t.Context(), write(t, whole[:4096]), DefaultLimits)
	require.NoError(t, err, "what follows may be cut off")
	require.Equal(t, "example.com/reduce-worker", m.Name)

	last := pack(t, dir("rootfs"), file("rootfs/a", string(make([]byte, 200_000))), file("manifest", full))
	m, err = ReadManifest(t.Context(), write(t, last), DefaultLimits)
	require.NoError(t, err)
	require.Equal(t, "example.com/reduce-worker", m.Name)

	_, err = ReadManifest(t.Context(), write(t, pack(t, dir("rootfs"))), DefaultLimits)
	require.ErrorContains(t, err, "it has no manifest")
	_, err = ReadManifest(t.Context(), filepath.Join(t.TempDir(), "none"), DefaultLimits)
	require.ErrorIs(t, err, os.ErrNotExist)
}
