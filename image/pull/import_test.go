package pull_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.podman.io/image/v5/oci/layout"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// ociLayout writes an image of the registry as a local OCI layout.
func ociLayout(t *testing.T, r *registrytest.Registry, img registrytest.Pushed, manifest []byte) string {
	t.Helper()
	dir := t.TempDir()
	blobs := filepath.Join(dir, "blobs", "sha256")
	require.NoError(t, os.MkdirAll(blobs, 0o755))
	for _, d := range append([]digest.Digest{img.Config}, img.Layers...) {
		require.NoError(t, os.WriteFile(filepath.Join(blobs, d.Encoded()), r.Blob(d), 0o644))
	}
	require.NoError(t, os.WriteFile(filepath.Join(blobs, img.Manifest.Encoded()), manifest, 0o644))
	index, err := json.Marshal(v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{{MediaType: v1.MediaTypeImageManifest, Digest: img.Manifest, Size: int64(len(manifest))}}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
	return dir
}

func TestImportTakesAnImageFromAnySource(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": "x"}))
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	manifest, err := h.store.RawManifest(img.ID())
	require.NoError(t, err)
	require.NoError(t, h.store.Remove(img.ID()))
	ref, err := layout.ParseReference(ociLayout(t, r, img, manifest))
	require.NoError(t, err)

	var events []pull.Event
	res, err := h.engine.Import(t.Context(), ref, []string{"example.com/app:v1"}, func(ev pull.Event) { events = append(events, ev) })
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
	require.Equal(t, []string{"example.com/app:v1"}, res.Names)
	h.engine.Wait()
	last := events[len(events)-1]
	require.Equal(t, pull.Event{Layer: img.Layers[0], Phase: pull.Done, Bytes: last.Size, Size: last.Size}, last)
	got, err := h.store.Get("example.com/app:v1")
	require.NoError(t, err)
	require.Equal(t, img.ID(), got.ID)

	_, err = h.engine.Import(t.Context(), ref, []string{"short"}, nil)
	require.True(t, errdefs.IsInvalidArgument(err), err)
	h.write(t, "policy.json", `{"default":[{"type":"reject"}]}`)
	_, err = h.engine.Import(t.Context(), ref, nil, nil)
	require.ErrorIs(t, err, pull.ErrSignature, "the policy is for imports, too")
}
