package store_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// A mark of a layer that has not come would condemn the one that comes next.
func TestOnlyLayersThatAreThereAreDistrusted(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""})
	img, err := h.Get(id)
	require.NoError(t, err)
	there := digest.NewDigestFromEncoded(digest.SHA256, img.TopLayer)
	require.NoError(t, h.Distrust([]digest.Digest{digest.FromString("absent"), there}, errors.New("the disk failed")))
	marks, err := os.ReadDir(filepath.Join(h.Root(), "rkt", "damaged"))
	require.NoError(t, err)
	require.Len(t, marks, 1)
	require.Equal(t, there.Encoded(), marks[0].Name())
	damaged, err := h.Damaged(img)
	require.NoError(t, err)
	require.True(t, damaged)

	_, err = h.engine.Pull(t.Context(), pull.Request{Image: h.r.Ref("app", "v1")}, nil)
	require.NoError(t, err)
	damaged, err = h.Damaged(img)
	require.NoError(t, err)
	require.False(t, damaged)
	verified, err := h.Verify(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, []store.Verified{{ID: id}}, verified)
}
