package store_test

import (
	"encoding/base64"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// Whatever is wrong with one image stays with that image.
func TestAnImageThatCannotBeParsedDoesNotHideTheOthers(t *testing.T) {
	const good = `{"schemaVersion":2}`
	for what, c := range map[string]struct {
		config, manifest string
		listed           bool
	}{
		"config that is no JSON":      {config: "{", manifest: good},
		"config of a wrong type":      {config: `{"rootfs":7}`, manifest: good},
		"manifest that is no JSON":    {config: "{}", manifest: "{"},
		"annotations of a wrong type": {config: "{}", manifest: `{"schemaVersion":2,"annotations":"x"}`, listed: true},
		"annotation of a wrong type":  {config: "{}", manifest: `{"schemaVersion":2,"annotations":{"a":"b","c":1}}`, listed: true},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t)
			fine := h.image(t, "fine", registrytest.Files{"a": ""})
			id, err := h.CommitImage(store.NewImage{Config: []byte(c.config), Manifest: []byte(c.manifest), Names: []string{"example.com/bad:1"}})
			require.NoError(t, err)
			h.requireOthersWork(t, fine, id, c.listed)
		})
	}
}

func TestAnImageThatCannotBeReadDoesNotHideTheOthers(t *testing.T) {
	h := newHost(t)
	fine := h.image(t, "fine", registrytest.Files{"a": ""})
	id := h.image(t, "bad", registrytest.Files{"b": ""})
	dir := filepath.Join(h.Root(), "overlay-images", id[len("sha256:"):])
	for _, name := range []string{"manifest", "=" + base64.StdEncoding.EncodeToString([]byte(id))} {
		path := filepath.Join(dir, name)
		require.FileExists(t, path)
		require.NoError(t, os.Remove(path))
		require.NoError(t, os.Mkdir(path, 0o700)) // reading it is an error that is no absence
	}
	require.NoError(t, h.Close())
	h.Store = imagetest.Open(t, h.cfg)
	h.requireOthersWork(t, fine, id, false)
}

// requireOthersWork fails unless one image is there, and the bad one can go.
func (h *host) requireOthersWork(t *testing.T, fine, bad string, listed bool) {
	t.Helper()
	_, err := h.Get(fine)
	require.NoError(t, err)
	img, err := h.Get(bad)
	require.Equal(t, !listed, errdefs.IsNotFound(err), "%v", err)
	if listed {
		require.Empty(t, img.Annotations)
	}
	require.NoError(t, h.Remove(bad))
	images, err := h.Images()
	require.NoError(t, err)
	require.Len(t, images, 1)
	records, err := h.Library().Images()
	require.NoError(t, err)
	require.Len(t, records, 1)
}
