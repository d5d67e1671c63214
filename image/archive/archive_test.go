package archive

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	ociv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.podman.io/image/v5/copy"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"
)

const manifest = `{"acKind":"ImageManifest","acVersion":"0.8.11","name":"example.com/app",
	"labels":[{"name":"version","value":"1.2"}],
	"app":{"exec":["/bin/app","-v"],"user":"7","group":"8","workingDirectory":"/w"}}`

type member struct {
	name, body string
	kind       byte
}

func pack(t *testing.T, path string, members ...member) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range members {
		h := &tar.Header{Typeflag: m.kind, Name: m.name, Mode: 0o755, Size: int64(len(m.body))}
		if m.kind == tar.TypeSymlink {
			h.Linkname, h.Size, m.body = m.body, 0, ""
		}
		require.NoError(t, w.WriteHeader(h))
		_, err := w.Write([]byte(m.body))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, os.WriteFile(path, buf.Bytes(), 0o600))
	return path
}

func aciFile(t *testing.T) string {
	return pack(t, filepath.Join(t.TempDir(), "x.tar"), member{"manifest", manifest, tar.TypeReg},
		member{"rootfs/", "", tar.TypeDir}, member{"rootfs/bin/", "", tar.TypeDir}, member{"rootfs/bin/app", "hello", tar.TypeReg})
}

// copyImage is what the pull engine does, to another file instead of the store.
func copyImage(t *testing.T, from, to string) {
	t.Helper()
	policy, err := signature.NewPolicyContext(&signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}})
	require.NoError(t, err)
	defer func() { require.NoError(t, policy.Destroy()) }()
	src, err := ParseReference(from)
	require.NoError(t, err)
	dst, err := ParseReference(to)
	require.NoError(t, err)
	_, err = copy.Image(t.Context(), policy, dst, src, &copy.Options{
		SourceCtx: &types.SystemContext{BigFilesTemporaryDir: t.TempDir()},
	})
	require.NoError(t, err)
}

func config(t *testing.T, ref string) *ociv1.Image {
	t.Helper()
	parsed, err := ParseReference(ref)
	require.NoError(t, err)
	img, err := parsed.NewImage(t.Context(), &types.SystemContext{BigFilesTemporaryDir: t.TempDir()})
	require.NoError(t, err)
	defer img.Close()
	c, err := img.OCIConfig(t.Context())
	require.NoError(t, err)
	return c
}

func compress(t *testing.T, path string) string {
	t.Helper()
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err = w.Write(raw)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	out := filepath.Join(t.TempDir(), "packed")
	require.NoError(t, os.WriteFile(out, buf.Bytes(), 0o600))
	return out
}

func TestEveryKindIsKnownByContentAndReadsBackTheSame(t *testing.T) {
	dir := t.TempDir()
	aci := aciFile(t)
	copyImage(t, "aci:"+aci, "oci:"+dir+"/layout:example.com/app:1.2")
	copyImage(t, "aci:"+aci, "oci-archive:"+dir+"/a.aci:example.com/app:1.2")
	copyImage(t, "aci:"+aci, "docker-archive:"+dir+"/b.oci:example.com/app:1.2")
	want := config(t, "aci:"+aci)

	for _, c := range []struct {
		path string
		kind Kind
	}{
		{aci, ACI}, {compress(t, aci), ACI},
		{dir + "/layout", OCILayout},
		{dir + "/a.aci", OCITar}, {compress(t, dir+"/a.aci"), OCITar},
		{dir + "/b.oci", Docker}, {compress(t, dir+"/b.oci"), Docker},
	} {
		kind, images, err := Open(t.Context(), c.path)
		require.NoError(t, err)
		require.Equal(t, c.kind, kind, c.path)
		require.Len(t, images, 1)
		require.Equal(t, []string{"example.com/app:1.2"}, images[0].Names)
		got := config(t, images[0].Ref)
		require.Equal(t, want.Config.Entrypoint, got.Config.Entrypoint)
		require.Equal(t, "7:8", got.Config.User)
		require.Equal(t, "/w", got.Config.WorkingDir)
		require.Equal(t, want.RootFS.DiffIDs, got.RootFS.DiffIDs)
	}
}

func TestACIWithoutAnOCINameSaysSo(t *testing.T) {
	path := pack(t, filepath.Join(t.TempDir(), "x"), member{"manifest", `{"acKind":"ImageManifest","acVersion":"0.8.11","name":"a~b"}`, tar.TypeReg},
		member{"rootfs/", "", tar.TypeDir})
	_, images, err := Open(t.Context(), path)
	require.NoError(t, err)
	require.Empty(t, images[0].Names)
	require.Contains(t, images[0].Note, `name: "a~b" cannot be written`)
}

const layout = `{"imageLayoutVersion":"1.0.0"}`

func index(t *testing.T, ds ...ociv1.Descriptor) string {
	t.Helper()
	raw, err := json.Marshal(ociv1.Index{Manifests: ds})
	require.NoError(t, err)
	return string(raw)
}

func named(kv ...string) ociv1.Descriptor {
	d := ociv1.Descriptor{MediaType: ociv1.MediaTypeImageManifest, Annotations: map[string]string{}}
	for i := 0; i < len(kv); i += 2 {
		d.Annotations[kv[i]] = kv[i+1]
	}
	return d
}

func TestSeveralImagesOfOneFileAreListed(t *testing.T) {
	const ref, full = ociv1.AnnotationRefName, containerdName
	attestation := ociv1.Descriptor{Platform: &ociv1.Platform{OS: "unknown", Architecture: "unknown"}}
	oci := func(ds ...ociv1.Descriptor) []member {
		return []member{{"blobs/", "", tar.TypeDir}, {"index.json", index(t, ds...), tar.TypeReg}, {"oci-layout", layout, tar.TypeReg}}
	}
	docker := member{"manifest.json", `[{"RepoTags":["a:1","a:2"]},{"RepoTags":null},{"RepoTags":["b"]}]`, tar.TypeReg}
	path := filepath.Join(t.TempDir(), "x")
	for name, c := range map[string]struct {
		members []member
		want    []Image
	}{
		"one":                 {oci(named()), []Image{{Ref: "oci-archive:" + path + ":"}}},
		"bare tag is no name": {oci(named(ref, "latest")), []Image{{Ref: "oci-archive:" + path + ":"}}},
		"two names": {oci(named(ref, "x/a:1"), named(ref, "b:1"), attestation), []Image{
			{Ref: "oci-archive:" + path + ":x/a:1", Names: []string{"docker.io/x/a:1"}},
			{Ref: "oci-archive:" + path + ":b:1", Names: []string{"docker.io/library/b:1"}}}},
		"containerd's name": {oci(named(ref, "1", full, "docker.io/library/a:1")), []Image{
			{Ref: "oci-archive:" + path + ":", Names: []string{"docker.io/library/a:1"}}}},
		"docker": {[]member{docker}, []Image{
			{Ref: "docker-archive:" + path + ":@0", Names: []string{"docker.io/library/a:1", "docker.io/library/a:2"}},
			{Ref: "docker-archive:" + path + ":@1"},
			{Ref: "docker-archive:" + path + ":@2", Names: []string{"docker.io/library/b:latest"}}}},
		"both formats, one image": {append(oci(named(full, "a:1")), member{"manifest.json", `[{"RepoTags":["a:1"]}]`, tar.TypeReg}), []Image{
			{Ref: "oci-archive:" + path + ":", Names: []string{"docker.io/library/a:1"}}}},
		"both formats, same tag twice": {append(oci(named(ref, "1"), named(ref, "1")), member{"manifest.json", `[{"RepoTags":["a:1"]},{"RepoTags":["b:1"]}]`, tar.TypeReg}), []Image{
			{Ref: "docker-archive:" + path + ":@0", Names: []string{"docker.io/library/a:1"}},
			{Ref: "docker-archive:" + path + ":@1", Names: []string{"docker.io/library/b:1"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			pack(t, path, c.members...)
			_, images, err := Open(t.Context(), path)
			require.NoError(t, err)
			require.Equal(t, c.want, images)
			for _, img := range images {
				_, err := ParseReference(img.Ref)
				require.NoError(t, err)
			}
		})
	}
}

func TestImagesOfALayoutDirectoryAreListedByIndex(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(dir+"/oci-layout", []byte(layout), 0o600))
	attestation := named("vnd.docker.reference.type", "attestation-manifest")
	require.NoError(t, os.WriteFile(dir+"/index.json", []byte(index(t, attestation, named(), named(containerdName, "a:1"))), 0o600))
	_, images, err := Open(t.Context(), dir)
	require.NoError(t, err)
	require.Equal(t, []Image{{Ref: "oci:" + dir + ":@1"}, {Ref: "oci:" + dir + ":@2", Names: []string{"docker.io/library/a:1"}}}, images)
}

func TestBadFilesAreRefusedWithTheReason(t *testing.T) {
	reg := func(name, body string) member { return member{name, body, tar.TypeReg} }
	one := index(t, named())
	for want, members := range map[string][]member{
		"neither an ACI":                        {reg("README", "x")},
		"it is empty":                           nil,
		`imageLayoutVersion "2"`:                {reg("index.json", one), reg("oci-layout", `{"imageLayoutVersion":"2"}`)},
		"oci-layout: unexpected end of JSON":    {reg("index.json", one)},
		"index.json: invalid character":         {reg("index.json", "x"), reg("oci-layout", layout)},
		"index.json lists no image":             {reg("index.json", "{}"), reg("oci-layout", layout)},
		"several images under one name":         {reg("index.json", index(t, named(), named())), reg("oci-layout", layout)},
		`entry "index.json" is in it twice`:     {reg("index.json", one), reg("./index.json", one)},
		`"manifest.json" is not a regular file`: {{"manifest.json", "/etc/passwd", tar.TypeSymlink}},
		`"manifest.json" has 1048577 bytes`:     {reg("manifest.json", string(make([]byte, maxIndex+1)))},
		`entry "blobs/x": an OCI layout has`:    {{"blobs/x", "/etc/passwd", tar.TypeSymlink}, reg("index.json", one), reg("oci-layout", layout)},
		`entry "../x": an OCI layout has`:       {reg("../x", ""), reg("index.json", one), reg("oci-layout", layout)},
		"manifest.json lists no image":          {reg("manifest.json", "[]")},
		"manifest.json: json: cannot":           {reg("manifest.json", "{}")},
		`[0].RepoTags: "A B" is no image name`:  {reg("manifest.json", `[{"RepoTags":["A B"]}]`)},
		`appc manifest: acKind: ""`:             {reg("manifest", `{"x":1}`)},
		"it has no manifest":                    {{"rootfs/", "", tar.TypeDir}},
	} {
		t.Run(want, func(t *testing.T) {
			_, _, err := Open(t.Context(), pack(t, filepath.Join(t.TempDir(), "x"), members...))
			require.ErrorContains(t, err, want)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		})
	}
}

func TestWhatIsNoTarIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("noise "), 500), 0o600))
	_, _, err := Open(t.Context(), path)
	require.ErrorContains(t, err, "read it as a tar archive")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)

	cut := compress(t, aciFile(t))
	require.NoError(t, os.Truncate(cut, 20))
	_, _, err = Open(t.Context(), cut)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)

	_, _, err = Open(t.Context(), path+"-missing")
	require.ErrorIs(t, err, os.ErrNotExist)

	_, _, err = Open(t.Context(), t.TempDir())
	require.ErrorContains(t, err, "the directory is no OCI layout")

	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer l.Close()
	_, _, err = Open(t.Context(), socket)
	require.ErrorContains(t, err, "neither a file nor a directory")
}

func TestColonInThePathIsRefusedWhereTheTransportCannotTakeIt(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a:b")
	require.NoError(t, os.Mkdir(dir, 0o700))
	_, _, err := Open(t.Context(), pack(t, dir+"/x", member{"manifest.json", `[{"RepoTags":[]}]`, tar.TypeReg}))
	require.ErrorContains(t, err, "with a colon in it, rename it")

	raw, err := os.ReadFile(aciFile(t))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(dir+"/y", raw, 0o600))
	_, images, err := Open(t.Context(), dir+"/y")
	require.NoError(t, err)
	require.Equal(t, []string{"/bin/app", "-v"}, config(t, images[0].Ref).Config.Entrypoint)
}

func TestCancelledSurveyEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := Open(ctx, pack(t, filepath.Join(t.TempDir(), "x"), member{"README", "", tar.TypeReg}))
	require.ErrorIs(t, err, context.Canceled)
}

func TestUnknownOrMalformedReferencesAreRefused(t *testing.T) {
	for _, s := range []string{"", "ftp:x", "aci:", "docker-archive:", "docker:nothing", "oci-archive:/a b:c d"} {
		_, err := ParseReference(s)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, s)
	}
}

func TestACITransportOnlyReads(t *testing.T) {
	ref, err := ParseReference("aci:" + aciFile(t))
	require.NoError(t, err)
	require.Equal(t, "aci", ref.Transport().Name())
	require.Nil(t, ref.DockerReference())
	require.Equal(t, filepath.Dir(ref.PolicyConfigurationIdentity()), ref.PolicyConfigurationNamespaces()[0])
	require.NoError(t, ref.Transport().ValidatePolicyConfigurationScope(ref.PolicyConfigurationIdentity()))
	require.Error(t, ref.Transport().ValidatePolicyConfigurationScope("rel/../x"))
	_, err = ref.NewImageDestination(t.Context(), nil)
	require.ErrorContains(t, err, "only read")
	require.ErrorContains(t, ref.DeleteImage(t.Context(), nil), "only read")
	src, err := ref.NewImageSource(t.Context(), nil)
	require.NoError(t, err)
	defer src.Close()
	_, _, err = src.GetManifest(t.Context(), &[]ociv1.Descriptor{{Digest: "sha256:0"}}[0].Digest)
	require.ErrorContains(t, err, "an ACI holds one image")
	_, _, err = src.GetBlob(t.Context(), types.BlobInfo{Digest: "sha256:1"}, nil)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}
