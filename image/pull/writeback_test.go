package pull_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// thinDisk mounts a filesystem whose device can run out of space, which then
// fails what the kernel writes back, long after the writer has gone on. It
// gives the mount point, and two functions that exhaust the device and end that.
func thinDisk(t *testing.T, dir string) (disk string, exhaust, relieve func()) {
	t.Helper()
	device := filepath.Join(dir, "device")
	disk = filepath.Join(dir, "disk")
	require.NoError(t, os.Mkdir(device, 0o700))
	require.NoError(t, os.Mkdir(disk, 0o700))
	require.NoError(t, unix.Mount("tmpfs", device, "tmpfs", 0, "size=64m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(device, unix.MNT_DETACH)) })
	image, filler := filepath.Join(device, "image"), filepath.Join(device, "filler")
	require.NoError(t, os.WriteFile(image, nil, 0o600))
	require.NoError(t, os.Truncate(image, 128<<20))
	for _, args := range [][]string{
		{"mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", image},
		{"mount", "-o", "loop,errors=continue", image, disk}, // the loop device goes with the mount
	} {
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		require.NoError(t, err, string(out))
	}
	t.Cleanup(func() { require.NoError(t, unix.Unmount(disk, unix.MNT_DETACH)) })
	exhaust = func() {
		f, err := os.Create(filler)
		require.NoError(t, err)
		defer f.Close()
		for page := make([]byte, 4096); err == nil; {
			_, err = f.Write(page)
		}
		require.ErrorIs(t, err, unix.ENOSPC)
	}
	return disk, exhaust, func() { require.NoError(t, os.Remove(filler)) }
}

// syncfs is what another pull on the same disk does.
func syncfs(t *testing.T, dir string) error {
	t.Helper()
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// The kernel tells a failed write once to those who had the disk open, and to
// the next who comes; another sync in mid-pull must not use that up.
func TestAWriteThatFailedLaterFailsThePull(t *testing.T) {
	dir := imagetest.Dir(t)
	disk, exhaust, relieve := thinDisk(t, dir)
	store := imagetest.Open(t, imagetest.StoreConfig(disk))
	cfg := imagetest.PullConfig(dir)
	h := &host{dir: dir, store: store, cfg: cfg, engine: imagetest.Engine(t, store, cfg)}
	r := registrytest.New(t)
	content := noise(6 << 20) // less than what makes the pull sync by itself
	img := r.Push("app", "v1", registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"a": content}, Compression: registrytest.None}}})
	release := make(chan struct{})
	r.OnBlob(img.Layers[0], registrytest.StallAfter(5<<20, release))
	require.NoError(t, syncfs(t, disk))

	var told bool
	half := make(chan struct{})
	result := make(chan error, 1)
	go func() {
		_, err := h.engine.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1")}, func(ev pull.Event) {
			if !told && ev.Bytes > 0 {
				told = true
				close(half)
			}
		})
		result <- err
	}()
	<-half
	require.Eventually(t, func() bool { return largest(t, disk) > 4<<20 }, time.Minute, 10*time.Millisecond)
	exhaust()
	err := syncfs(t, disk)
	require.True(t, errors.Is(err, unix.EIO) || errors.Is(err, unix.ENOSPC), "the disk fails: %v", err)
	relieve()
	require.NoError(t, syncfs(t, disk), "the failure has been told")
	close(release)
	err = <-result
	require.ErrorContains(t, err, "sync image store")
	_, err = h.store.Get(img.ID())
	require.Error(t, err)

	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, int64(len(r.Blob(img.Layers[0]))), res.Fetched, "what may not have been written is fetched again")
	data, err := os.ReadFile(filepath.Join(h.root(t, img.ID()), "a"))
	require.NoError(t, err)
	require.True(t, string(data) == content)
}

// largest is the size of the largest file below dir.
func largest(t *testing.T, dir string) (size int64) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil // gone meanwhile
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if fi, err := e.Info(); err == nil {
			size = max(size, fi.Size())
		}
		return nil
	}))
	return size
}
