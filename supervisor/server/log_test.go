package server_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/supervisor"
)

func TestLongLinesAreSplitIntoParts(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.sh("a", "yes x | head -n 20000 | tr -d '\\n'; echo; echo end")
	require.Zero(t, p.wait("a").Code)

	require.Equal(t, strings.Repeat("x", 20000)+"\nend\n", logged(t, spec.Log, "stdout"))
	text, err := os.ReadFile(spec.Log)
	require.NoError(t, err)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	require.Len(t, lines, 3)
	require.Contains(t, lines[0], " stdout P ")
	require.Len(t, strings.SplitN(lines[0], " ", 4)[3], 16<<10)
	require.Contains(t, lines[1], " stdout F ")
}

func TestLineOfExactlyThePartSizeStaysWhole(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.sh("a", "yes x | head -n 16384 | tr -d '\\n'; sleep 0.1; echo")
	require.Zero(t, p.wait("a").Code)
	text, err := os.ReadFile(spec.Log)
	require.NoError(t, err)
	require.Equal(t, 1, strings.Count(string(text), "\n"))
	require.Contains(t, string(text), " stdout F x")
}

func TestLastLineWithoutEndIsLogged(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.sh("a", "echo -n unfinished; exit 0")
	require.Zero(t, p.wait("a").Code)
	require.Equal(t, "unfinished", logged(t, spec.Log, "stdout"))
}

// A counter app writes as fast as it can while the log is rotated as the kubelet
// does: rename, then reopen. Every number must be there once.
func TestRotationLosesAndDoublesNothing(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	const last = 2_000_000
	begin := time.Now()
	spec := p.sh("a", "seq 1 "+strconv.Itoa(last))
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.wait("a")
	}()
	files := []string{}
	for i := 0; ; i++ {
		old := fmt.Sprintf("%s.%d", spec.Log, i)
		require.NoError(t, os.Rename(spec.Log, old))
		files = append(files, old)
		err := p.ReopenLog(t.Context(), "a")
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition, "only once it has exited")
			break
		}
		select {
		case <-done:
		case <-time.After(20 * time.Millisecond): // the kubelet's pace is slower
			continue
		}
		files = append(files, spec.Log)
		break
	}
	<-done
	require.Greater(t, len(files), 2, "rotated while it ran")
	next := 1
	for _, f := range files {
		for line := range strings.Lines(logged(t, f, "stdout")) {
			require.Equal(t, strconv.Itoa(next), strings.TrimSpace(line), "in %s", f)
			next++
		}
	}
	require.Equal(t, last+1, next)
	t.Logf("%d rotations, %.0f MB/s of output", len(files), float64(last)*7.9/1e6/time.Since(begin).Seconds())
}

func TestReopenThatFailsKeepsTheOldFile(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	dir := filepath.Join(p.podDir, "logs")
	require.NoError(t, os.Mkdir(dir, 0o700))
	spec := p.add("a", appConfig{Args: []string{"/bin/sh", "-c", "echo 1; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo 2"}})
	spec.Log = filepath.Join(dir, "log")
	_, err := p.CreateApp(t.Context(), spec)
	require.NoError(t, err)
	_, err = p.StartApp(t.Context(), "a")
	require.NoError(t, err)
	waitFor(t, func() bool { return fileHas(spec.Log, "stdout F 1") })

	require.NoError(t, os.Rename(dir, dir+".old"))
	require.Error(t, p.ReopenLog(t.Context(), "a"))
	require.NoFileExists(t, spec.Log)
	require.NoError(t, os.WriteFile(filepath.Join(p.rootfs, "tmp/go"), nil, 0o644))
	require.Zero(t, p.wait("a").Code)
	require.Equal(t, "1\n2\n", logged(t, filepath.Join(dir+".old", "log"), "stdout"))
}

// The log lies on a file system that is full for a while. The app must go on, and
// the log must say how much it lacks.
func TestFullDiskDropsAndReportsInsteadOfBlocking(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	dir := filepath.Join(p.runDir, "small")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, unix.Mount("small", dir, "tmpfs", 0, "size=256k"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	ballast := filepath.Join(dir, "ballast")
	require.NoError(t, os.WriteFile(ballast, make([]byte, 200<<10), 0o600))
	// The supervisor runs in this test's mount namespace, so it sees the mount.
	spec := p.add("a", appConfig{Args: []string{"/bin/sh", "-c",
		"seq 1 100000; echo full >/tmp/full; while [ ! -e /tmp/room ]; do sleep 0.02; done; echo after"}})
	spec.Log = filepath.Join(dir, "log")
	_, err := p.CreateApp(t.Context(), spec)
	require.NoError(t, err)
	_, err = p.StartApp(t.Context(), "a")
	require.NoError(t, err)
	waitFor(t, func() bool { return fileHas(filepath.Join(p.rootfs, "tmp/full"), "full") })
	waitFor(t, func() bool {
		st, err := p.Status(t.Context())
		return err == nil && len(st.Apps) == 1 && st.Apps[0].LostBytes > 0
	})

	require.NoError(t, os.Remove(ballast))
	require.NoError(t, os.WriteFile(filepath.Join(p.rootfs, "tmp/room"), nil, 0o644))
	require.Zero(t, p.wait("a").Code)

	require.Contains(t, logged(t, spec.Log, "stdout"), "after\n", "whole lines only")
	require.Contains(t, logged(t, spec.Log, "stderr"), "bytes of output lost here: no space left on device")
}
