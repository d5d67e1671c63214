package store_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/idtools"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

func TestMain(m *testing.M) { imagetest.Main(m, nil) }

type host struct {
	*store.Store
	cfg    store.Config
	r      *registrytest.Registry
	engine *pull.Engine
}

func newHost(t testing.TB) *host {
	t.Helper()
	dir := imagetest.Dir(t)
	cfg := imagetest.StoreConfig(dir)
	s := imagetest.Open(t, cfg)
	return &host{Store: s, cfg: cfg, r: registrytest.New(t), engine: imagetest.Engine(t, s, imagetest.PullConfig(dir))}
}

// image pulls an image of the given layers and gives its id.
func (h *host) image(t testing.TB, name string, layers ...registrytest.Files) string {
	t.Helper()
	img := registrytest.Image{Config: v1.Image{Author: name}}
	for _, f := range layers {
		img.Layers = append(img.Layers, registrytest.Layer{Files: f})
	}
	pushed := h.r.Push(name, "v1", img)
	_, err := h.engine.Pull(t.Context(), pull.Request{Image: h.r.Ref(name, "v1")}, nil)
	require.NoError(t, err)
	return pushed.ID()
}

// layers are the folders of layers on the disk.
func (h *host) layers(t testing.TB) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.Root(), "overlay"))
	require.NoError(t, err)
	var ids []string
	for _, e := range entries {
		if len(e.Name()) == 64 {
			ids = append(ids, e.Name())
		}
	}
	return ids
}

func TestConfigIsChecked(t *testing.T) {
	dir := imagetest.Dir(t)
	for _, cfg := range []store.Config{
		{}, {Root: "a", RunRoot: "/b"}, {Root: dir, RunRoot: "b"},
		{Root: dir, RunRoot: dir + "/run", Pinned: []string{"[a"}},
	} {
		_, err := store.Open(t.Context(), cfg)
		require.True(t, errdefs.IsInvalidArgument(err), "%+v: %v", cfg, err)
	}
}

// The library reads the file once per process, so another one must try.
func TestTheHostsStorageConfHasNoInfluence(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "storage.conf")
	require.NoError(t, os.WriteFile(conf, []byte("[storage\nbroken"), 0o600))
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestShortNamesAreDockerHubs$|^TestRootsOfWrongNames$", "-test.v")
	cmd.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+conf)
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: TestRootsOfWrongNames")
}

func TestARootIsWritableAndItsImageIsNot(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": "image"})
	root, err := h.CreateRoot(t.Context(), "c1", h.r.Ref("app", "v1"), store.RootOptions{})
	require.NoError(t, err)
	require.Equal(t, id, root.ImageID)
	path, err := h.Mount(t.Context(), "c1")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(path, "a"), []byte("container"), 0o600))

	_, err = h.CreateRoot(t.Context(), "c2", id, store.RootOptions{})
	require.NoError(t, err)
	other, err := h.Mount(t.Context(), "c2")
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(other, "a"))
	require.NoError(t, err)
	require.Equal(t, "image", string(data))

	require.NoError(t, h.Unmount(t.Context(), "c1"))
	again, err := h.Mount(t.Context(), "c1")
	require.NoError(t, err)
	data, err = os.ReadFile(filepath.Join(again, "a"))
	require.NoError(t, err)
	require.Equal(t, "container", string(data), "what is written stays")

	roots, err := h.Roots()
	require.NoError(t, err)
	require.Len(t, roots, 2)
	for range 2 {
		require.NoError(t, h.RemoveRoot(t.Context(), "c1"))
		require.NoError(t, h.RemoveRoot(t.Context(), "c2"))
	}
	require.NoDirExists(t, path)
	require.Len(t, h.layers(t), 1)
	require.NoError(t, h.Unmount(t.Context(), "c1"), "what is gone is not mounted")
}

func TestRootsOfWrongNames(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""})
	_, err := h.CreateRoot(t.Context(), "c", "nothing", store.RootOptions{})
	require.True(t, errdefs.IsNotFound(err), err)
	_, err = h.CreateRoot(t.Context(), "", id, store.RootOptions{})
	require.True(t, errdefs.IsInvalidArgument(err), err)
	_, err = h.CreateRoot(t.Context(), "abcdef", id, store.RootOptions{})
	require.NoError(t, err)
	_, err = h.CreateRoot(t.Context(), "abcdef", id, store.RootOptions{})
	require.True(t, errdefs.IsAlreadyExists(err), err)
	_, err = h.Mount(t.Context(), "abc")
	require.True(t, errdefs.IsNotFound(err), "the start of an id is not the id: %v", err)
	require.NoError(t, h.RemoveRoot(t.Context(), "abc"))
	roots, err := h.Roots()
	require.NoError(t, err)
	require.Len(t, roots, 1)
}

func TestARootCanShiftOwners(t *testing.T) {
	h := newHost(t)
	h.image(t, "app", registrytest.Files{"a": ""})
	ids := []idtools.IDMap{{ContainerID: 0, HostID: 100000, Size: 65536}}
	_, err := h.CreateRoot(t.Context(), "c", h.r.Ref("app", "v1"), store.RootOptions{UIDMap: ids, GIDMap: ids})
	require.NoError(t, err)
	path, err := h.Mount(t.Context(), "c")
	require.NoError(t, err)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(path, "a"), &st))
	require.EqualValues(t, 100000, st.Uid)
	require.NoError(t, h.RemoveRoot(t.Context(), "c"))
	verified, err := h.Verify(t.Context(), "")
	require.NoError(t, err)
	require.Empty(t, verified[0].Damage, "the image's own files keep their owners")
}

func TestAnImageMountsReadOnly(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": "x"}, registrytest.Files{"b": "y"})
	path, err := h.MountImage(t.Context(), id)
	require.NoError(t, err)
	data, err := os.ReadFile(filepath.Join(path, "a"))
	require.NoError(t, err)
	require.Equal(t, "x", string(data))
	require.ErrorIs(t, os.WriteFile(filepath.Join(path, "a"), nil, 0o600), unix.EROFS)
	for range 2 {
		require.NoError(t, h.UnmountImage(t.Context(), id))
	}
	require.NoFileExists(t, filepath.Join(path, "a"))
	_, err = h.MountImage(t.Context(), "nothing")
	require.True(t, errdefs.IsNotFound(err), err)
	require.NoError(t, h.UnmountImage(t.Context(), "sha256:"+strings.Repeat("0", 64)))
}

// What a process leaves that is killed between two steps of recording an image.
func TestAHalfRecordedImageIsRemovedAndCanBePulled(t *testing.T) {
	h := newHost(t)
	other := h.image(t, "other", registrytest.Files{"b": ""})
	pushed := h.r.Push("app", "v1", registrytest.Image{})
	_, err := h.Library().CreateImage(pushed.Config.Encoded(), nil, "", "", &storage.ImageOptions{})
	require.NoError(t, err)
	_, err = h.Get(pushed.ID())
	require.True(t, errdefs.IsNotFound(err), "it is not there yet: %v", err)

	require.NoError(t, h.Recover(t.Context()))
	images, err := h.Library().Images()
	require.NoError(t, err)
	require.Len(t, images, 1)
	require.Equal(t, other, "sha256:"+images[0].ID)

	_, err = h.Library().CreateImage(pushed.Config.Encoded(), nil, "", "", &storage.ImageOptions{})
	require.NoError(t, err)
	_, err = h.engine.Pull(t.Context(), pull.Request{Image: h.r.Ref("app", "v1")}, nil)
	require.NoError(t, err, "a pull completes it, too")
	_, err = h.Get(pushed.ID())
	require.NoError(t, err)
}

func TestUnusedLayersOfAnEarlierBootAreRemoved(t *testing.T) {
	h := newHost(t)
	kept := h.image(t, "kept", registrytest.Files{"a": ""})
	h.image(t, "passing", registrytest.Files{"orphan": "x"}, registrytest.Files{"second": "y"})
	h.orphan(t, "passing")
	require.NoError(t, h.Recover(t.Context()))
	require.Len(t, h.layers(t), 3, "of this boot: the next pull may use them")

	h.rewriteBoot(t, "another-boot")
	end, err := h.BeginPull()
	require.NoError(t, err)
	require.True(t, errdefs.IsUnavailable(h.Recover(t.Context())), "not while a pull may use them")
	end()
	require.NoError(t, h.Recover(t.Context()))
	require.Len(t, h.layers(t), 1)
	_, err = h.Get(kept)
	require.NoError(t, err)
	verified, err := h.Verify(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, []store.Verified{{ID: kept}}, verified)
}

// orphan takes an image's record away from above its layers.
func (h *host) orphan(t *testing.T, name string) {
	t.Helper()
	img, err := h.Get(h.r.Ref(name, "v1"))
	require.NoError(t, err)
	path := filepath.Join(h.Root(), "overlay-images", "images.json")
	var records []map[string]any
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &records))
	kept := []map[string]any{}
	for _, r := range records {
		if r["id"] != img.Hex() {
			kept = append(kept, r)
		}
	}
	h.replace(t, path, kept)
}

// rewriteBoot makes all layers ones of another boot.
func (h *host) rewriteBoot(t *testing.T, boot string) {
	t.Helper()
	path := filepath.Join(h.Root(), "overlay-layers", "layers.json")
	var records []map[string]any
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &records))
	for _, r := range records {
		var rec store.LayerRecord
		require.NoError(t, json.Unmarshal([]byte(r["metadata"].(string)), &rec))
		rec.Boot = boot
		meta, err := json.Marshal(rec)
		require.NoError(t, err)
		r["metadata"] = string(meta)
	}
	h.replace(t, path, records)
}

// replace writes one of the library's files, and opens the store anew, as the
// library would not read it again.
func (h *host) replace(t *testing.T, path string, records any) {
	t.Helper()
	data, err := json.Marshal(records)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, data, 0o600))
	require.NoError(t, h.Close())
	h.Store = imagetest.Open(t, h.cfg)
}

// The library removes all short names of layers together with a layer whose own
// name is empty, as it is if its making was killed at the wrong moment.
func TestShortNamesOfLayersAreRestored(t *testing.T) {
	h := newHost(t)
	h.image(t, "app", registrytest.Files{"a": "x"}, registrytest.Files{"b": "y"})
	links := filepath.Join(h.Root(), "overlay", "l")
	before, err := os.ReadDir(links)
	require.NoError(t, err)
	require.Len(t, before, 2)
	broken := filepath.Join(h.Root(), "overlay", strings.Repeat("a", 64))
	require.NoError(t, os.Mkdir(broken, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(broken, "link"), nil, 0o600))

	require.NoError(t, h.Recover(t.Context()))
	require.NoDirExists(t, broken)
	after, err := os.ReadDir(links)
	require.NoError(t, err)
	require.Len(t, after, 2)
	for i, e := range after {
		require.Equal(t, before[i].Name(), e.Name())
		fi, err := os.Stat(filepath.Join(links, e.Name()))
		require.NoError(t, err)
		require.True(t, fi.IsDir())
	}
}

// As they are if the making of a layer is killed before the layer knows its name.
func TestShortNamesOfNoLayerAreRemoved(t *testing.T) {
	h := newHost(t)
	h.image(t, "app", registrytest.Files{"a": "x"})
	links := filepath.Join(h.Root(), "overlay", "l")
	before, err := os.ReadDir(links)
	require.NoError(t, err)
	require.Len(t, before, 1)
	require.NoError(t, os.Remove(filepath.Join(links, before[0].Name())))
	require.NoError(t, os.Symlink("../"+strings.Repeat("a", 64)+"/diff", filepath.Join(links, "STRAY")))

	require.NoError(t, h.Recover(t.Context()))
	after, err := os.ReadDir(links)
	require.NoError(t, err)
	require.Len(t, after, 1)
	require.Equal(t, before[0].Name(), after[0].Name(), "the lost one is back")
}

func TestALostLayerIsFoundAndFetchedAgain(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": "x"}, registrytest.Files{"b": "y"})
	img, err := h.Get(id)
	require.NoError(t, err)
	path := filepath.Join(h.Root(), "overlay-layers", "layers.json")
	var records []map[string]any
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(data, &records))
	h.replace(t, path, slices.DeleteFunc(records, func(r map[string]any) bool { return r["id"] == img.TopLayer }))

	verified, err := h.Verify(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, []store.Damage{{Layer: img.TopLayer, Path: "/", Problem: "the layer is missing"}}, verified[0].Damage)
	damaged, err := h.Damaged(img)
	require.NoError(t, err)
	require.True(t, damaged)

	h.engine = imagetest.Engine(t, h.Store, imagetest.PullConfig(filepath.Dir(h.cfg.Root)))
	_, err = h.engine.Pull(t.Context(), pull.Request{Image: h.r.Ref("app", "v1")}, nil)
	require.NoError(t, err)
	verified, err = h.Verify(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, []store.Verified{{ID: id}}, verified)
	damaged, err = h.Damaged(img)
	require.NoError(t, err)
	require.False(t, damaged)
}

func TestGCRemovesWhatNobodyUses(t *testing.T) {
	h := newHost(t)
	used := h.image(t, "used", registrytest.Files{"a": ""})
	held := h.image(t, "held", registrytest.Files{"b": ""})
	unused := h.image(t, "unused", registrytest.Files{"c": ""})
	h.image(t, "passing", registrytest.Files{"orphan": "x"})
	h.orphan(t, "passing")
	_, err := h.CreateRoot(t.Context(), "c", used, store.RootOptions{})
	require.NoError(t, err)
	opts := store.GCOptions{Images: true, InUse: func(id string) []string {
		if id == held {
			return []string{"somebody"}
		}
		return nil
	}}

	end, err := h.BeginPull()
	require.NoError(t, err)
	_, err = h.GC(t.Context(), store.GCOptions{})
	require.True(t, errdefs.IsUnavailable(err), err)
	end()

	opts.Grace = time.Hour
	res, err := h.GC(t.Context(), opts)
	require.NoError(t, err)
	require.Zero(t, res, "all are young")
	opts.Grace = 0
	res, err = h.GC(t.Context(), opts)
	require.NoError(t, err)
	require.Equal(t, store.GCResult{Images: []string{unused}, Layers: 1}, res)
	images, err := h.Images()
	require.NoError(t, err)
	require.Len(t, images, 2)
	require.Len(t, h.layers(t), 2)
}

func TestPinnedImagesAreNotCollected(t *testing.T) {
	dir := imagetest.Dir(t)
	cfg := imagetest.StoreConfig(dir)
	cfg.Pinned = []string{"*/app:*"}
	s := imagetest.Open(t, cfg)
	h := &host{Store: s, cfg: cfg, r: registrytest.New(t), engine: imagetest.Engine(t, s, imagetest.PullConfig(dir))}
	h.image(t, "app", registrytest.Files{"a": ""})
	res, err := h.GC(t.Context(), store.GCOptions{Images: true})
	require.NoError(t, err)
	require.Zero(t, res)
}

func TestUseIsRemembered(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""})
	img, err := h.Get(id)
	require.NoError(t, err)
	require.Equal(t, img.Stored, h.LastUsed(img))
	_, err = h.CreateRoot(t.Context(), "c", id, store.RootOptions{})
	require.NoError(t, err)
	require.True(t, h.LastUsed(img).After(img.Stored))
}

func TestAnImageOfUnreadableRecordsCanBeRemoved(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": ""})
	h.image(t, "fine", registrytest.Files{"b": ""})
	require.NoError(t, h.Library().SetImageBigData(id[7:], id, []byte("{"), nil))
	images, err := h.Images()
	require.NoError(t, err)
	require.Len(t, images, 1, "the other one is not affected")
	require.NoError(t, h.Remove(h.r.Ref("app", "v1")))
	records, err := h.Library().Images()
	require.NoError(t, err)
	require.Len(t, records, 1)
}

func FuzzParseReference(f *testing.F) {
	for _, seed := range []string{"busybox", "a/b", "localhost:5000/a", "a:b@sha256:" + strings.Repeat("a", 64), "UPPER", "\xff", "a//b", "[::1]:5000/x", "x@sha512:" + strings.Repeat("0", 128), "docker.io/library/a:latest"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		named, err := store.ParseReference(s)
		if err != nil {
			require.True(t, errdefs.IsInvalidArgument(err))
			return
		}
		again, err := store.ParseReference(named.String())
		require.NoError(t, err)
		require.Equal(t, named.String(), again.String(), "a whole name stays as it is")
		require.Contains(t, named.String(), "/")
		require.Regexp(t, `[:@]`, named.String())
	})
}

func TestShortNamesAreDockerHubs(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	for short, want := range map[string]string{
		"busybox":             "docker.io/library/busybox:latest",
		"busybox:1":           "docker.io/library/busybox:1",
		"user/app":            "docker.io/user/app:latest",
		"localhost/app":       "localhost/app:latest",
		"localhost:5000/app":  "localhost:5000/app:latest",
		"quay.io/a/b:c":       "quay.io/a/b:c",
		"a:b" + digest:        "docker.io/library/a" + digest,
		"index.docker.io/a/b": "docker.io/a/b:latest",
	} {
		named, err := store.ParseReference(short)
		require.NoError(t, err)
		require.Equal(t, want, named.String())
	}
}

// The library would fork this process, without exec, to see whether overlay takes
// mapped ids, and would note the answer in the run root.
func TestMakingARootDoesNotForkThisProcess(t *testing.T) {
	h := newHost(t)
	h.image(t, "app", registrytest.Files{"a": ""})
	_, err := h.CreateRoot(t.Context(), "c", h.r.Ref("app", "v1"), store.RootOptions{})
	require.NoError(t, err)
	_, err = h.Mount(t.Context(), "c")
	require.NoError(t, err)
	noted, err := filepath.Glob(filepath.Join(h.cfg.RunRoot, "overlay", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, noted, "the library notes its tries elsewhere")
	for _, n := range noted {
		require.NotContains(t, n, "idmapped")
	}
}

func TestRootsAreMeasured(t *testing.T) {
	h := newHost(t)
	id := h.image(t, "app", registrytest.Files{"a": "x"})
	write := func(name string) {
		path, err := h.Mount(t.Context(), "c")
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(path, name), make([]byte, 100_000), 0o644))
		require.NoError(t, h.Unmount(t.Context(), "c"))
	}
	_, err := h.CreateRoot(t.Context(), "c", id, store.RootOptions{})
	require.NoError(t, err)
	_, ok := h.RootUsage("c")
	require.False(t, ok)

	write("first")
	require.NoError(t, h.MeasureRoots(t.Context(), time.Hour))
	once, ok := h.RootUsage("c")
	require.True(t, ok)
	require.GreaterOrEqual(t, once.Bytes, uint64(100_000))

	write("second")
	require.NoError(t, h.MeasureRoots(t.Context(), 0))
	twice, _ := h.RootUsage("c")
	require.GreaterOrEqual(t, twice.Bytes, once.Bytes+100_000)
	require.NoError(t, h.RemoveRoot(t.Context(), "c"))
	_, ok = h.RootUsage("c")
	require.False(t, ok)
}
