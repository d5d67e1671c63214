package pod

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/supervisor"
)

var errBoom = errors.New("boom")

func TestLaunchedPodRunsWithItsRecordsOnDisk(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()

	id, err := e.Launch(t.Context(), testSpec())

	require.NoError(t, err)
	p, err := e.Pod(id)
	require.NoError(t, err)
	require.Equal(t, Running, p.State)
	require.Equal(t, "10.1.0.2", p.Network.IPs[0].String())
	require.Equal(t, "/kubepods/pod1/k8s_"+string(id), p.Cgroup)
	require.FileExists(t, p.NetNS)
	resolv, err := os.ReadFile(filepath.Join(p.Dir, "resolv.conf"))
	require.NoError(t, err)
	require.Equal(t, "nameserver 10.0.0.10\n", string(resolv))
	rec, err := readPod(p.Dir)
	require.NoError(t, err)
	require.Equal(t, Running, rec.State)
	told, err := supervisor.ReadSpec(p.Dir)
	require.NoError(t, err)
	require.Equal(t, p.NetNS, told.Stage1.Network)
	require.Equal(t, "web", told.Stage1.Hostname)
}

func TestLaunchThatFailsAtAnyStepLeavesNothingAndCanBeRepeated(t *testing.T) {
	for _, step := range []string{"check", "cgroup", "attach", "launch", supervisor.OpHello} {
		t.Run(step, func(t *testing.T) {
			h := newHost(t)
			e, _ := h.engine()
			h.failing(step, errBoom)

			_, err := e.Launch(t.Context(), testSpec())

			require.ErrorContains(t, err, "boom")
			h.requireNothingLeft()
			require.Empty(t, e.Pods(nil))
			h.failing(step, nil)
			_, err = e.Launch(t.Context(), testSpec())
			require.NoError(t, err)
		})
	}
}

func TestLaunchThatCannotMakeAFolderLeavesNothing(t *testing.T) {
	for _, blocked := range []string{"run", "logs"} {
		t.Run(blocked, func(t *testing.T) {
			h := newHost(t)
			e, _ := h.engine()
			path := filepath.Join(h.dir, blocked)
			require.NoError(t, os.RemoveAll(path))
			require.NoError(t, os.WriteFile(path, nil, 0o600))
			spec := testSpec()
			spec.LogDir = filepath.Join(h.dir, "logs")

			_, err := e.Launch(t.Context(), spec)

			require.ErrorContains(t, err, path)
			h.requireNothingLeft()
		})
	}
}

func TestLaunchThatCannotPinItsNetworkLeavesNothing(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	require.NoError(t, unix.Mount("none", filepath.Join(h.dir, "netns"), "tmpfs", unix.MS_RDONLY, ""))

	_, err := e.Launch(t.Context(), testSpec())

	require.ErrorIs(t, err, unix.EROFS)
	h.requireNothingLeft()
}

func TestLaunchOnAFullDiskLeavesNothing(t *testing.T) {
	h := newHost(t)
	pods := filepath.Join(h.dir, "pods")
	require.NoError(t, os.MkdirAll(pods, 0o700))
	require.NoError(t, unix.Mount("none", pods, "tmpfs", 0, "size=16k"))
	e, _ := h.engine()

	_, err := e.Launch(t.Context(), testSpec())

	require.ErrorIs(t, err, unix.ENOSPC)
	h.requireNothingLeft()
	require.Empty(t, e.Pods(nil), "reads go on")
}

func TestCancelledLaunchIsUndone(t *testing.T) {
	for _, step := range []string{"attach", "launch"} {
		t.Run(step, func(t *testing.T) {
			h := newHost(t)
			e, _ := h.engine()
			h.hanging(step, true)
			ctx, cancel := context.WithCancel(t.Context())
			go func() {
				<-h.reached
				cancel()
			}()

			_, err := e.Launch(ctx, testSpec())

			require.ErrorIs(t, err, context.Canceled)
			h.requireNothingLeft()
		})
	}
}

func TestNetworkThatCannotBeUndoneIsDetachedLater(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	h.failing("attach", errBoom)
	h.failing("detach in attach", errBoom)
	h.failing("detach", errBoom)

	_, err := e.Launch(t.Context(), testSpec())

	require.ErrorContains(t, err, "boom")
	require.Empty(t, e.Pods(nil), "nobody sees it")
	require.Len(t, h.attached, 1)
	h.failing("detach", nil)
	eventually(t, func() bool { _, left := e.findPodAny(); return !left }, "detached by Run")
	h.requireNothingLeft()
}

// findPodAny tells whether the index holds any pod, doomed ones too.
func (e *Engine) findPodAny() (ID, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id := range e.pods {
		return id, true
	}
	return "", false
}

func TestSamePodAskedTwiceAtOnceIsLaunchedOnce(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	ids := make([]ID, 8)
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			var err error
			ids[i], err = e.Launch(t.Context(), testSpec())
			require.NoError(t, err)
		})
	}
	wg.Wait()

	for _, id := range ids {
		require.Equal(t, ids[0], id)
	}
	require.Equal(t, 1, h.called("launch"))
}

func TestRequestThatJoinedGoesOnWhenTheFirstIsCancelled(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	var f flights[int, int]
	inside, goOn := make(chan struct{}), make(chan struct{})
	work := func(ctx context.Context) (int, error) {
		close(inside)
		<-goOn
		return 7, ctx.Err()
	}
	first, cancel := context.WithCancel(t.Context())
	firstErr, second := make(chan error, 1), make(chan int, 1)
	go func() { _, err := f.do(first, 1, work); firstErr <- err }()
	<-inside
	go func() { v, _ := f.do(t.Context(), 1, work); second <- v }()
	eventually(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.open[1].waiters == 2 }, "joined")

	cancel()

	require.ErrorIs(t, <-firstErr, context.Canceled)
	close(goOn)
	require.Equal(t, 7, <-second)
	_ = e
}

func TestPanicReachesWhoAskedForTheWork(t *testing.T) {
	var f flights[int, int]
	require.PanicsWithValue(t, "text", func() {
		defer func() {
			p := recover()
			require.Contains(t, p, "text")
			panic("text")
		}()
		_, _ = f.do(t.Context(), 1, func(context.Context) (int, error) { panic("text") })
	})
}

func TestExitedPodAskedForAgainStartsClean(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	first, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	require.NoError(t, e.Stop(t.Context(), first, 0))

	second, err := e.Launch(t.Context(), testSpec())

	require.NoError(t, err)
	require.NotEqual(t, first, second)
	require.Len(t, e.Pods(nil), 1)
}

func TestBadSpecIsRefusedWithNothingMade(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"uid":           func(s *Spec) { s.UID = "" },
		"known are":     func(s *Spec) { s.Flavor = "gvisor" },
		"log directory": func(s *Spec) { s.LogDir = "logs" },
		"hostname":      func(s *Spec) { s.HostUTS = true },
		"sysctls":       func(s *Spec) { s.Sysctls = map[string]string{"vm.swappiness": "1"} },
	} {
		h := newHost(t)
		e, _ := h.engine()
		spec := testSpec()
		change(&spec)

		_, err := e.Launch(t.Context(), spec)

		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, name)
		require.ErrorContains(t, err, name)
		h.requireNothingLeft()
	}
}
