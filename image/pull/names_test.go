package pull_test

import (
	"runtime"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

func TestAnImageOfAnIndexIsKnownByBothDigests(t *testing.T) {
	for _, docker := range []bool{false, true} {
		r := registrytest.New(t)
		h := newHost(t, nil)
		other := files(registrytest.Files{"arch": "other"})
		other.Config.OS, other.Config.Architecture, other.Docker = "linux", "s390x", docker
		mine := files(registrytest.Files{"arch": "mine"})
		mine.Docker = docker
		o, m := r.Push("app", "", other), r.Push("app", "", mine)
		index := r.PushIndex("app", "v1", docker, map[string]registrytest.Pushed{"linux/s390x": o, "linux/" + runtime.GOARCH: m})

		res, err := h.pull(t, r.Ref("app", "v1"))
		require.NoError(t, err)
		require.Equal(t, m.ID(), res.ID)
		for _, name := range []string{r.Ref("app", "v1"), r.Ref("app", "@"+index.String()), r.Ref("app", "@"+m.Manifest.String())} {
			img, err := h.store.Get(name)
			require.NoError(t, err, name)
			require.Equal(t, m.ID(), img.ID)
		}
		require.Empty(t, r.Requests(o.Layers[0].String()), "the other platform's layer is not fetched")
	}
}

func TestTheVariantChoosesFromAnIndex(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, func(c *pull.Config) { c.Architecture, c.Variant = "arm", "v6" })
	push := func(variant string) registrytest.Pushed {
		img := files(registrytest.Files{"variant": variant})
		img.Config = v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "arm", Variant: variant}}
		return r.Push("app", "", img)
	}
	v6, v7 := push("v6"), push("v7")
	r.PushIndex("app", "v1", false, map[string]registrytest.Pushed{"linux/arm/v7": v7, "linux/arm/v6": v6})

	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, v6.ID(), res.ID)
}

func TestAnIndexWithoutTheNodesPlatformIsRefused(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "", files(registrytest.Files{"a": ""}))
	r.PushIndex("app", "v1", false, map[string]registrytest.Pushed{"windows/amd64": img})
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.ErrorContains(t, err, "no image found in image index")
}

func TestPullByDigestNeedsNoTag(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	byDigest := r.Ref("app", "@"+img.Manifest.String())

	for _, name := range []string{byDigest, r.Ref("app", "v1") + "@" + img.Manifest.String()} {
		res, err := h.pull(t, name)
		require.NoError(t, err)
		require.Equal(t, img.ID(), res.ID)
		got, err := h.store.Get(name)
		require.NoError(t, err)
		require.Empty(t, got.Tags)
		require.Equal(t, []string{byDigest}, got.Digests)
	}
}

func TestAManifestOfAnotherDigestIsRefused(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	r.OnManifest(img.Manifest.String(), registrytest.Content(v1.MediaTypeImageManifest, []byte(`{"schemaVersion":2}`)))
	_, err := h.pull(t, r.Ref("app", "@"+img.Manifest.String()))
	require.ErrorContains(t, err, "does not match")
}

func TestAMovedTagLeavesTheOldImageWithItsDigest(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	old := r.Push("app", "v1", files(registrytest.Files{"a": "old"}))
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	moved := r.Push("app", "v1", files(registrytest.Files{"a": "new"}))
	_, err = h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)

	was, err := h.store.Get(old.ID())
	require.NoError(t, err)
	require.Empty(t, was.Tags)
	require.Equal(t, []string{r.Ref("app", "@"+old.Manifest.String())}, was.Digests)
	is, err := h.store.Get(r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, moved.ID(), is.ID)
}

func TestOneImageUnderTwoNamesHasBoth(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	require.Equal(t, img.Manifest, r.Push("other/app", "v2", files(registrytest.Files{"a": ""})).Manifest)
	for _, name := range []string{r.Ref("app", "v1"), r.Ref("other/app", "v2")} {
		_, err := h.pull(t, name)
		require.NoError(t, err)
	}
	got, err := h.store.Get(img.ID())
	require.NoError(t, err)
	require.Equal(t, []string{r.Ref("app", "v1"), r.Ref("other/app", "v2")}, got.Tags)
	require.Len(t, got.Digests, 2)
	require.Len(t, r.Requests(img.Layers[0].String()), 1)
}

func TestPullingAPresentImageFetchesItsManifestOnly(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	for range 2 {
		res, err := h.pull(t, r.Ref("app", "v1"))
		require.NoError(t, err)
		require.Equal(t, img.ID(), res.ID)
	}
	require.Len(t, r.Requests(img.Layers[0].String()), 1)
	require.Len(t, r.Requests(img.Config.String()), 1)
}
