package pod

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// listening starts an engine that commands can reach, by a path longer than a unix
// address.
func listening(t *testing.T, h *host) (*Engine, Ask) {
	t.Helper()
	dir := filepath.Join(h.dir, strings.Repeat("d", 120))
	require.NoError(t, os.Mkdir(dir, 0o700))
	cfg := h.config()
	cfg.Socket = filepath.Join(dir, "engine.sock")
	require.NoError(t, os.WriteFile(cfg.Socket, nil, 0o600), "what another engine has left")
	e, err := New(cfg, fakeLauncher{h}, fakeNet{h}, fakeRoots{h})
	require.NoError(t, err)
	require.NoError(t, e.Recover(t.Context()))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoFileExists(t, cfg.Socket)
	})
	ask := Ask{Socket: cfg.Socket}
	eventually(t, func() bool {
		_, err := ask.GC(t.Context(), GCSpec{MarkOnly: true})
		return !NoEngine(err)
	}, "it listens")
	return e, ask
}

func TestLivingEngineRemovesForACommand(t *testing.T) {
	h := newHost(t)
	e, ask := listening(t, h)
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)

	require.ErrorIs(t, ask.RemoveExited(t.Context(), "nope"), errdefs.ErrNotFound)
	require.ErrorIs(t, ask.RemoveExited(t.Context(), id), errdefs.ErrFailedPrecondition)
	require.NoError(t, e.Stop(t.Context(), id, 0))
	c, err := ask.GC(t.Context(), GCSpec{Grace: time.Hour})
	require.NoError(t, err)
	require.Equal(t, Collected{Marked: []ID{id}, Waiting: []ID{id}}, c)
	h.failing("detach", errBoom)
	rec, _ := e.podRecord(id)
	require.NoError(t, os.WriteFile(e.networkPath(id), []byte(`{"version":1,"pod":"`+string(rec.ID)+`"}`), 0o600))
	require.ErrorContains(t, ask.RemoveExited(t.Context(), id), "boom")
	h.failing("detach", nil)
	eventually(t, func() bool { _, left := e.podRecord(id); return !left }, "the engine tries again by itself")
	h.requireNothingLeft()
}

func TestCommandWithoutAnEngineIsTold(t *testing.T) {
	dir := t.TempDir()
	require.True(t, NoEngine(Ask{Socket: dir + "/nope"}.RemoveExited(t.Context(), "a")))
	require.True(t, NoEngine(Ask{Socket: dir + "/nope/nope"}.RemoveExited(t.Context(), "a")))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s", Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	require.True(t, NoEngine(Ask{Socket: dir + "/s"}.RemoveExited(t.Context(), "a")), "one that was killed")
}

func TestCommandEndsWithItsContextBesideAnEngineThatHangs(t *testing.T) {
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path) // accepted by the kernel, answered by nobody
	require.NoError(t, err)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	err = Ask{Socket: path}.RemoveExited(ctx, "a")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.False(t, NoEngine(err))
}

func TestEngineThatGoesAwayIsAnError(t *testing.T) {
	path := t.TempDir() + "/s"
	l, err := net.Listen("unix", path)
	require.NoError(t, err)
	go func() {
		if conn, err := l.Accept(); err == nil {
			conn.Write([]byte(`{"alive":true}`))
			conn.Read(make([]byte, 100))
			conn.Close()
		}
	}()
	defer l.Close()
	err = Ask{Socket: path}.RemoveExited(t.Context(), "a")
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	require.ErrorContains(t, err, "it went away")
	require.False(t, NoEngine(err))
}

func TestUnknownOpIsNotImplemented(t *testing.T) {
	h := newHost(t)
	_, ask := listening(t, h)
	_, err := ask.ask(t.Context(), request{Op: "dance"})
	require.ErrorIs(t, err, errdefs.ErrNotImplemented)
	_, err = ask.ask(t.Context(), request{Op: opGC})
	require.ErrorIs(t, err, errdefs.ErrNotImplemented, "without its member")
}

func TestPanicInACommandIsItsError(t *testing.T) {
	h := newHost(t)
	e := h.rktEngine()
	e.roots = nil
	a := e.do(t.Context(), &request{Op: opGC, GC: &GCSpec{}})
	require.ErrorContains(t, a.err(), "panic: ")
}
