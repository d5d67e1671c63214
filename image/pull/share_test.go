package pull_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// waits until n pulls wait for the layer.
type watch struct {
	mu   sync.Mutex
	seen map[pull.Phase]int
	wake chan struct{}
}

func newWatch() *watch { return &watch{seen: map[pull.Phase]int{}, wake: make(chan struct{}, 1000)} }

func (w *watch) progress(ev pull.Event) {
	w.mu.Lock()
	w.seen[ev.Phase]++
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watch) await(phase pull.Phase, n int) {
	for {
		w.mu.Lock()
		enough := w.seen[phase] >= n
		w.mu.Unlock()
		if enough {
			return
		}
		<-w.wake
	}
}

func TestPullsShareTheWorkOfEachLayer(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	shared := registrytest.Layer{Files: registrytest.Files{"shared": noise(10_000)}}
	one := r.Push("one", "v1", registrytest.Image{Layers: []registrytest.Layer{shared, {Files: registrytest.Files{"one": "1"}}}})
	two := r.Push("two", "v1", registrytest.Image{Layers: []registrytest.Layer{shared, {Files: registrytest.Files{"two": "2"}}}})
	release := make(chan struct{})
	r.OnBlob(one.Layers[0], registrytest.Hold(release))

	images := []string{r.Ref("one", "v1"), r.Ref("one", "v1"), r.Ref("one", "@"+one.Manifest.String()), r.Ref("two", "v1")}
	want := []string{one.ID(), one.ID(), one.ID(), two.ID()}
	w := newWatch()
	var wg sync.WaitGroup
	got, errs := make([]string, len(images)), make([]error, len(images))
	for i, image := range images {
		wg.Go(func() {
			res, err := h.engine.Pull(t.Context(), pull.Request{Image: image}, w.progress)
			got[i], errs[i] = res.ID, err
		})
	}
	w.await(pull.Waiting, 2*len(images))
	close(release)
	wg.Wait()

	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, want, got)
	for _, l := range append(one.Layers, two.Layers...) {
		require.Len(t, r.Requests(l.String()), 1)
	}
	h.requireClean(t)
}

func TestCancellingOnePullDoesNotCancelAnotherOfTheSameLayer(t *testing.T) {
	for _, first := range []bool{true, false} {
		t.Run(fmt.Sprintf("first=%v", first), func(t *testing.T) {
			r := registrytest.New(t)
			h := newHost(t, nil)
			img := r.Push("app", "v1", files(registrytest.Files{"a": noise(100_000)}))
			release := make(chan struct{})
			r.OnBlob(img.Layers[0], registrytest.StallAfter(50_000, release))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ctxs := []context.Context{ctx, t.Context()}
			if !first {
				ctxs = []context.Context{t.Context(), ctx}
			}
			w := newWatch()
			results := map[context.Context]chan error{}
			for i, c := range ctxs {
				done := make(chan error, 1)
				results[c] = done
				go func() {
					_, err := h.engine.Pull(c, pull.Request{Image: r.Ref("app", "v1")}, w.progress)
					done <- err
				}()
				w.await(pull.Waiting, i+1)
			}
			w.await(pull.Pulling, 1)

			cancel()
			require.ErrorIs(t, <-results[ctx], context.Canceled)
			close(release)
			require.NoError(t, <-results[t.Context()])
			require.Len(t, r.Requests(img.Layers[0].String()), 1)
		})
	}
}

// The first pull's credentials stop working while a second one, with better
// ones, shares its layer.
func TestASharedLayerThatFailsIsTriedWithOnesOwnCredentials(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": noise(100_000)}))
	release := make(chan struct{})
	hold := registrytest.Hold(release)
	r.OnBlob(img.Layers[0], func(w http.ResponseWriter, q *http.Request, content []byte) bool {
		hold(w, q, content)
		return registrytest.Status(403, "the first one may not")(w, q, content)
	})
	w := newWatch()
	results := make(chan error, 2)
	for i := range 2 {
		go func() {
			_, err := h.engine.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1")}, w.progress)
			results <- err
		}()
		w.await(pull.Waiting, i+1)
	}
	close(release)
	errs := []error{<-results, <-results}
	if errs[0] == nil {
		errs[0], errs[1] = errs[1], errs[0]
	}
	require.ErrorContains(t, errs[0], "the first one may not")
	require.NoError(t, errs[1])
}

func TestTheSameContentOnOtherParentsIsNotFetchedAgain(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	content := registrytest.Layer{Files: registrytest.Files{"a": noise(100_000)}}
	one := r.Push("one", "v1", registrytest.Image{Layers: []registrytest.Layer{content}})
	two := r.Push("two", "v1", registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"b": ""}}, content}})
	for _, image := range []string{r.Ref("one", "v1"), r.Ref("two", "v1")} {
		_, err := h.pull(t, image)
		require.NoError(t, err)
	}
	require.Len(t, r.Requests(one.Layers[0].String()), 1)
	verified, err := h.store.Verify(t.Context(), two.ID())
	require.NoError(t, err)
	require.Empty(t, verified[0].Damage)
}

// Another process removes an image whose layers a pull counts on.
func TestLayersThatVanishInMidPullAreFetchedAgain(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	base := registrytest.Layer{Files: registrytest.Files{"base": "x"}}
	r.Push("base", "v1", registrytest.Image{Layers: []registrytest.Layer{base}})
	img := r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{base, {Files: registrytest.Files{"a": noise(100_000)}}}})
	_, err := h.pull(t, r.Ref("base", "v1"))
	require.NoError(t, err)
	release := make(chan struct{})
	r.OnBlob(img.Layers[1], registrytest.StallAfter(50_000, release))
	w := newWatch()
	done := make(chan error, 1)
	go func() {
		_, err := h.engine.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1")}, w.progress)
		done <- err
	}()
	w.await(pull.Pulling, 1)
	require.NoError(t, h.store.Remove(r.Ref("base", "v1")))
	close(release)
	require.NoError(t, <-done)
	verified, err := h.store.Verify(t.Context(), img.ID())
	require.NoError(t, err)
	require.Empty(t, verified[0].Damage)
}
