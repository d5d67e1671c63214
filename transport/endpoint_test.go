package transport

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestACallReachesTheServerOverEachKind(t *testing.T) {
	for name, e := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			s := serve(t, grace, &fake{}, e)

			v, err := s.Version(t.Context(), &runtimeapi.VersionRequest{})

			require.NoError(t, err)
			require.Equal(t, "fake", v.RuntimeName)
		})
	}
}

func TestSeveralEndpointsServeOneServer(t *testing.T) {
	mem, sock := Memory("a"), Unix(filepath.Join(t.TempDir(), "cri.sock"))
	serve(t, grace, &fake{}, mem, sock)

	for _, e := range []*Endpoint{mem, sock} {
		conn, err := e.Client()
		require.NoError(t, err)
		defer conn.Close()
		_, err = runtimeapi.NewRuntimeServiceClient(conn).Version(t.Context(), &runtimeapi.VersionRequest{})
		require.NoError(t, err)
	}
}

func TestDialOfMemoryThatNobodyServesEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()

	_, err := Memory("lonely").Dial(ctx)

	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, "dial memory://lonely")
}

func TestMemoryIsServedOnce(t *testing.T) {
	e := Memory("once")
	l, err := e.Listen()
	require.NoError(t, err)
	defer l.Close()

	_, err = e.Listen()

	require.ErrorContains(t, err, "listen on memory://once: it is being served already")
}

func TestSocketIsPrivateToItsOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new-dir", "cri.sock")
	l, err := Unix(path).Listen()
	require.NoError(t, err)
	defer l.Close()

	fi, err := os.Stat(path)

	require.NoError(t, err)
	require.Equal(t, os.ModeSocket|0o600, fi.Mode())
}

func TestSocketIsRemovedOnCloseButNotAnothersInItsPlace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cri.sock")
	l, err := Unix(path).Listen()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	require.NoFileExists(t, path)

	l, err = Unix(path).Listen()
	require.NoError(t, err)
	require.NoError(t, os.Remove(path))
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, l.Close())
	require.FileExists(t, path)
	require.NoError(t, l.Close(), "a second close does nothing")
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cri.sock")
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	require.NoError(t, err)
	dead.SetUnlinkOnClose(false)
	require.NoError(t, dead.Close())
	require.Error(t, dialRaw(t, path))

	l, err := Unix(path).Listen()

	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, dialRaw(t, path))
}

func TestSecondLiveServerIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cri.sock")
	first, err := Unix(path).Listen()
	require.NoError(t, err)
	defer first.Close()

	_, err = Unix(path).Listen()

	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	require.ErrorContains(t, err, "a live server holds "+path+".lock")
	require.NoError(t, dialRaw(t, path), "the first one goes on")
}

func TestForeignLiveServerIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cri.sock")
	foreign, err := net.Listen("unix", path) // takes no lock of ours
	require.NoError(t, err)
	defer foreign.Close()

	_, err = Unix(path).Listen()

	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	require.ErrorContains(t, err, "another program serves "+path)
	require.NoError(t, dialRaw(t, path))
}

func TestFileThatIsNoSocketIsKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "precious")
	require.NoError(t, os.WriteFile(path, []byte("data"), 0o600))

	_, err := Unix(path).Listen()

	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "data", string(data))
}

func TestBadSocketPathIsRefused(t *testing.T) {
	for _, path := range []string{"", "cri.sock", "/" + strings.Repeat("x", MaxSocketPath)} {
		_, err := Unix(path).Listen()
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, "%q", path)
	}
}

func TestLongestSocketPathWorks(t *testing.T) {
	dir, err := os.MkdirTemp("", "s")
	require.NoError(t, err)
	defer os.RemoveAll(dir)
	path := dir + "/" + strings.Repeat("x", MaxSocketPath-len(dir)-1)

	l, err := Unix(path).Listen()

	require.NoError(t, err)
	defer l.Close()
	require.NoError(t, dialRaw(t, path))
}

func TestListenOpensAllOrNone(t *testing.T) {
	good := filepath.Join(t.TempDir(), "cri.sock")

	_, err := Listen(Unix(good), Unix("relative"))

	require.ErrorContains(t, err, "listen on unix://relative")
	require.NoFileExists(t, good)
}

// A server that is killed leaves its socket and its lock file; the next one
// must take over.
func TestSocketOfAKilledServerIsTakenOver(t *testing.T) {
	if path := os.Getenv("TRANSPORT_TEST_SERVE"); path != "" {
		_, err := Unix(path).Listen()
		require.NoError(t, err)
		os.Stdout.WriteString("listening\n")
		select {}
	}
	path := filepath.Join(t.TempDir(), "cri.sock")
	child := exec.Command("/proc/self/exe", "-test.run=^TestSocketOfAKilledServerIsTakenOver$")
	child.Env = append(os.Environ(), "TRANSPORT_TEST_SERVE="+path)
	out, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	_, err = out.Read(make([]byte, 16))
	require.NoError(t, err)
	_, err = Unix(path).Listen()
	require.ErrorIs(t, err, errdefs.ErrAlreadyExists, "it is alive")
	require.NoError(t, child.Process.Kill())
	child.Wait()

	l, err := Unix(path).Listen()

	require.NoError(t, err)
	require.NoError(t, l.Close())
}
