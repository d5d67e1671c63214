package container

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// fakeApps keeps one pod and its apps in memory.
type fakeApps struct {
	pod    pod.Pod
	place  *pod.Place
	apps   map[pod.AppID]*pod.App
	order  []pod.AppID
	config []byte
	did    []string
	out    pod.ExecOutput
	spec   json.RawMessage // process of the last exec
	change pod.Change      // the last update
	err    error

	usage    pod.Usage
	usageErr map[pod.AppID]error
}

func (f *fakeApps) AppUsage(id pod.AppID) (pod.Usage, error) { return f.usage, f.usageErr[id] }

func (f *fakeApps) Pod(id pod.ID) (pod.Pod, error) {
	if id != f.pod.ID {
		return pod.Pod{}, fmt.Errorf("pod %s: %w", id, errdefs.ErrNotFound)
	}
	return f.pod, nil
}

func (f *fakeApps) App(id pod.AppID) (pod.App, error) {
	if a := f.apps[id]; a != nil {
		return *a, nil
	}
	return pod.App{}, fmt.Errorf("app %s: %w", id, errdefs.ErrNotFound)
}

func (f *fakeApps) Apps(match func(*pod.App) bool) (out []pod.App) {
	for _, id := range f.order {
		if match(f.apps[id]) {
			out = append(out, *f.apps[id])
		}
	}
	return out
}

func (f *fakeApps) AppProcess(pod.AppID) (json.RawMessage, error) {
	var c struct{ Process json.RawMessage }
	return c.Process, json.Unmarshal(f.config, &struct{ Process *json.RawMessage }{&c.Process})
}

func (f *fakeApps) CreateApp(ctx context.Context, id pod.ID, spec pod.AppSpec, configure pod.Configure) (pod.AppID, error) {
	if f.err != nil {
		return "", f.err
	}
	done, err := configure(ctx, *f.place)
	if err != nil {
		return "", err
	}
	f.config, spec.Extra, spec.StopSignal = done.Config, done.Extra, done.StopSignal
	app := pod.AppID(fmt.Sprintf("app-%d", len(f.apps)))
	f.apps[app] = &pod.App{ID: app, Pod: id, Spec: &spec, State: pod.Created, CreatedAt: time.Unix(1700000000, 0)}
	f.order = append(f.order, app)
	return app, nil
}

func (f *fakeApps) note(what string, id pod.AppID) error {
	f.did = append(f.did, what+" "+string(id))
	return f.err
}

func (f *fakeApps) StartApp(_ context.Context, id pod.AppID) error { return f.note("start", id) }
func (f *fakeApps) StopApp(_ context.Context, id pod.AppID, grace time.Duration) error {
	return f.note("stop "+grace.String(), id)
}
func (f *fakeApps) RemoveApp(_ context.Context, id pod.AppID) error { return f.note("remove", id) }
func (f *fakeApps) ReopenLog(_ context.Context, id pod.AppID) error { return f.note("reopen", id) }

func (f *fakeApps) UpdateApp(_ context.Context, id pod.AppID, change func(*pod.AppSpec) (pod.Change, error)) error {
	a, err := f.App(id)
	if err != nil || f.err != nil {
		return f.err
	}
	f.change, err = change(a.Spec)
	f.apps[id].Spec.Extra = f.change.Extra
	return err
}

func (f *fakeApps) ExecSync(_ context.Context, _ pod.AppID, process []byte, _ time.Duration, _ int) (pod.ExecOutput, error) {
	f.spec = process
	return f.out, f.err
}

type fakeImages struct{}

func (fakeImages) Layer(id pod.AppID) (Layer, bool) {
	return Layer{Mountpoint: "/images", Bytes: 4096, Inodes: 2, Measured: time.Unix(1700000100, 0)}, id == "app-0"
}

func (fakeImages) ContainerImage(_ context.Context, ref string) (Image, error) {
	if ref != "busybox" {
		return Image{}, fmt.Errorf("image %s: %w", ref, errdefs.ErrNotFound)
	}
	return Image{ID: "sha256:1", Ref: "busybox@sha256:2", Cmd: []string{"sh"}, StopSignal: "SIGINT"}, nil
}

func newService(t testing.TB) (*Service, *fakeApps) {
	place := testPlace(t)
	f := &fakeApps{pod: pod.Pod{ID: "p1", State: pod.Running, Spec: &pod.Spec{Flavor: "lean", LogDir: "/var/log/pods/x"}}, place: place, apps: map[pod.AppID]*pod.App{}}
	return New(*testNode(), f, fakeImages{}), f
}

func createRequest() *runtimeapi.CreateContainerRequest {
	r := testRequest()
	r.config.LogPath = "web/0.log"
	r.config.Labels, r.config.Annotations = map[string]string{"l": "1"}, map[string]string{"a": "2"}
	r.config.Linux.Resources = &runtimeapi.LinuxContainerResources{CpuShares: 2, MemoryLimitInBytes: 64, OomScoreAdj: 5}
	return &runtimeapi.CreateContainerRequest{PodSandboxId: "p1", Config: r.config, SandboxConfig: r.sandbox}
}

func TestStatusTellsWhatWasAskedAndWhatBecameOfIt(t *testing.T) {
	s, f := newService(t)
	req := createRequest()
	dir := t.TempDir()
	req.Config.Mounts = []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/data", Readonly: true}}
	req.Config.Image = &runtimeapi.ImageSpec{Image: "busybox", Annotations: map[string]string{"i": "3"}, RuntimeHandler: "lean", ImageRef: "sha256:1"}
	created, err := s.CreateContainer(t.Context(), req)
	require.NoError(t, err)
	status := func() *runtimeapi.ContainerStatus {
		resp, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: created.ContainerId, Verbose: true})
		require.NoError(t, err)
		require.Contains(t, resp.Info["info"], "p1")
		return resp.Status
	}

	st := status()

	require.Equal(t, runtimeapi.ContainerState_CONTAINER_CREATED, st.State)
	require.Equal(t, req.Config.Metadata.String(), st.Metadata.String())
	require.Equal(t, "/var/log/pods/x/web/0.log", st.LogPath)
	require.Equal(t, req.Config.Labels, st.Labels)
	require.Equal(t, req.Config.Annotations, st.Annotations)
	require.Equal(t, req.Config.Image.String(), st.Image.String())
	require.Equal(t, "sha256:1", st.ImageId)
	require.Equal(t, "busybox@sha256:2", st.ImageRef)
	require.Equal(t, req.Config.Mounts[0].String(), st.Mounts[0].String())
	require.Equal(t, req.Config.Linux.Resources.String(), st.Resources.Linux.String())
	require.Equal(t, []int64{0}, st.User.Linux.SupplementalGroups)
	require.Equal(t, runtimeapi.Signal_SIGINT, st.StopSignal)
	for _, c := range []struct {
		exit   pod.Exit
		reason string
	}{{pod.Exit{}, "Completed"}, {pod.Exit{Code: 1}, "Error"}, {pod.Exit{Code: 137, OOMKilled: true}, "OOMKilled"}} {
		c.exit.FinishedAt = time.Unix(1700000005, 0)
		f.apps["app-0"].State, f.apps["app-0"].Exit = pod.Exited, &c.exit
		st = status()
		require.Equal(t, runtimeapi.ContainerState_CONTAINER_EXITED, st.State)
		require.Equal(t, c.reason, st.Reason)
		require.Equal(t, int32(c.exit.Code), st.ExitCode)
		require.Equal(t, int64(1700000005e9), st.FinishedAt)
	}
	_, err = s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "nope"})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
}

func TestWhatIsImpossibleOrNotBuiltIsRefusedByItsField(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	for field, change := range map[string]func(*runtimeapi.CreateContainerRequest, *sc){
		"windows": func(r *runtimeapi.CreateContainerRequest, _ *sc) {
			r.Config.Windows = &runtimeapi.WindowsContainerConfig{}
		},
		"userns_options": func(_ *runtimeapi.CreateContainerRequest, s *sc) {
			s.NamespaceOptions.UsernsOptions = &runtimeapi.UserNamespace{Mode: runtimeapi.NamespaceMode_POD}
		},
		"uidMappings": func(r *runtimeapi.CreateContainerRequest, _ *sc) {
			r.Config.Mounts = []*runtimeapi.Mount{{HostPath: "/tmp", ContainerPath: "/x", UidMappings: []*runtimeapi.IDMapping{{Length: 1}}}}
		},
		"mounts[0] (/x).image": func(r *runtimeapi.CreateContainerRequest, _ *sc) {
			r.Config.Mounts = []*runtimeapi.Mount{{ContainerPath: "/x", Image: &runtimeapi.ImageSpec{Image: "busybox"}}}
		},
		"pod nope":      func(r *runtimeapi.CreateContainerRequest, _ *sc) { r.PodSandboxId = "nope" },
		"metadata.name": func(r *runtimeapi.CreateContainerRequest, _ *sc) { r.Config.Metadata.Name = "" },
		"image.image":   func(r *runtimeapi.CreateContainerRequest, _ *sc) { r.Config.Image = nil },
		"image other":   func(r *runtimeapi.CreateContainerRequest, _ *sc) { r.Config.Image.Image = "other" },
		"log_path":      func(r *runtimeapi.CreateContainerRequest, _ *sc) { r.Config.LogPath = "../../etc/x" },
		"privileged":    func(_ *runtimeapi.CreateContainerRequest, s *sc) { s.Privileged = true },
		"selinux_options": func(_ *runtimeapi.CreateContainerRequest, s *sc) {
			s.SelinuxOptions = &runtimeapi.SELinuxOption{Level: "s0"}
		},
		"apparmor": func(_ *runtimeapi.CreateContainerRequest, s *sc) { s.Apparmor = &runtimeapi.SecurityProfile{} },
		//lint:ignore SA1019 what stands in the old fields must not be ignored
		"seccomp_profile_path": func(_ *runtimeapi.CreateContainerRequest, s *sc) { s.SeccompProfilePath = "localhost/x" },
		//lint:ignore SA1019 as above
		"apparmor_profile": func(_ *runtimeapi.CreateContainerRequest, s *sc) { s.ApparmorProfile = "runtime/default" },
		"target_id": func(_ *runtimeapi.CreateContainerRequest, s *sc) {
			s.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "nope"}
		},
		"CDI_devices": func(r *runtimeapi.CreateContainerRequest, _ *sc) {
			r.Config.CDIDevices = []*runtimeapi.CDIDevice{{Name: "x"}}
		},
	} {
		s, f := newService(t)
		req := createRequest()
		change(req, req.Config.Linux.SecurityContext)

		_, err := s.CreateContainer(t.Context(), req)

		require.ErrorContains(t, err, field)
		require.Empty(t, f.apps, field)
	}
}

func TestTargetMustRunInTheSamePod(t *testing.T) {
	s, f := newService(t)
	_, err := s.CreateContainer(t.Context(), createRequest())
	require.NoError(t, err)
	req := createRequest()
	req.Config.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: "app-0"}
	_, err = s.CreateContainer(t.Context(), req)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	f.apps["app-0"].State = pod.Running
	f.apps["app-0"].Pod = "other"
	_, err = s.CreateContainer(t.Context(), req)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	f.apps["app-0"].Pod = "p1"

	resp, err := s.CreateContainer(t.Context(), req)

	require.NoError(t, err)
	require.Equal(t, pod.AppID("app-0"), f.apps[pod.AppID(resp.ContainerId)].Spec.PIDOf)
}

func TestFlyContainerMustBePrivileged(t *testing.T) {
	s, f := newService(t)
	f.pod.Spec.Flavor = "fly"
	_, err := s.CreateContainer(t.Context(), createRequest())
	require.ErrorContains(t, err, "privileged")
}

func TestListFilters(t *testing.T) {
	s, f := newService(t)
	for range 2 {
		_, err := s.CreateContainer(t.Context(), createRequest())
		require.NoError(t, err)
	}
	f.apps["app-1"].State = pod.Running
	running := &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}
	for _, c := range []struct {
		filter *runtimeapi.ContainerFilter
		want   []string
	}{
		{nil, []string{"app-0", "app-1"}},
		{&runtimeapi.ContainerFilter{Id: "app-0"}, []string{"app-0"}},
		{&runtimeapi.ContainerFilter{PodSandboxId: "other"}, nil},
		{&runtimeapi.ContainerFilter{State: running}, []string{"app-1"}},
		{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"l": "1"}}, []string{"app-0", "app-1"}},
		{&runtimeapi.ContainerFilter{LabelSelector: map[string]string{"l": "2"}}, nil},
	} {
		resp, err := s.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{Filter: c.filter})
		require.NoError(t, err)
		var got []string
		for _, item := range resp.Containers {
			require.Equal(t, "sha256:1", item.ImageId)
			got = append(got, item.Id)
		}
		require.Equal(t, c.want, got)
	}
}

// sentContainers collects what is streamed.
type sentContainers struct {
	grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]
	sizes []int
	err   error
}

func (s *sentContainers) Send(r *runtimeapi.StreamContainersResponse) error {
	s.sizes = append(s.sizes, len(r.Containers))
	return s.err
}

func TestStreamSendsEachContainerOnce(t *testing.T) {
	s, _ := newService(t)
	for range batch + 1 {
		_, err := s.CreateContainer(t.Context(), createRequest())
		require.NoError(t, err)
	}
	stream := &sentContainers{}
	require.NoError(t, s.StreamContainers(&runtimeapi.StreamContainersRequest{}, stream))
	require.Equal(t, []int{batch, 1}, stream.sizes)
	require.ErrorIs(t, s.StreamContainers(&runtimeapi.StreamContainersRequest{}, &sentContainers{err: os.ErrClosed}), os.ErrClosed)
}

func TestUpdatedResourcesAreToldByStatus(t *testing.T) {
	s, f := newService(t)
	_, err := s.CreateContainer(t.Context(), createRequest())
	require.NoError(t, err)

	_, err = s.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: "app-0",
		Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 128}})

	require.NoError(t, err)
	require.JSONEq(t, `{"memory":{"limit":128}}`, string(f.change.Resources))
	require.JSONEq(t, `{"cpu":{"shares":2},"memory":{"limit":64}}`, string(f.change.Before), "what to go back to")
	st, err := s.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "app-0"})
	require.NoError(t, err)
	require.Equal(t, int64(128), st.Status.Resources.Linux.MemoryLimitInBytes)
	require.Equal(t, int64(2), st.Status.Resources.Linux.CpuShares, "what was not named stays")
	_, err = s.UpdateContainerResources(t.Context(), &runtimeapi.UpdateContainerResourcesRequest{ContainerId: "app-0",
		Linux: &runtimeapi.LinuxContainerResources{Unified: map[string]string{"a": "b"}}})
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
}

// The kernel counts memory and swap as one, so that cannot stay where memory grows.
func TestSwapFollowsMemory(t *testing.T) {
	const mb = 1 << 20
	for name, c := range map[string]struct{ old, asked, swap int64 }{
		"none allowed":    {old: 64 * mb, asked: 96 * mb, swap: 96 * mb},
		"some allowed":    {old: 100 * mb, asked: 96 * mb, swap: 132 * mb},
		"without a limit": {old: -1, asked: 96 * mb, swap: 0},
		"not set":         {old: 0, asked: 96 * mb, swap: 0},
		"memory stays":    {old: 64 * mb, asked: 0, swap: 0},
	} {
		old := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 64 * mb, MemorySwapLimitInBytes: c.old}
		asked := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: c.asked}
		require.Equal(t, c.swap, withSwap(old, asked).MemorySwapLimitInBytes, name)
		require.Zero(t, asked.MemorySwapLimitInBytes, "the request is the caller's")
	}
	asked := &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: mb, MemorySwapLimitInBytes: 3 * mb}
	require.Same(t, asked, withSwap(&runtimeapi.LinuxContainerResources{MemoryLimitInBytes: mb, MemorySwapLimitInBytes: mb}, asked))
}

func TestCallsReachTheEngineAndItsErrorsComeBack(t *testing.T) {
	s, f := newService(t)
	call := func() []error {
		_, e1 := s.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: "a"})
		_, e2 := s.StopContainer(t.Context(), &runtimeapi.StopContainerRequest{ContainerId: "a", Timeout: 3})
		_, e3 := s.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: "a"})
		_, e4 := s.ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: "a"})
		return []error{e1, e2, e3, e4}
	}
	require.Equal(t, make([]error, 4), call())
	require.Equal(t, []string{"start a", "stop 3s a", "remove a", "reopen a"}, f.did)
	f.err = os.ErrClosed
	for _, err := range call() {
		require.ErrorIs(t, err, os.ErrClosed)
	}
}

func TestExecRunsAnotherCommandAsTheContainersOwn(t *testing.T) {
	s, f := newService(t)
	req := createRequest()
	req.Config.Tty = true
	req.Config.Linux.SecurityContext.RunAsUser = &runtimeapi.Int64Value{Value: 33}
	_, err := s.CreateContainer(t.Context(), req)
	require.NoError(t, err)
	f.out = pod.ExecOutput{Stdout: []byte("o"), Stderr: []byte("e"), Exit: pod.Exit{Code: 4}}

	resp, err := s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: "app-0", Cmd: []string{"true"}, Timeout: 1})

	require.NoError(t, err)
	require.Equal(t, int32(4), resp.ExitCode)
	require.Equal(t, "oe", string(resp.Stdout)+string(resp.Stderr))
	var p specs.Process
	require.NoError(t, json.Unmarshal(f.spec, &p))
	require.Equal(t, []string{"true"}, p.Args)
	require.False(t, p.Terminal)
	require.Equal(t, uint32(33), p.User.UID)
	for _, bad := range []*runtimeapi.ExecSyncRequest{{ContainerId: "app-0"}, {ContainerId: "app-0", Cmd: []string{"x"}, Timeout: -1}} {
		_, err = s.ExecSync(t.Context(), bad)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
	_, err = s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: "nope", Cmd: []string{"x"}})
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	f.err = context.DeadlineExceeded
	_, err = s.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: "app-0", Cmd: []string{"x"}})
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestExecOutputFitsIntoOneMessage(t *testing.T) {
	full, small := make([]byte, 16<<20), make([]byte, 10)
	for _, c := range [][2][]byte{{full, full}, {full, small}, {small, full}, {small, small}} {
		a, b := fit(c[0], c[1])
		require.LessOrEqual(t, len(a)+len(b), execAnswerLimit)
		require.GreaterOrEqual(t, len(a), min(len(c[0]), execAnswerLimit/2))
		require.GreaterOrEqual(t, len(b), min(len(c[1]), execAnswerLimit/2))
	}
}
