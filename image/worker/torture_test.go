package worker_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// The child is killed at whatever instruction it happens to be, again and
// again; the store must stay whole, and the image come in the end.
func TestTheStoreSurvivesKillsAtAnyMoment(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	kept := r.Push("kept", "v1", registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"k": "x"}}}})
	_, err := h.pull(t.Context(), r.Ref("kept", "v1"), nil)
	require.NoError(t, err)
	var img registrytest.Image
	for i := range 12 {
		img.Layers = append(img.Layers, registrytest.Layer{Files: registrytest.Files{
			fmt.Sprint("f", i): strings.Repeat(fmt.Sprint(i), 20_000), "same": fmt.Sprint(i),
		}})
	}
	pushed := r.Push("app", "v1", img)
	start := time.Now()
	_, err = h.pull(t.Context(), r.Ref("app", "v1"), nil)
	require.NoError(t, err)
	took := time.Since(start)
	require.NoError(t, h.store.Remove(pushed.ID()))

	killed := 0
	for range 25 {
		delay := rand.N(took) // so that most kills hit, however fast the machine is
		timer := time.AfterFunc(delay, func() {
			for _, pid := range children(t) {
				unix.Kill(pid, unix.SIGKILL)
			}
		})
		_, err := h.pull(t.Context(), r.Ref("app", "v1"), nil)
		timer.Stop()
		if err != nil {
			require.ErrorContains(t, err, "image worker", "after %s", delay)
			killed++
		}
		verified, err := h.store.Verify(t.Context(), "")
		require.NoError(t, err, "after %s", delay)
		for _, v := range verified {
			require.Empty(t, v.Damage, "after %s", delay)
		}
		_, err = h.store.Get(kept.ID())
		require.NoError(t, err, "after %s", delay)
		require.NoError(t, h.store.Remove(pushed.ID()))
	}
	t.Logf("%d of 25 pulls were killed", killed)
	require.Positive(t, killed)

	res, err := h.pull(t.Context(), r.Ref("app", "v1"), nil)
	require.NoError(t, err)
	require.Equal(t, pushed.ID(), res.ID)
	require.NoError(t, h.store.Remove(pushed.ID()))
	require.NoError(t, h.client.Close())
	_, err = h.store.GC(t.Context(), store.GCOptions{})
	require.NoError(t, err)
	h.requireOnly(t, kept)
}

// requireOnly fails if anything is in the store but one image of one layer.
func (h *host) requireOnly(t *testing.T, img registrytest.Pushed) {
	t.Helper()
	for dir, want := range map[string][]string{
		"overlay":          {img.DiffIDs[0].Encoded()},
		"overlay/l":        nil,
		"overlay-layers":   {img.DiffIDs[0].Encoded()},
		"overlay-images":   {img.Config.Encoded()},
		"overlay/staging":  {},
		"rkt/damaged":      {},
		"rkt/replaced":     {},
		"overlay/tempdirs": {},
	} {
		entries, err := os.ReadDir(filepath.Join(h.store.Root(), dir))
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		var found []string
		for _, e := range entries {
			if id, _, _ := strings.Cut(e.Name(), "."); len(id) == 64 {
				found = append(found, id)
			}
		}
		if want == nil {
			require.Len(t, entries, 1, dir)
		} else {
			require.ElementsMatch(t, want, found, dir)
		}
	}
}
