package worker_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.podman.io/image/v5/oci/layout"
	"go.podman.io/image/v5/types"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/image/worker"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

func TestMain(m *testing.M) {
	imagetest.Main(m, func(source string) (types.ImageReference, error) { return layout.ParseReference(source) })
}

type host struct {
	dir    string
	store  *store.Store
	client *worker.Client
}

func newHost(t *testing.T, edit func(*worker.ClientConfig)) *host {
	t.Helper()
	dir := imagetest.Dir(t)
	cfg := worker.ClientConfig{
		Command: imagetest.WorkerCommand(),
		Store:   imagetest.StoreConfig(dir),
		Pull:    imagetest.PullConfig(dir),
	}
	if edit != nil {
		edit(&cfg)
	}
	s := imagetest.Open(t, cfg.Store)
	c, err := worker.NewClient(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return &host{dir, s, c}
}

// children are the pids of this process's children.
func children(t *testing.T) []int {
	t.Helper()
	var pids []int
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	require.NoError(t, err)
	for _, path := range tasks {
		data, _ := os.ReadFile(path)
		for _, f := range strings.Fields(string(data)) {
			pid, err := strconv.Atoi(f)
			require.NoError(t, err)
			pids = append(pids, pid)
		}
	}
	return pids
}

// stalled pushes an image whose second layer stalls halfway until release is closed.
func stalled(r *registrytest.Registry) (img registrytest.Pushed, half, release chan struct{}) {
	img = r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{
		{Files: registrytest.Files{"first": "x"}},
		{Files: registrytest.Files{"a": strings.Repeat("0123456789abcdef", 100_000)}, Compression: registrytest.None},
	}})
	half, release = make(chan struct{}), make(chan struct{})
	r.OnBlob(img.Layers[1], registrytest.StallAfter(800_000, release))
	return img, half, release
}

func (h *host) pull(ctx context.Context, image string, progress pull.Progress) (pull.Result, error) {
	return h.client.Pull(ctx, pull.Request{Image: image}, progress)
}

// onHalf tells once that the second layer is halfway.
func onHalf(img registrytest.Pushed, half chan struct{}) pull.Progress {
	return func(ev pull.Event) {
		if ev.Layer == img.Layers[1] && ev.Bytes > 0 && ev.Bytes < ev.Size {
			select {
			case <-half:
			default:
				close(half)
			}
		}
	}
}

func TestPullsRunInOneChildThatGoesWhenIdle(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, func(c *worker.ClientConfig) { c.Idle = 50 * time.Millisecond })
	img := r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"a": "x"}}}})
	require.Empty(t, children(t), "nothing runs before it is needed")

	for range 2 {
		var events []pull.Event
		res, err := h.pull(t.Context(), r.Ref("app", "v1"), func(ev pull.Event) { events = append(events, ev) })
		require.NoError(t, err)
		require.Equal(t, img.ID(), res.ID)
		require.NotEmpty(t, events)
		require.Len(t, children(t), 1)
	}
	require.Eventually(t, func() bool { return len(children(t)) == 0 }, time.Minute, 10*time.Millisecond)
	got, err := h.store.Get(r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), got.ID)
}

func TestErrorsKeepTheirTextAndClassOnTheWay(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	_, err := h.pull(t.Context(), r.Ref("app", "v1"), nil)
	require.ErrorContains(t, err, "manifest unknown")
	r.Always(registrytest.Status(503, ""))
	_, err = h.pull(t.Context(), r.Ref("app", "v1"), nil)
	require.ErrorIs(t, err, pull.ErrUnavailable)
	require.True(t, strings.HasPrefix(err.Error(), "RegistryUnavailable: "), err.Error())
}

func TestCancellingACallCancelsThePullInTheChild(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img, half, release := stalled(r)
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-half
		cancel()
	}()
	_, err := h.pull(ctx, r.Ref("app", "v1"), onHalf(img, half))
	require.ErrorIs(t, err, context.Canceled)
	require.Eventually(t, func() bool {
		left, err := os.ReadDir(filepath.Join(h.store.Root(), "overlay/staging"))
		return err == nil && len(left) == 0
	}, 10*time.Second, 10*time.Millisecond)
	require.Len(t, children(t), 1, "the child stays")
}

// The child is killed while a layer is being unpacked.
func TestAKilledChildLeavesNothingAndTheNextPullSucceeds(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	other := r.Push("other", "v1", registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"b": "y"}}}})
	_, err := h.pull(t.Context(), r.Ref("other", "v1"), nil)
	require.NoError(t, err)
	img, half, release := stalled(r)
	defer close(release)
	go func() {
		<-half
		for _, pid := range children(t) {
			unix.Kill(pid, unix.SIGKILL)
		}
	}()

	_, err = h.pull(t.Context(), r.Ref("app", "v1"), onHalf(img, half))
	require.ErrorContains(t, err, "image worker ended: signal: killed")
	left, err := os.ReadDir(filepath.Join(h.store.Root(), "overlay/staging"))
	require.NoError(t, err)
	require.NotEmpty(t, left, "it was killed in the middle")

	res, err := h.pull(t.Context(), r.Ref("app", "v1"), nil)
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
	for _, dir := range []string{"overlay/staging", "overlay/tempdirs", "overlay-layers/tempdirs"} {
		left, err := os.ReadDir(filepath.Join(h.store.Root(), dir))
		if !os.IsNotExist(err) {
			require.NoError(t, err)
		}
		require.Empty(t, left, dir)
	}
	verified, err := h.store.Verify(t.Context(), "")
	require.NoError(t, err)
	require.ElementsMatch(t, []store.Verified{{ID: img.ID()}, {ID: other.ID()}}, verified)
}

func TestClosingTheClientFailsItsPulls(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img, half, release := stalled(r)
	defer close(release)
	go func() {
		<-half
		h.client.Close()
	}()
	_, err := h.pull(t.Context(), r.Ref("app", "v1"), onHalf(img, half))
	require.ErrorContains(t, err, "image worker ended")
	require.Empty(t, children(t))
	_, err = h.pull(t.Context(), r.Ref("app", "v1"), nil)
	require.ErrorContains(t, err, "closed")
}

func TestAProgramThatIsNoWorkerIsReported(t *testing.T) {
	for what, command := range map[string][]string{
		"missing": {"/nonexistent"},
		"other":   {"/bin/sh", "-c", "echo wrong program >&2; exit 3"},
		"silent":  {"/bin/true"},
	} {
		h := newHost(t, func(c *worker.ClientConfig) { c.Command = command })
		_, err := h.pull(t.Context(), "example.com/app", nil)
		require.ErrorContains(t, err, "start image worker", what)
		if what == "other" {
			require.ErrorContains(t, err, "exit status 3: wrong program")
		}
	}
}

func TestAStoreThatCannotBeOpenedIsReported(t *testing.T) {
	h := newHost(t, func(c *worker.ClientConfig) { c.Pull.Layers = 1 })
	c, err := worker.NewClient(worker.ClientConfig{Command: imagetest.WorkerCommand(), Store: store.Config{Root: "relative", RunRoot: h.dir}})
	require.NoError(t, err)
	_, err = c.Pull(t.Context(), pull.Request{Image: "example.com/app"}, nil)
	require.ErrorContains(t, err, "must be absolute")
	require.NoError(t, c.Close())
}

// The worker of a process that is killed ends too.
func TestTheChildDoesNotOutliveItsParent(t *testing.T) {
	r := registrytest.New(t)
	dir := imagetest.Dir(t)
	img, _, release := stalled(r)
	defer close(release)
	parent := startPuller(t, dir, r.Ref("app", "v1"))
	require.Eventually(t, func() bool { return len(r.Requests(img.Layers[1].String())) > 0 }, time.Minute, 5*time.Millisecond)
	child := childOf(t, parent.Process.Pid)
	fd, err := unix.PidfdOpen(child, 0)
	require.NoError(t, err)
	defer unix.Close(fd)

	require.NoError(t, parent.Process.Kill())
	parent.Wait()
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	require.NoError(t, err)
	require.Equal(t, 1, n, "the child has ended")

	s := imagetest.Open(t, imagetest.StoreConfig(dir))
	left, err := os.ReadDir(filepath.Join(s.Root(), "overlay/staging"))
	require.NoError(t, err)
	require.Empty(t, left, "opening the store cleans up")
	res, err := imagetest.Engine(t, s, imagetest.PullConfig(dir)).Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1")}, nil)
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
}
