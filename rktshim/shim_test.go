package rktshim

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"go.podman.io/storage/pkg/reexec"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/rundir"
	"github.com/rktnetes/rktshim/transport"
)

func TestMain(m *testing.M) {
	if reexec.Init() {
		return
	}
	goleak.VerifyTestMain(m)
}

// start runs a shim and gives a client of e, or of memory if e is nil.
func start(t *testing.T, cfg Config, e *transport.Endpoint) *grpc.ClientConn {
	t.Helper()
	s, err := New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if e == nil {
		e = s.Endpoint()
	}
	conn, err := e.Client()
	require.NoError(t, err)
	t.Cleanup(func() {
		conn.Close()
		cancel()
		require.NoError(t, <-ended)
	})
	select {
	case <-s.Ready():
	case err := <-ended:
		ended <- nil // for the cleanup
		require.FailNow(t, "the runtime did not start", "%v", err)
	}
	return conn
}

func testConfig(t *testing.T) Config {
	cfg := DefaultConfig()
	cfg.Dir = filepath.Join(t.TempDir(), "rkt")
	cfg.RunDir = t.TempDir()
	cfg.CNIConfDir = t.TempDir()
	return cfg
}

func TestEveryMethodOfCRIIsReachable(t *testing.T) {
	conn := start(t, testConfig(t), nil)
	count := map[string]int{}
	for _, d := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		for _, m := range d.Methods {
			count[d.ServiceName]++
			err := conn.Invoke(t.Context(), "/"+d.ServiceName+"/"+m.MethodName, &runtimeapi.VersionRequest{}, &runtimeapi.VersionResponse{})
			requireBuiltOrSaysSo(t, m.MethodName, err)
		}
		for _, m := range d.Streams {
			count[d.ServiceName]++
			ctx, cancel := context.WithCancel(t.Context())
			st, err := conn.NewStream(ctx, &m, "/"+d.ServiceName+"/"+m.StreamName)
			require.NoError(t, err)
			require.NoError(t, st.SendMsg(&runtimeapi.VersionRequest{}))
			require.NoError(t, st.CloseSend())
			if m.StreamName == "GetContainerEvents" { // it waits for events, and there are none
				cancel()
			}
			requireBuiltOrSaysSo(t, m.StreamName, st.RecvMsg(&runtimeapi.VersionResponse{}))
			cancel()
		}
	}
	require.Equal(t, map[string]int{"runtime.v1.RuntimeService": 35, "runtime.v1.ImageService": 6}, count)
}

// requireBuiltOrSaysSo tells a method that is missing from the server (gRPC says
// "unknown method") from one that is not built.
func requireBuiltOrSaysSo(t *testing.T, method string, err error) {
	t.Helper()
	if st := status.Convert(err); st.Code() == codes.Unimplemented {
		require.Equal(t, method+" is not built yet in rktshim", st.Message())
	}
}

func TestVersionHasTheFourFieldsThatTheKubeletChecks(t *testing.T) {
	c := runtimeapi.NewRuntimeServiceClient(start(t, testConfig(t), nil))

	v, err := c.Version(t.Context(), &runtimeapi.VersionRequest{})

	require.NoError(t, err)
	require.Equal(t, "0.1.0", v.Version)
	require.Equal(t, "rktshim", v.RuntimeName)
	require.Equal(t, Version, v.RuntimeVersion)
	require.Equal(t, "v1", v.RuntimeApiVersion)
}

func TestStatusIsReadyOverTheSocketToo(t *testing.T) {
	cfg := testConfig(t)
	cfg.CRISocket = filepath.Join(t.TempDir(), "cri.sock")
	c := runtimeapi.NewRuntimeServiceClient(start(t, cfg, transport.Unix(cfg.CRISocket)))

	s, err := c.Status(t.Context(), &runtimeapi.StatusRequest{})

	require.NoError(t, err)
	require.Equal(t, map[string]bool{"RuntimeReady": true, "NetworkReady": false}, conditions(s))
}

func conditions(s *runtimeapi.StatusResponse) map[string]bool {
	got := map[string]bool{}
	for _, c := range s.GetStatus().GetConditions() {
		got[c.Type] = c.Status
	}
	return got
}

func TestCgroupDriverFollowsTheInit(t *testing.T) {
	for systemd, want := range map[bool]runtimeapi.CgroupDriver{true: runtimeapi.CgroupDriver_SYSTEMD, false: runtimeapi.CgroupDriver_CGROUPFS} {
		n := &node{systemd: systemd}

		r, err := n.RuntimeConfig(t.Context(), &runtimeapi.RuntimeConfigRequest{})

		require.NoError(t, err)
		require.Equal(t, want, r.GetLinux().GetCgroupDriver())
	}
}

// fakeNetworks is a node's network that a test scripts.
type fakeNetworks struct {
	ready error
	cidrs []netip.Prefix
}

func (f *fakeNetworks) Ready() error                 { return f.ready }
func (f *fakeNetworks) SetPodCIDRs(c []netip.Prefix) { f.cidrs = c }

func TestPodCIDRsReachTheNetworkUnlessOneIsBad(t *testing.T) {
	net := &fakeNetworks{}
	n := &node{networks: net}
	update := func(list string) error {
		_, err := n.UpdateRuntimeConfig(t.Context(), &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: &runtimeapi.RuntimeConfig{
			NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: list}}})
		return err
	}
	require.NoError(t, update("10.100.0.0/24,fd00::/64"))
	require.NoError(t, update(""), "a node without a CIDR")

	err := update("10.1.0.0/24,nonsense")

	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	require.ErrorContains(t, err, `pod_cidr "10.1.0.0/24,nonsense": "nonsense" is no CIDR`)
	require.Equal(t, []netip.Prefix{netip.MustParsePrefix("10.100.0.0/24"), netip.MustParsePrefix("fd00::/64")}, net.cidrs)
}

func TestStatusTellsWhyTheNetworkIsNotReady(t *testing.T) {
	net := &fakeNetworks{ready: errors.New("no configuration in /etc/cni/net.d")}
	n := &node{networks: net, ociRuntime: "/usr/bin/crun", readOnly: true, handlers: func() []string { return []string{"lean"} }}

	s, err := n.Status(t.Context(), &runtimeapi.StatusRequest{Verbose: true})
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"RuntimeReady": true, "NetworkReady": false}, conditions(s))
	require.Equal(t, "no configuration in /etc/cni/net.d", s.Status.Conditions[1].Message)
	require.Equal(t, "/usr/bin/crun", s.Info["ociRuntime"])
	require.Len(t, s.RuntimeHandlers, 2)
	require.Empty(t, s.RuntimeHandlers[0].Name, "the default")
	require.Equal(t, "lean", s.RuntimeHandlers[1].Name)
	require.True(t, s.RuntimeHandlers[1].Features.RecursiveReadOnlyMounts)

	net.ready = nil
	s, err = n.Status(t.Context(), &runtimeapi.StatusRequest{})
	require.NoError(t, err)
	require.Equal(t, map[string]bool{"RuntimeReady": true, "NetworkReady": true}, conditions(s))
	require.Empty(t, s.Info)
}

func TestImageFsInfoHasTheFieldsThatTheKubeletReadsUnchecked(t *testing.T) {
	cfg := testConfig(t)
	c := runtimeapi.NewImageServiceClient(start(t, cfg, nil))

	r, err := c.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})

	require.NoError(t, err)
	for _, fs := range append(r.GetImageFilesystems(), r.GetContainerFilesystems()...) {
		require.NotNil(t, fs.UsedBytes)
		require.NotNil(t, fs.InodesUsed)
		require.Equal(t, filepath.Join(cfg.Dir, "images"), fs.GetFsId().GetMountpoint())
		require.NotZero(t, fs.GetTimestamp())
	}
	require.Len(t, r.GetImageFilesystems(), 1)
}

func TestRunFailsIfTheSocketIsTaken(t *testing.T) {
	cfg := testConfig(t)
	cfg.CRISocket = filepath.Join(t.TempDir(), "cri.sock")
	start(t, cfg, nil)
	cfg.Dir = testConfig(t).Dir
	second, err := New(cfg)
	require.NoError(t, err)

	err = second.Run(t.Context())

	require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
	select {
	case <-second.Ready():
		t.Fatal("it never was ready")
	default:
	}
}

func TestDataFolderHasOneRuntime(t *testing.T) {
	cfg := testConfig(t)
	start(t, cfg, nil)
	second, err := New(cfg)
	require.NoError(t, err)

	err = second.Run(t.Context())

	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "another runtime uses the data folder "+cfg.Dir)
}

func TestRunFailsIfTheDataFolderCannotBeMade(t *testing.T) {
	cfg := testConfig(t)
	require.NoError(t, os.WriteFile(cfg.Dir, nil, 0o600))
	s, err := New(cfg)
	require.NoError(t, err)

	require.ErrorContains(t, s.Run(t.Context()), "make the data folder")
}

// rkt, without flags but for the data folder, must not use another run folder.
func TestRunFolderOfTheNodeIsFoundByItsDataFolder(t *testing.T) {
	real, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(real, link))
	cfg := testConfig(t)
	cfg.Dir = filepath.Join(link, "still/to/be/made")
	c := runtimeapi.NewImageServiceClient(start(t, cfg, nil))

	found, err := rundir.Find(filepath.Join(real, "still/to/be/made"), "")

	require.NoError(t, err)
	require.Equal(t, cfg.RunDir, found.Run)
	require.DirExists(t, filepath.Join(cfg.RunDir, "images"), "it is in use")
	r, err := c.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})
	require.NoError(t, err)
	require.Equal(t, filepath.Join(found.Dir, "images"), r.GetImageFilesystems()[0].GetFsId().GetMountpoint(), "as rkt opens it")
}

func TestRunRefusesARunFolderOtherThanTheRecordedOne(t *testing.T) {
	cfg := testConfig(t)
	start(t, cfg, nil)
	cfg.RunDir = t.TempDir()
	second, err := New(cfg)
	require.NoError(t, err)

	require.ErrorIs(t, second.Run(t.Context()), errdefs.ErrFailedPrecondition)
}

func TestDialBeforeRunWaitsForIt(t *testing.T) {
	s, err := New(testConfig(t))
	require.NoError(t, err)
	conn, err := s.Endpoint().Client()
	require.NoError(t, err)
	defer conn.Close()
	answer := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true))
		answer <- err
	}()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)

	go func() { ended <- s.Run(ctx) }()

	require.NoError(t, <-answer)
	cancel()
	require.NoError(t, <-ended)
}

// A kubelet that takes events holds a stream open for good.
func TestOpenEventStreamDoesNotHoldUpTheShutdown(t *testing.T) {
	cfg := testConfig(t)
	cfg.ShutdownGrace = time.Hour
	s, err := New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	conn, err := s.Endpoint().Client()
	require.NoError(t, err)
	defer conn.Close()
	stream, err := runtimeapi.NewRuntimeServiceClient(conn).GetContainerEvents(t.Context(), &runtimeapi.GetEventsRequest{}, grpc.WaitForReady(true))
	require.NoError(t, err)
	_, err = stream.Header()
	require.NoError(t, err)

	cancel()

	_, err = stream.Recv()
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	require.NoError(t, <-ended)
}
