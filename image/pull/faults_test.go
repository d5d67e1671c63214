package pull_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// noise is content that does not compress.
func noise(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return string(b)
}

func TestServerErrorsAreTriedAgain(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	r.OnManifest("v1", registrytest.Repeat(2, registrytest.Status(503, ""))...)
	r.OnBlob(img.Config, registrytest.Status(500, "internal"))
	r.OnBlob(img.Layers[0], registrytest.Repeat(3, registrytest.Status(502, ""))...)
	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
	h.requireClean(t)
}

func TestServerErrorsThatStayAreTheRegistrysFault(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	r.OnBlob(img.Layers[0], registrytest.Repeat(100, registrytest.Status(500, ""))...)
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.ErrorIs(t, err, pull.ErrUnavailable)
	require.True(t, strings.HasPrefix(err.Error(), "RegistryUnavailable: pull "+r.Ref("app", "v1")), err.Error())
	require.ErrorContains(t, err, "500")
	require.Less(t, len(r.Requests(img.Layers[0].String())), 10)
	h.requireClean(t)
}

func TestTooManyRequestsWaitsAsLongAsItIsTold(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	r.OnBlob(img.Layers[0], registrytest.TooMany(time.Second))
	start := time.Now()
	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
	require.GreaterOrEqual(t, time.Since(start), time.Second)
}

func TestACutConnectionIsResumedOrTriedAgain(t *testing.T) {
	for what, c := range map[string]struct {
		size, cut int
		resumed   bool
	}{
		"soon":         {100_000, 50_000, false},
		"after a MiB":  {4 << 20, 3 << 20, true},
		"before any":   {100_000, 0, false},
		"at the start": {4 << 20, 10, false},
	} {
		t.Run(what, func(t *testing.T) {
			r := registrytest.New(t)
			h := newHost(t, nil)
			img := r.Push("app", "v1", files(registrytest.Files{"a": noise(c.size)}))
			r.OnBlob(img.Layers[0], registrytest.CutAfter(c.cut))
			res, err := h.pull(t, r.Ref("app", "v1"))
			require.NoError(t, err)
			require.Equal(t, img.ID(), res.ID)
			asked := r.Requests(img.Layers[0].String())
			require.Len(t, asked, 2)
			if c.resumed {
				require.Regexp(t, `^bytes=[1-9]`, asked[1].Range)
			}
			h.requireClean(t)
		})
	}
}

func TestWrongContentIsRefused(t *testing.T) {
	good := files(registrytest.Files{"a": noise(100_000)})
	for what, c := range map[string]struct {
		break_ func(*registrytest.Registry, registrytest.Pushed)
		edit   func(*v1.Manifest)
		config func(*v1.Image)
		docker bool
		want   string
	}{
		"layer of another digest": {want: "another digest", break_: func(r *registrytest.Registry, p registrytest.Pushed) {
			data := bytes.Clone(r.Blob(p.Layers[0]))
			data[4]++ // the time in gzip's header: the content stays the same
			r.SetBlob(p.Layers[0], data)
		}},
		"corrupted layer": {want: "unpack layer", break_: func(r *registrytest.Registry, p registrytest.Pushed) {
			data := bytes.Clone(r.Blob(p.Layers[0]))
			data[len(data)/2] ^= 0xff
			r.SetBlob(p.Layers[0], data)
		}},
		"layer that is too short": {want: "bytes", break_: func(r *registrytest.Registry, p registrytest.Pushed) {
			r.SetBlob(p.Layers[0], r.Blob(p.Layers[0])[:50_000])
		}},
		"layer that is too long": {want: "bytes", break_: func(r *registrytest.Registry, p registrytest.Pushed) {
			r.SetBlob(p.Layers[0], append(bytes.Clone(r.Blob(p.Layers[0])), "more"...))
		}},
		"layer too long, of no told length": {want: "longer than", break_: func(r *registrytest.Registry, p registrytest.Pushed) {
			r.OnBlob(p.Layers[0], registrytest.Unsized(append(bytes.Clone(r.Blob(p.Layers[0])), make([]byte, 1<<20)...)))
		}},
		"size of the layer in the manifest": {want: "the manifest says", edit: func(m *v1.Manifest) { m.Layers[0].Size++ }},
		"content of another digest": {want: "the config says", config: func(c *v1.Image) {
			c.RootFS.DiffIDs[0] = digest.FromString("something else")
		}},
		"fewer layers in the config":  {want: "names 0 layers", config: func(c *v1.Image) { c.RootFS.DiffIDs = nil }},
		"no digest in the config":     {want: "is no sha256 digest", config: func(c *v1.Image) { c.RootFS.DiffIDs[0] = "nonsense" }},
		"type of the layer":           {want: "no image layer", edit: func(m *v1.Manifest) { m.Layers[0].MediaType = "application/wasm" }},
		"encrypted layer":             {want: "no image layer", edit: func(m *v1.Manifest) { m.Layers[0].MediaType += "+encrypted" }},
		"type of the config":          {want: "artifact", edit: func(m *v1.Manifest) { m.Config.MediaType = "application/vnd.cncf.helm.config.v1+json" }},
		"malformed digest of a layer": {want: "digest", edit: func(m *v1.Manifest) { m.Layers[0].Digest = "sha256:../../etc/passwd" }},
		"config of another digest": {want: "config", break_: func(r *registrytest.Registry, p registrytest.Pushed) {
			r.SetBlob(p.Config, bytes.ToUpper(r.Blob(p.Config)))
		}},
		"config that is too big": {want: "refused", edit: func(m *v1.Manifest) { m.Config.Size = 5 << 20 }},
		"manifest of a wrong type": {want: "", break_: func(r *registrytest.Registry, p registrytest.Pushed) {
			r.OnManifest("v1", registrytest.Content("text/html", []byte("<html>log in first</html>")))
		}},
		"manifest that is no JSON": {want: "", break_: func(r *registrytest.Registry, p registrytest.Pushed) {
			r.OnManifest("v1", registrytest.Content(v1.MediaTypeImageManifest, []byte("\xff\xfe")))
		}},
		"annotations that are none, which Docker's parser passes over": {want: "annotations", docker: true, break_: func(r *registrytest.Registry, p registrytest.Pushed) {
			raw := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":%q,"digest":%q,"size":%d},"layers":[],"annotations":"x"}`,
				registrytest.DockerManifest, registrytest.DockerConfig, p.Config, len(r.Blob(p.Config)))
			r.AddManifest("app", "v1", registrytest.DockerManifest, []byte(raw))
		}},
		"missing layer": {want: "blob unknown", break_: func(r *registrytest.Registry, p registrytest.Pushed) {
			r.OnBlob(p.Layers[0], registrytest.Status(404, "blob unknown to registry"))
		}},
	} {
		t.Run(what, func(t *testing.T) {
			r := registrytest.New(t)
			h := newHost(t, nil)
			other := r.Push("other", "v1", files(registrytest.Files{"b": ""}))
			_, err := h.pull(t, r.Ref("other", "v1"))
			require.NoError(t, err)
			img := good
			img.Edit, img.EditConfig, img.Docker = c.edit, c.config, c.docker
			pushed := r.Push("app", "v1", img)
			if c.break_ != nil {
				c.break_(r, pushed)
			}

			_, err = h.pull(t, r.Ref("app", "v1"))
			require.ErrorContains(t, err, c.want)
			require.ErrorContains(t, err, r.Ref("app", "v1"))
			all, err := h.store.Images()
			require.NoError(t, err)
			require.Len(t, all, 1)
			require.Equal(t, other.ID(), all[0].ID)
			h.requireClean(t)
		})
	}
}

func TestAMissingImageSaysWhichRegistrySaidWhat(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.ErrorContains(t, err, r.Host)
	require.ErrorContains(t, err, "manifest unknown")
	require.NotErrorIs(t, err, pull.ErrUnavailable)
}

func TestAHugeManifestIsRefusedWithoutBeingRead(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	r.OnManifest("v1", registrytest.Repeat(10, registrytest.Endless(v1.MediaTypeImageManifest, 100<<20))...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := h.pull(t, r.Ref("app", "v1"))
	runtime.ReadMemStats(&after)
	require.ErrorContains(t, err, "exceed")
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(40<<20))
}

func TestASourceThatStallsEndsThePull(t *testing.T) {
	never := make(chan struct{})
	for what, fault := range map[string]func(*registrytest.Registry, registrytest.Pushed){
		"in a layer": func(r *registrytest.Registry, p registrytest.Pushed) {
			r.OnBlob(p.Layers[0], registrytest.StallAfter(50_000, never))
		},
		"before a layer": func(r *registrytest.Registry, p registrytest.Pushed) { r.OnBlob(p.Layers[0], registrytest.Hold(never)) },
		"in the config": func(r *registrytest.Registry, p registrytest.Pushed) {
			r.OnBlob(p.Config, registrytest.StallAfter(1, never))
		},
		"before the manifest":  func(r *registrytest.Registry, _ registrytest.Pushed) { r.OnManifest("v1", registrytest.Hold(never)) },
		"at the first contact": func(r *registrytest.Registry, _ registrytest.Pushed) { r.Always(registrytest.Hold(never)) },
	} {
		t.Run(what, func(t *testing.T) {
			r := registrytest.New(t)
			h := newHost(t, func(c *pull.Config) { c.StallTimeout = 300 * time.Millisecond })
			img := r.Push("app", "v1", files(registrytest.Files{"a": noise(100_000)}))
			fault(r, img)
			start := time.Now()
			_, err := h.pull(t, r.Ref("app", "v1"))
			require.ErrorContains(t, err, "no progress for 300ms")
			require.ErrorIs(t, err, pull.ErrUnavailable)
			require.Less(t, time.Since(start), time.Minute)
			h.engine.Wait()
			h.requireClean(t)
		})
	}
}

func TestASlowSourceThatMovesIsWaitedFor(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, func(c *pull.Config) { c.StallTimeout = 400 * time.Millisecond })
	img := r.Push("app", "v1", files(registrytest.Files{"a": noise(100_000)}))
	r.OnBlob(img.Layers[0], registrytest.Slowly(12, 100*time.Millisecond))
	start := time.Now()
	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
	require.Greater(t, time.Since(start), 800*time.Millisecond, "longer than the timeout")
}

func TestCancellingEndsThePullAndLeavesNothing(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": noise(100_000)}))
	ctx, cancel := context.WithCancel(t.Context())
	asked := make(chan struct{})
	r.OnBlob(img.Layers[0], func(w http.ResponseWriter, q *http.Request, content []byte) bool {
		close(asked)
		return registrytest.StallAfter(50_000, nil)(w, q, content)
	})
	go func() {
		<-asked
		cancel()
	}()
	_, err := h.engine.Pull(ctx, pull.Request{Image: r.Ref("app", "v1")}, nil)
	require.ErrorIs(t, err, context.Canceled)
	h.engine.Wait()
	h.requireClean(t)

	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
}
