package image

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

func TestMain(m *testing.M) { imagetest.Main(m, nil) }

func newService(t testing.TB, edit func(*Config)) *Service {
	t.Helper()
	dir := imagetest.Dir(t)
	cfg := Config{Store: imagetest.StoreConfig(dir), Pull: imagetest.PullConfig(dir), Worker: imagetest.WorkerCommand()}
	if edit != nil {
		edit(&cfg)
	}
	s, err := New(context.Background(), cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

// As rktshim joins the parts into one server: a real method wins over the
// library's answer for missing ones, which lies one level deeper.
type unimplemented struct {
	runtimeapi.UnimplementedImageServiceServer
}

var _ runtimeapi.ImageServiceServer = struct {
	*Service
	unimplemented
}{}

func spec(image string) *runtimeapi.ImageSpec { return &runtimeapi.ImageSpec{Image: image} }

func pullOK(t testing.TB, s *Service, image string) string {
	t.Helper()
	resp, err := s.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: spec(image)})
	require.NoError(t, err)
	return resp.ImageRef
}

func status(t testing.TB, s *Service, image string) *runtimeapi.Image {
	t.Helper()
	resp, err := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec(image)})
	require.NoError(t, err)
	return resp.Image
}

func remove(t testing.TB, s *Service, image string) error {
	t.Helper()
	_, err := s.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: spec(image)})
	return err
}

// push makes an image of one file; what makes it another image.
func push(r *registrytest.Registry, repo, tag, what string, edit ...func(*registrytest.Image)) registrytest.Pushed {
	img := registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"what": what}}}}
	for _, e := range edit {
		e(&img)
	}
	return r.Push(repo, tag, img)
}

func TestAnImageIsTheSameInEveryAnswer(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, func(c *Config) { c.Store.Pinned = []string{"*/keep:*"} })
	img := push(r, "app", "v1", "x", func(i *registrytest.Image) {
		i.Annotations = map[string]string{"org.example": "yes"}
		i.Config.Config.User = "1002:1003"
	})

	ref := pullOK(t, s, r.Ref("app", "v1"))
	require.Equal(t, img.ID(), ref)
	want := status(t, s, ref)
	require.Equal(t, ref, want.Id)
	require.Equal(t, []string{r.Ref("app", "v1")}, want.RepoTags)
	require.Equal(t, []string{r.Ref("app", "@"+img.Manifest.String())}, want.RepoDigests)
	require.Positive(t, want.Size)
	require.EqualValues(t, 1002, want.Uid.Value)
	require.Empty(t, want.Username)
	require.Equal(t, map[string]string{"org.example": "yes"}, want.Spec.Annotations)
	require.False(t, want.Pinned)
	for _, name := range []string{r.Ref("app", "v1"), r.Ref("app", "@"+img.Manifest.String()), ref, ref[7:], ref[:20], ref[7:30]} {
		require.Equal(t, want, status(t, s, name), name)
	}
	list, err := s.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	require.NoError(t, err)
	require.Equal(t, []*runtimeapi.Image{want}, list.Images)
	root, err := s.Store().CreateRoot(t.Context(), "c", ref, store.RootOptions{})
	require.NoError(t, err)
	require.Equal(t, ref, root.ImageID)

	push(r, "keep", "v1", "x")
	pullOK(t, s, r.Ref("keep", "v1"))
	require.True(t, status(t, s, r.Ref("keep", "v1")).Pinned)
}

func TestUserOfTheConfig(t *testing.T) {
	for user, want := range map[string]struct {
		uid  *runtimeapi.Int64Value
		name string
	}{
		"": {}, ":5": {},
		"0":            {uid: &runtimeapi.Int64Value{}},
		"1002":         {uid: &runtimeapi.Int64Value{Value: 1002}},
		"1002:0":       {uid: &runtimeapi.Int64Value{Value: 1002}},
		"www-data":     {name: "www-data"},
		"www-data:adm": {name: "www-data"},
	} {
		uid, name := userOf(user)
		require.Equal(t, want.uid, uid, user)
		require.Equal(t, want.name, name, user)
	}
}

func TestStatusOfAMissingImageIsNil(t *testing.T) {
	s := newService(t, nil)
	for _, name := range []string{"busybox", "sha256:abc", "abcdef123456", "registry.example/a/b:c", "busybox@sha256:" + strings.Repeat("0", 64)} {
		require.Nil(t, status(t, s, name), name)
	}
}

func TestStatusOfAMalformedNameIsInvalid(t *testing.T) {
	s := newService(t, nil)
	for _, name := range []string{"", "UPPER/case", "a:b:c", "\xff\xfe", "https://example.com/a"} {
		_, err := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec(name)})
		require.True(t, errdefs.IsInvalidArgument(err), "%q: %v", name, err)
	}
}

func TestAnAmbiguousPrefixIsAnError(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, nil)
	first := map[byte]string{}
	for i := 0; ; i++ { // 17 ids share a digit at the latest
		id := push(r, "app", fmt.Sprint(i), fmt.Sprint(i)).ID()
		pullOK(t, s, r.Ref("app", fmt.Sprint(i)))
		if other, ok := first[id[7]]; ok {
			_, err := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec(id[:8])})
			require.True(t, errdefs.IsInvalidArgument(err), err)
			require.ErrorContains(t, err, "more than one image id")
			require.True(t, errdefs.IsInvalidArgument(remove(t, s, id[:8])))
			require.NotNil(t, status(t, s, id))
			require.NotNil(t, status(t, s, other))
			return
		}
		first[id[7]] = id
	}
}

// Were it otherwise, an image could be made whose id begins with the name of another.
func TestAShortNameIsNoIDPrefix(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, nil)
	id := push(r, "app", "v1", "x").ID()
	pullOK(t, s, r.Ref("app", "v1"))
	require.Nil(t, status(t, s, id[7:11]))
	require.NotNil(t, status(t, s, id[:11]))
}

func TestVerboseStatusHoldsTheConfig(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, nil)
	push(r, "app", "v1", "x", func(i *registrytest.Image) { i.Config.Config.Cmd = []string{"run-me"} })
	pullOK(t, s, r.Ref("app", "v1"))
	resp, err := s.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: spec(r.Ref("app", "v1")), Verbose: true})
	require.NoError(t, err)
	require.Contains(t, resp.Info["info"], `"run-me"`)
	require.Contains(t, resp.Info["info"], `"chainID":"sha256:`)
}

func TestRemoveByAnyNameRemovesTheWholeImage(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, nil)
	for _, how := range []string{"tag", "digest", "id", "prefix"} {
		img := push(r, "app", "v1", "x")
		push(r, "other", "v2", "x")
		pullOK(t, s, r.Ref("app", "v1"))
		pullOK(t, s, r.Ref("other", "v2"))
		name := map[string]string{"tag": r.Ref("app", "v1"), "digest": r.Ref("other", "@"+img.Manifest.String()), "id": img.ID(), "prefix": img.ID()[7:19]}[how]
		for range 2 { // the second time it is gone
			require.NoError(t, remove(t, s, name))
			require.Nil(t, status(t, s, img.ID()))
			require.Nil(t, status(t, s, r.Ref("other", "v2")))
		}
		entries, err := os.ReadDir(filepath.Join(s.Store().Root(), "overlay"))
		require.NoError(t, err)
		for _, e := range entries {
			require.Less(t, len(e.Name()), 64, "a layer is left")
		}
	}
}

func TestAnImageThatAContainerUsesIsNotRemoved(t *testing.T) {
	r := registrytest.New(t)
	users := map[string][]string{}
	s := newService(t, func(c *Config) { c.InUse = func(id string) []string { return users[id] } })
	img := push(r, "app", "v1", "x")
	pullOK(t, s, r.Ref("app", "v1"))

	_, err := s.Store().CreateRoot(t.Context(), "container-1", img.ID(), store.RootOptions{})
	require.NoError(t, err)
	err = remove(t, s, r.Ref("app", "v1"))
	require.True(t, errdefs.IsFailedPrecondition(err), err)
	require.ErrorContains(t, err, "container-1")
	require.NoError(t, s.Store().RemoveRoot(t.Context(), "container-1"))

	users[img.ID()] = []string{"volume-2"}
	err = remove(t, s, r.Ref("app", "v1"))
	require.True(t, errdefs.IsFailedPrecondition(err), err)
	require.ErrorContains(t, err, "volume-2")
	require.NotNil(t, status(t, s, img.ID()))
	delete(users, img.ID())
	require.NoError(t, remove(t, s, r.Ref("app", "v1")))
	require.Nil(t, status(t, s, img.ID()))
}

func TestListFiltersByName(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, nil)
	img := push(r, "app", "v1", "x")
	push(r, "app", "v2", "y")
	pullOK(t, s, r.Ref("app", "v1"))
	pullOK(t, s, r.Ref("app", "v2"))
	for filter, want := range map[string]int{r.Ref("app", "v1"): 1, img.ID(): 1, "nothing": 0, "": 2} {
		resp, err := s.ListImages(t.Context(), &runtimeapi.ListImagesRequest{Filter: &runtimeapi.ImageFilter{Image: spec(filter)}})
		require.NoError(t, err)
		require.Len(t, resp.Images, want, filter)
	}
}

type stream struct {
	grpc.ServerStream
	batches [][]*runtimeapi.Image
}

func (s *stream) Send(m *runtimeapi.StreamImagesResponse) error {
	s.batches = append(s.batches, m.Images)
	return nil
}

func TestStreamSendsEachImageOnceInBatches(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, nil)
	var out stream
	require.NoError(t, s.StreamImages(&runtimeapi.StreamImagesRequest{}, &out))
	require.Empty(t, out.batches)

	want := map[string]bool{}
	const n = streamBatch + 3
	for i := range n {
		img := r.Push("app", fmt.Sprint(i), registrytest.Image{Config: v1.Image{Author: fmt.Sprint(i)}}) // no layers: quick
		want[img.ID()] = true
		pullOK(t, s, r.Ref("app", fmt.Sprint(i)))
	}
	require.NoError(t, s.StreamImages(&runtimeapi.StreamImagesRequest{}, &out))
	require.Len(t, out.batches, 2)
	all := slices.Concat(out.batches...)
	require.Len(t, all, n)
	for _, img := range all {
		require.True(t, want[img.Id])
		delete(want, img.Id)
	}
}

func TestFsInfoCountsImagesAndContainers(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, func(c *Config) { c.MeasureEvery = 10 * time.Millisecond })
	info := func() (image, container *runtimeapi.FilesystemUsage) {
		resp, err := s.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})
		require.NoError(t, err)
		require.Len(t, resp.ImageFilesystems, 1)
		require.Len(t, resp.ContainerFilesystems, 1)
		for _, u := range []*runtimeapi.FilesystemUsage{resp.ImageFilesystems[0], resp.ContainerFilesystems[0]} {
			require.Positive(t, u.Timestamp)
			require.Equal(t, s.Store().Root(), u.FsId.Mountpoint)
			require.NotNil(t, u.UsedBytes)
			require.NotNil(t, u.InodesUsed)
		}
		return resp.ImageFilesystems[0], resp.ContainerFilesystems[0]
	}
	image, container := info()
	require.Zero(t, image.UsedBytes.Value)
	require.Zero(t, container.UsedBytes.Value)

	img := r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"a": strings.Repeat("x", 10_000), "d/b": ""}}}})
	pullOK(t, s, r.Ref("app", "v1"))
	image, _ = info()
	require.EqualValues(t, 12288+4096, image.UsedBytes.Value)
	require.EqualValues(t, 3, image.InodesUsed.Value)

	_, err := s.Store().CreateRoot(t.Context(), "c", img.ID(), store.RootOptions{})
	require.NoError(t, err)
	path, err := s.Store().Mount(t.Context(), "c")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(path, "new"), make([]byte, 50_000), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	require.Eventually(t, func() bool {
		_, c := info()
		return c.UsedBytes.Value >= 50_000 && c.InodesUsed.Value >= 1
	}, 10*time.Second, 5*time.Millisecond)
	cancel()
	require.NoError(t, <-done)

	require.NoError(t, s.Store().RemoveRoot(t.Context(), "c"))
	require.NoError(t, remove(t, s, img.ID()))
	image, container = info()
	require.Zero(t, image.UsedBytes.Value)
	require.Zero(t, container.UsedBytes.Value)
}

func TestWhatAnotherProcessDoesShowsAtOnce(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, nil)
	img := push(r, "app", "v1", "x")
	list, err := s.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	require.NoError(t, err)
	require.Empty(t, list.Images)
	pullOK(t, s, r.Ref("app", "v1")) // the worker is another process
	require.NotNil(t, status(t, s, img.ID()))
	other := imagetest.Open(t, s.cfg.Store)
	require.NoError(t, other.Remove(img.ID()))
	require.Nil(t, status(t, s, img.ID()))
}

func TestPullErrorsHaveNoClassAndSayWhatTheKubeletLooksFor(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, nil)
	pull := func(image string, auth *runtimeapi.AuthConfig) error {
		_, err := s.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: spec(image), Auth: auth})
		require.Error(t, err)
		return err
	}
	classless := func(err error) {
		require.False(t, errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) || errdefs.IsUnauthorized(err) || errdefs.IsPermissionDenied(err), err)
	}
	err := pull(r.Ref("app", "v1"), nil)
	classless(err)
	require.ErrorContains(t, err, "manifest unknown")

	r.RequireLogin(registrytest.Login{User: "jo", Password: "secret"})
	err = pull(r.Ref("app", "v1"), &runtimeapi.AuthConfig{Username: "jo", Password: "wr0ng"})
	classless(err)
	require.ErrorContains(t, err, "denied")
	require.NotContains(t, err.Error(), "wr0ng")

	r.Always(registrytest.Status(500, ""))
	err = pull(r.Ref("app", "v1"), nil)
	classless(err)
	require.True(t, strings.HasPrefix(err.Error(), "RegistryUnavailable: "), err.Error())

	require.NoError(t, os.MkdirAll(filepath.Dir(s.cfg.Pull.Policy), 0o755))
	require.NoError(t, os.WriteFile(s.cfg.Pull.Policy, []byte(`{`), 0o600))
	err = pull(r.Ref("app", "v1"), nil)
	classless(err)
	require.True(t, strings.HasPrefix(err.Error(), "SignatureValidationFailed"), err.Error())

	for _, name := range []string{"", "NOT/valid", "\xff"} {
		require.True(t, errdefs.IsInvalidArgument(pull(name, nil)), name)
	}
}

// The kubelet pulls an image only if it is absent.
func TestADamagedImageCountsAsAbsentUntilItIsPulledAgain(t *testing.T) {
	r := registrytest.New(t)
	s := newService(t, nil)
	img := push(r, "app", "v1", "x")
	pullOK(t, s, r.Ref("app", "v1"))
	require.NoError(t, os.WriteFile(filepath.Join(s.Store().Root(), "overlay", img.DiffIDs[0].Encoded(), "diff/what"), []byte("y"), 0o644))
	verified, err := s.Store().Verify(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, []store.Verified{{ID: img.ID(), Damage: []store.Damage{{Layer: img.DiffIDs[0].Encoded(), Path: "/what", Problem: "content has changed"}}}}, verified)
	require.Nil(t, status(t, s, img.ID()))
	pullOK(t, s, r.Ref("app", "v1"))
	require.NotNil(t, status(t, s, img.ID()))
}

func BenchmarkListOf200Images(b *testing.B) {
	r := registrytest.New(b)
	s := newService(b, nil)
	for i := range 200 {
		r.Push("app", fmt.Sprint(i), registrytest.Image{Config: v1.Image{Author: fmt.Sprint(i)}})
		pullOK(b, s, r.Ref("app", fmt.Sprint(i)))
	}
	b.Run("ListImages", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.ListImages(b.Context(), &runtimeapi.ListImagesRequest{}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ImageStatus", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.ImageStatus(b.Context(), &runtimeapi.ImageStatusRequest{Image: spec(r.Ref("app", "7"))}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ImageFsInfo", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.ImageFsInfo(b.Context(), &runtimeapi.ImageFsInfoRequest{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestAnImageWithDamagedRecordsIsRemovedByItsName(t *testing.T) {
	reg := registrytest.New(t)
	img := reg.Push("app", "1", registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"a": "b"}}}})
	s := newService(t, nil)
	pullOK(t, s, reg.Ref("app", "1"))
	records, err := filepath.Glob(filepath.Join(s.store.Root(), "overlay-images", strings.TrimPrefix(img.ID(), "sha256:"), "*"))
	require.NoError(t, err)
	require.NotEmpty(t, records)
	for _, r := range records {
		require.NoError(t, os.WriteFile(r, []byte("{}"), 0o600))
	}
	// The index is made anew by whoever comes next: the node agent, restarted.
	require.NoError(t, s.Close())
	s, err = New(t.Context(), s.cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	require.Nil(t, status(t, s, reg.Ref("app", "1")), "it counts as absent")

	require.NoError(t, remove(t, s, reg.Ref("app", "1")))

	left, err := s.store.Library().Images()
	require.NoError(t, err)
	require.Empty(t, left)
}
