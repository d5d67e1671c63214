package container

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// testNode has a few capabilities, cgroup v1 and nothing special.
func testNode() *Node {
	return &Node{Capabilities: append(slices.Clone(defaultCaps), "CAP_NET_ADMIN"), OOMScoreMin: -1000, RecursiveReadOnly: true}
}

func testPlace(t testing.TB) *pod.Place {
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "etc"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\nweb:x:33:34::/:/bin/sh\n"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(root, "etc/group"), []byte("root:x:0:\nweb:x:34:\nextra:x:50:web\n"), 0o644))
	return &pod.Place{
		Pod: pod.Pod{ID: "p1", Spec: &pod.Spec{Flavor: "lean", Hostname: "web"}}, App: "a1", Root: root, Cgroup: "/k8s_p1/a1",
		Namespace:  func(kind pod.NamespaceKind) string { return "/run/ns/" + string(kind) },
		ResolvConf: "/pods/p1/resolv.conf", Shm: "/run/p1/shm",
	}
}

func testRequest() *request {
	return &request{
		config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: "web", Attempt: 1},
			Image:    &runtimeapi.ImageSpec{Image: "busybox"},
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
		},
		sandbox: &runtimeapi.PodSandboxConfig{},
		image:   Image{ID: "sha256:1", Ref: "busybox@sha256:2", Cmd: []string{"sh"}},
	}
}

func TestArgsMergeWithTheImages(t *testing.T) {
	image := &Image{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}}
	for _, c := range []struct{ command, args, want []string }{
		{nil, nil, []string{"entry", "cmd"}},
		{nil, []string{"a"}, []string{"entry", "a"}},
		{[]string{"c"}, nil, []string{"c"}},
		{[]string{"c"}, []string{"a"}, []string{"c", "a"}},
	} {
		got, err := args(&runtimeapi.ContainerConfig{Command: c.command, Args: c.args}, image)
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
	_, err := args(&runtimeapi.ContainerConfig{}, &Image{})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestEnvOfTheContainerWinsOverTheImages(t *testing.T) {
	config := &runtimeapi.ContainerConfig{Tty: true, Envs: []*runtimeapi.KeyValue{{Key: "A", Value: []byte("2")}, {Key: "B", Value: []byte("x=y")}}}

	got, err := env(config, &Image{Env: []string{"A=1", "PATH=/bin", "junk"}}, "h")

	require.NoError(t, err)
	require.Equal(t, []string{"PATH=/bin", "TERM=xterm", "HOSTNAME=h", "A=2", "B=x=y"}, got)
	for _, key := range []string{"", "A=B", "A\x00"} {
		_, err = env(&runtimeapi.ContainerConfig{Envs: []*runtimeapi.KeyValue{{Key: key}}}, &Image{}, "")
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
}

func TestWorkingDirIsTheContainersOrTheImagesOrTheRoot(t *testing.T) {
	for _, c := range []struct{ config, image, want string }{{"", "", "/"}, {"", "/i", "/i"}, {"/c/", "/i", "/c"}} {
		got, err := cwd(&runtimeapi.ContainerConfig{WorkingDir: c.config}, &Image{WorkingDir: c.image})
		require.NoError(t, err)
		require.Equal(t, c.want, got)
	}
	_, err := cwd(&runtimeapi.ContainerConfig{WorkingDir: "rel"}, &Image{})
	require.ErrorContains(t, err, "working_dir")
}

func TestUser(t *testing.T) {
	type sc = runtimeapi.LinuxContainerSecurityContext
	id := func(v int64) *runtimeapi.Int64Value { return &runtimeapi.Int64Value{Value: v} }
	strict := runtimeapi.SupplementalGroupsPolicy_Strict
	root := testPlace(t).Root
	for name, c := range map[string]struct {
		sc    *sc
		image string
		want  specs.User
		err   string
	}{
		"root by default":            {sc: &sc{}, want: specs.User{AdditionalGids: []uint32{0}}},
		"the image's by name":        {sc: &sc{}, image: "web", want: specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{34, 50}}},
		"the image's with group":     {sc: &sc{}, image: "web:root", want: specs.User{UID: 33, AdditionalGids: []uint32{0}}},
		"by number, listed":          {sc: &sc{RunAsUser: id(33)}, want: specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{34, 50}}},
		"by number, not listed":      {sc: &sc{RunAsUser: id(1000)}, want: specs.User{UID: 1000, AdditionalGids: []uint32{0}}},
		"by number with group":       {sc: &sc{RunAsUser: id(1000), RunAsGroup: id(7)}, want: specs.User{UID: 1000, GID: 7, AdditionalGids: []uint32{7}}},
		"by name":                    {sc: &sc{RunAsUsername: "web"}, want: specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{34, 50}}},
		"supplemental, merged":       {sc: &sc{RunAsUser: id(33), SupplementalGroups: []int64{60}}, want: specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{34, 50, 60}}},
		"supplemental, strict":       {sc: &sc{RunAsUser: id(33), SupplementalGroups: []int64{60}, SupplementalGroupsPolicy: strict}, want: specs.User{UID: 33, GID: 34, AdditionalGids: []uint32{34, 60}}},
		"name and number":            {sc: &sc{RunAsUser: id(1), RunAsUsername: "web"}, err: "run_as_username"},
		"group alone":                {sc: &sc{RunAsGroup: id(1)}, err: "run_as_group"},
		"group alone, image's user":  {sc: &sc{RunAsGroup: id(1)}, image: "web", err: "run_as_group"},
		"name that is not there":     {sc: &sc{RunAsUsername: "nobody"}, err: "run_as_username"},
		"name that is a number":      {sc: &sc{RunAsUsername: "33"}, err: "run_as_username"},
		"image's user not there":     {sc: &sc{}, image: "nobody", err: "the image's user"},
		"negative user":              {sc: &sc{RunAsUser: id(-1)}, err: "run_as_user"},
		"negative group":             {sc: &sc{RunAsUser: id(1), RunAsGroup: id(-1)}, err: "run_as_group"},
		"negative supplemental":      {sc: &sc{SupplementalGroups: []int64{-1}}, err: "supplemental_groups"},
		"policy that nobody defined": {sc: &sc{SupplementalGroupsPolicy: 9}, err: "supplemental_groups_policy"},
	} {
		got, err := userOf(c.sc, &Image{User: c.image}, root)
		if c.err != "" {
			require.ErrorContains(t, err, c.err, name)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, c.want, got, name)
	}
}

func TestPasswdIsNotReadFromOutsideOfTheRoot(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(root, "etc"), 0o755))
	require.NoError(t, os.Symlink("/etc/passwd", filepath.Join(root, "etc/passwd")))
	_, err := userOf(&runtimeapi.LinuxContainerSecurityContext{RunAsUsername: "daemon"}, &Image{}, root)
	require.Error(t, err, "the host has a daemon, the image has none")
}

func TestCapabilities(t *testing.T) {
	n := testNode()
	all := slices.Sorted(slices.Values(n.Capabilities))
	for name, c := range map[string]struct {
		add, drop, ambient []string
		privileged         bool
		want, wantAmbient  []string
		err                string
	}{
		"the default":             {want: slices.Sorted(slices.Values(defaultCaps))},
		"privileged":              {privileged: true, drop: []string{"ALL"}, want: all},
		"all is what there is":    {add: []string{"all"}, want: all},
		"none":                    {drop: []string{"ALL"}, want: []string{}},
		"none but":                {drop: []string{"ALL"}, add: []string{"net_admin"}, want: []string{"CAP_NET_ADMIN"}},
		"all but":                 {add: []string{"ALL"}, drop: []string{"CAP_NET_ADMIN"}, want: slices.Sorted(slices.Values(defaultCaps))},
		"ambient":                 {drop: []string{"ALL"}, ambient: []string{"NET_RAW"}, want: []string{"CAP_NET_RAW"}, wantAmbient: []string{"CAP_NET_RAW"}},
		"one that is not there":   {add: []string{"SYS_ADMIN"}, err: "bounding set"},
		"one that no kernel has":  {add: []string{"SYS_MAGIC"}, err: "add_capabilities"},
		"drop of what nobody has": {drop: []string{"SYS_MAGIC"}, err: "drop_capabilities"},
	} {
		got, err := n.capabilities(&runtimeapi.Capability{AddCapabilities: c.add, DropCapabilities: c.drop, AddAmbientCapabilities: c.ambient}, c.privileged)
		if c.err != "" {
			require.ErrorContains(t, err, c.err, name)
			continue
		}
		require.NoError(t, err, name)
		require.ElementsMatch(t, c.want, got.Bounding, name)
		require.ElementsMatch(t, c.want, got.Effective, name)
		require.ElementsMatch(t, c.wantAmbient, got.Ambient, name)
		require.ElementsMatch(t, c.wantAmbient, got.Inheritable, name)
	}
}

func TestSeccomp(t *testing.T) {
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}, Linux: &specs.Linux{}}
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.json"), filepath.Join(dir, "bad.json")
	require.NoError(t, os.WriteFile(good, []byte(`{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir"],"action":"SCMP_ACT_ERRNO"}]}`), 0o600))
	require.NoError(t, os.WriteFile(bad, []byte(`{`), 0o600))
	profile := func(kind runtimeapi.SecurityProfile_ProfileType, ref string) *runtimeapi.SecurityProfile {
		return &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}

	def, err := seccompOf(profile(runtimeapi.SecurityProfile_RuntimeDefault, ""), spec, false)
	require.NoError(t, err)
	require.Equal(t, specs.ActErrno, def.DefaultAction)
	own, err := seccompOf(profile(runtimeapi.SecurityProfile_Localhost, good), spec, false)
	require.NoError(t, err)
	require.Equal(t, []string{"mkdir"}, own.Syscalls[0].Names)
	for _, p := range []*runtimeapi.SecurityProfile{nil, profile(runtimeapi.SecurityProfile_Unconfined, "")} {
		none, err := seccompOf(p, spec, false)
		require.NoError(t, err)
		require.Nil(t, none)
	}
	none, err := seccompOf(profile(runtimeapi.SecurityProfile_RuntimeDefault, ""), spec, true)
	require.NoError(t, err)
	require.Nil(t, none, "privileged")
	_, err = seccompOf(profile(runtimeapi.SecurityProfile_Localhost, dir+"/absent"), spec, false)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	for _, ref := range []string{"relative", bad} {
		_, err = seccompOf(profile(runtimeapi.SecurityProfile_Localhost, ref), spec, false)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, "localhost_ref")
	}
	_, err = seccompOf(profile(9, ""), spec, false)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestMounts(t *testing.T) {
	n, dir := testNode(), t.TempDir()
	require.NoError(t, os.Symlink(dir, dir+"/link"))
	shared := t.TempDir()
	require.NoError(t, unix.Mount("rktt-container", shared, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(shared, unix.MNT_DETACH)) })
	require.NoError(t, unix.Mount("", shared, "", unix.MS_SHARED, ""))
	private := t.TempDir()
	require.NoError(t, unix.Mount("rktt-container", private, "tmpfs", 0, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(private, unix.MNT_DETACH)) })
	require.NoError(t, unix.Mount("", private, "", unix.MS_PRIVATE, ""))
	h2c, both := runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
	ids := []*runtimeapi.IDMapping{{Length: 1}}
	for name, c := range map[string]struct {
		m       *runtimeapi.Mount
		options []string
		root    string
		err     string
		class   error
	}{
		"plain":                {m: &runtimeapi.Mount{HostPath: dir}, options: []string{"rbind", "rprivate", "rw"}},
		"link is followed":     {m: &runtimeapi.Mount{HostPath: dir + "/link"}, options: []string{"rbind", "rprivate", "rw"}},
		"read-only":            {m: &runtimeapi.Mount{HostPath: dir, Readonly: true}, options: []string{"rbind", "rprivate", "ro"}},
		"recursive read-only":  {m: &runtimeapi.Mount{HostPath: dir, Readonly: true, RecursiveReadOnly: true}, options: []string{"rbind", "rprivate", "rro"}},
		"from the host":        {m: &runtimeapi.Mount{HostPath: shared, Propagation: h2c}, options: []string{"rbind", "rslave", "rw"}, root: "rslave"},
		"both ways":            {m: &runtimeapi.Mount{HostPath: shared, Propagation: both}, options: []string{"rbind", "rshared", "rw"}, root: "rshared"},
		"recursive alone":      {m: &runtimeapi.Mount{HostPath: dir, RecursiveReadOnly: true}, err: "recursive_read_only", class: errdefs.ErrInvalidArgument},
		"recursive, not alone": {m: &runtimeapi.Mount{HostPath: shared, Readonly: true, RecursiveReadOnly: true, Propagation: h2c}, err: "recursive_read_only", class: errdefs.ErrInvalidArgument},
		"private, both ways":   {m: &runtimeapi.Mount{HostPath: private, Propagation: both}, err: "is not shared", class: errdefs.ErrInvalidArgument},
		"private, from host":   {m: &runtimeapi.Mount{HostPath: private, Propagation: h2c}, err: "neither shared nor a slave", class: errdefs.ErrInvalidArgument},
		"absent":               {m: &runtimeapi.Mount{HostPath: dir + "/absent"}, err: "host_path", class: errdefs.ErrNotFound},
		"relative":             {m: &runtimeapi.Mount{HostPath: "x"}, err: "host_path", class: errdefs.ErrInvalidArgument},
		"nowhere":              {m: &runtimeapi.Mount{HostPath: dir, ContainerPath: "x"}, err: "container_path", class: errdefs.ErrInvalidArgument},
		"over the root":        {m: &runtimeapi.Mount{HostPath: dir, ContainerPath: "/."}, err: "container_path", class: errdefs.ErrInvalidArgument},
		"an image":             {m: &runtimeapi.Mount{Image: &runtimeapi.ImageSpec{Image: "i"}}, err: "image volumes", class: errdefs.ErrNotImplemented},
		"id-mapped":            {m: &runtimeapi.Mount{HostPath: dir, UidMappings: ids}, err: "user namespaces", class: errdefs.ErrNotImplemented},
	} {
		if c.m.ContainerPath == "" {
			c.m.ContainerPath = "/data"
		}
		mounts, root, err := n.withAsked(nil, &runtimeapi.ContainerConfig{Mounts: []*runtimeapi.Mount{c.m}})
		if c.err != "" {
			require.ErrorContains(t, err, c.err, name)
			require.ErrorIs(t, err, c.class, name)
			require.ErrorContains(t, err, "mounts[0]", name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, c.options, mounts[0].Options, name)
		require.Equal(t, c.root, root, name)
		require.NotContains(t, mounts[0].Source, "link", name)
	}
	n.RecursiveReadOnly = false
	_, err := n.mount("mounts[0]", &runtimeapi.Mount{HostPath: dir, ContainerPath: "/d", Readonly: true, RecursiveReadOnly: true})
	require.ErrorContains(t, err, "RROUnsupported")
}

func TestMountAskedForReplacesOursAndOuterOnesComeFirst(t *testing.T) {
	n, dir := testNode(), t.TempDir()
	place := testPlace(t)
	asked := []*runtimeapi.Mount{{HostPath: dir, ContainerPath: "/etc/resolv.conf"}, {HostPath: dir, ContainerPath: "/a/b"}, {HostPath: dir, ContainerPath: "/a"}}

	mounts, _, err := n.withAsked(baseMounts(place, false, false), &runtimeapi.ContainerConfig{Mounts: asked})

	require.NoError(t, err)
	at := map[string]int{}
	for i, m := range mounts {
		require.NotContains(t, at, m.Destination)
		at[m.Destination] = i
	}
	require.Equal(t, dir, mounts[at["/etc/resolv.conf"]].Source)
	require.Less(t, at["/a"], at["/a/b"])
	require.Less(t, at["/dev"], at["/dev/shm"])
	_, _, err = n.withAsked(nil, &runtimeapi.ContainerConfig{Mounts: append(asked, asked[0])})
	require.ErrorContains(t, err, "mounts[3]")
}

func TestVolumesOfTheImageAreItsRootsFolders(t *testing.T) {
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "var/data"), 0o700))
	require.NoError(t, os.Symlink("/var/data", filepath.Join(root, "link")))
	require.NoError(t, os.Symlink("/../../../etc", filepath.Join(root, "out")))
	base := []specs.Mount{{Destination: "/proc"}}

	got, err := withVolumes(base, &Image{Volumes: []string{"/var/data/", "link", "/new/one", "/proc", "/", "out/rktt"}}, root)

	require.NoError(t, err)
	at := map[string]string{}
	for _, m := range got[1:] {
		at[m.Destination] = m.Source
		require.DirExists(t, m.Source)
		require.Equal(t, []string{"rbind", "rprivate", "rw"}, m.Options)
	}
	require.Equal(t, map[string]string{"/var/data": root + "/var/data", "/link": root + "/var/data",
		"/new/one": root + "/new/one", "/out/rktt": root + "/etc/rktt"}, at, "none leads out of the root")
	require.NoError(t, os.WriteFile(filepath.Join(root, "file"), nil, 0o600))
	_, err = withVolumes(base, &Image{Volumes: []string{"/file"}}, root)
	require.ErrorContains(t, err, "volume /file")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)

	mounts, _, err := testNode().withAsked(got, &runtimeapi.ContainerConfig{Mounts: []*runtimeapi.Mount{{HostPath: root, ContainerPath: "/var/data"}}})
	require.NoError(t, err)
	i := slices.IndexFunc(mounts, func(m specs.Mount) bool { return m.Destination == "/var/data" })
	require.Equal(t, root, mounts[i].Source, "what is asked for wins")
}

func TestDevices(t *testing.T) {
	set := func(d []*runtimeapi.Device, privileged bool) (*specs.Spec, error) {
		spec := &specs.Spec{Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
		return spec, setDevices(spec, &runtimeapi.ContainerConfig{Devices: d}, privileged, false)
	}
	spec, err := set([]*runtimeapi.Device{{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "rw"}}, false)
	require.NoError(t, err)
	require.Equal(t, "/dev/x", spec.Linux.Devices[0].Path)
	require.Equal(t, int64(3), spec.Linux.Devices[0].Minor)
	require.False(t, spec.Linux.Resources.Devices[0].Allow, "all others are forbidden")
	require.Equal(t, "rw", spec.Linux.Resources.Devices[1].Access)

	spec, err = set(nil, true)
	require.NoError(t, err)
	require.True(t, slices.ContainsFunc(spec.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == "/dev/null" }))
	require.True(t, spec.Linux.Resources.Devices[0].Allow)

	for name, d := range map[string]*runtimeapi.Device{
		"does not exist": {HostPath: "/dev/absent", ContainerPath: "/dev/x", Permissions: "r"},
		"is no device":   {HostPath: t.TempDir(), ContainerPath: "/dev/x", Permissions: "r"},
		"permissions":    {HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "x"},
		"absolute":       {HostPath: "null", ContainerPath: "/dev/x", Permissions: "r"},
	} {
		_, err := set([]*runtimeapi.Device{d}, false)
		require.ErrorContains(t, err, name)
	}
	err = setDevices(nil, &runtimeapi.ContainerConfig{CDIDevices: []*runtimeapi.CDIDevice{{Name: "a/b=c"}}}, false, false)
	require.ErrorIs(t, err, errdefs.ErrNotImplemented)
}

func TestNamespaces(t *testing.T) {
	n, place := testNode(), testPlace(t)
	place.TargetPID = "/run/ns/pid-a1"
	pidOf := func(mode runtimeapi.NamespaceMode) (path string, own bool) {
		for _, ns := range n.namespaces(&runtimeapi.NamespaceOption{Pid: mode}, place, false) {
			if ns.Type == specs.PIDNamespace {
				return ns.Path, true
			}
		}
		return "", false
	}
	for mode, want := range map[runtimeapi.NamespaceMode]string{
		runtimeapi.NamespaceMode_POD: "/run/ns/pid", runtimeapi.NamespaceMode_CONTAINER: "", runtimeapi.NamespaceMode_TARGET: "/run/ns/pid-a1"} {
		path, own := pidOf(mode)
		require.True(t, own)
		require.Equal(t, want, path)
	}
	_, own := pidOf(runtimeapi.NamespaceMode_NODE)
	require.False(t, own)
	require.Contains(t, n.namespaces(nil, place, false), specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/run/ns/network"})
	place.Pod.Spec.Flavor = "fly"
	require.Equal(t, []specs.LinuxNamespace{{Type: specs.MountNamespace}}, n.namespaces(nil, place, true))

	for field, o := range map[string]*runtimeapi.NamespaceOption{
		"pid":            {Pid: runtimeapi.NamespaceMode_POD},
		"target_id":      {Pid: runtimeapi.NamespaceMode_TARGET},
		"userns_options": {Pid: runtimeapi.NamespaceMode_NODE, UsernsOptions: &runtimeapi.UserNamespace{}},
	} {
		require.ErrorContains(t, checkNamespaces(o, &pod.Spec{Flavor: "lean"}), field)
	}
	require.NoError(t, checkNamespaces(&runtimeapi.NamespaceOption{}, &pod.Spec{Flavor: "lean", SharedPID: true}))
}

func TestResources(t *testing.T) {
	n := testNode()
	r := &runtimeapi.LinuxContainerResources{CpuShares: 2, CpuQuota: -1, CpuPeriod: 1000, CpusetCpus: "0", MemoryLimitInBytes: 64,
		MemorySwapLimitInBytes: 64, HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB"}}}

	got, err := n.resources("linux.resources", r)

	require.NoError(t, err)
	require.Equal(t, uint64(2), *got.CPU.Shares)
	require.Equal(t, int64(-1), *got.CPU.Quota)
	require.Equal(t, "0", got.CPU.Cpus)
	require.Equal(t, int64(64), *got.Memory.Limit)
	require.Nil(t, got.Memory.Swap, "a node that accounts none")
	require.Empty(t, got.HugepageLimits)
	none, err := n.resources("f", nil)
	require.NoError(t, err)
	require.Equal(t, &specs.LinuxResources{}, none)
	for field, bad := range map[string]*runtimeapi.LinuxContainerResources{
		"hugepage_limits":            {HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}}},
		"unified":                    {Unified: map[string]string{"memory.oom.group": "1"}},
		"memory_swap_limit_in_bytes": {MemoryLimitInBytes: 2, MemorySwapLimitInBytes: 1},
	} {
		_, err := n.resources("f", bad)
		require.ErrorContains(t, err, field)
	}
	v2 := &Node{Unified: true, Hugetlb: true, Swap: true}
	got, err = v2.resources("f", &runtimeapi.LinuxContainerResources{MemorySwapLimitInBytes: 9, Unified: map[string]string{"memory.oom.group": "1"},
		HugepageLimits: []*runtimeapi.HugepageLimit{{PageSize: "2MB", Limit: 1}}})
	require.NoError(t, err)
	require.Equal(t, int64(9), *got.Memory.Swap)
	require.Equal(t, map[string]string{"memory.oom.group": "1"}, got.Unified)
	require.Equal(t, uint64(1), got.HugepageLimits[0].Limit)
}

func TestOOMScoreStaysWithinWhatTheNodeMayGive(t *testing.T) {
	n := &Node{OOMScoreMin: 0}
	score, err := n.oomScore(&runtimeapi.LinuxContainerResources{OomScoreAdj: -997})
	require.NoError(t, err)
	require.Zero(t, *score)
	_, err = n.oomScore(&runtimeapi.LinuxContainerResources{OomScoreAdj: 1001})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestStopSignal(t *testing.T) {
	for _, c := range []struct {
		asked  runtimeapi.Signal
		image  string
		number int
		told   runtimeapi.Signal
	}{
		{0, "", 15, runtimeapi.Signal_SIGTERM},
		{0, "SIGQUIT", 3, runtimeapi.Signal_SIGQUIT},
		{0, "quit", 3, runtimeapi.Signal_SIGQUIT},
		{0, "3", 3, runtimeapi.Signal_SIGQUIT},
		{0, "SIGRTMIN+3", 37, runtimeapi.Signal_SIGRTMINPLUS3},
		{0, "17", 17, runtimeapi.Signal_SIGCHLD},
		{runtimeapi.Signal_SIGUSR1, "SIGQUIT", 10, runtimeapi.Signal_SIGUSR1},
		{runtimeapi.Signal_SIGRTMAXMINUS1, "", 63, runtimeapi.Signal_SIGRTMAXMINUS1},
	} {
		number, told, err := stopSignal(c.asked, c.image)
		require.NoError(t, err)
		require.Equal(t, c.number, number)
		require.Equal(t, c.told, told)
	}
	for s := range runtimeapi.Signal_name {
		if s != 0 {
			require.NotZero(t, numberOf(runtimeapi.Signal(s)), runtimeapi.Signal(s))
		}
	}
	_, _, err := stopSignal(0, "SIGNOT")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	_, _, err = stopSignal(99, "")
	require.ErrorContains(t, err, "stop_signal")
}

func TestNoAnnotationReachesTheRuntime(t *testing.T) {
	r := testRequest()
	r.config.Annotations = map[string]string{"run.oci.seccomp_bpf_data": "x"}
	r.sandbox.Annotations = map[string]string{"run.oci.keep_original_groups": "1"}

	done, err := r.configure(testNode(), testPlace(t))

	require.NoError(t, err)
	require.NotContains(t, string(done.Config), "run.oci")
	require.NotContains(t, string(done.Config), `"annotations"`)
}

func TestConfinementIsTakenOver(t *testing.T) {
	r := testRequest()
	s := r.config.Linux.SecurityContext
	s.MaskedPaths, s.ReadonlyPaths, s.NoNewPrivs, s.ReadonlyRootfs = []string{"/proc/kcore"}, []string{"/proc/sys"}, true, true
	s.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}

	done, err := r.configure(testNode(), testPlace(t))

	require.NoError(t, err)
	var spec specs.Spec
	require.NoError(t, json.Unmarshal(done.Config, &spec))
	require.Equal(t, ociVersion, spec.Version)
	require.Equal(t, s.MaskedPaths, spec.Linux.MaskedPaths)
	require.Equal(t, s.ReadonlyPaths, spec.Linux.ReadonlyPaths)
	require.True(t, spec.Process.NoNewPrivileges && spec.Root.Readonly)
	require.NotNil(t, spec.Linux.Seccomp)
	require.Equal(t, "/k8s_p1/a1", spec.Linux.CgroupsPath)
	require.Equal(t, 15, done.StopSignal)

	s.Privileged = true
	done, err = r.configure(testNode(), testPlace(t))
	require.NoError(t, err)
	spec = specs.Spec{}
	require.NoError(t, json.Unmarshal(done.Config, &spec))
	require.Empty(t, spec.Linux.MaskedPaths)
	require.Empty(t, spec.Linux.ReadonlyPaths)
	require.Nil(t, spec.Linux.Seccomp)
}

func TestLocalNodeIsReadable(t *testing.T) {
	n, err := LocalNode()
	require.NoError(t, err)
	require.Contains(t, n.Capabilities, "CAP_SYS_ADMIN", "these tests run as root")
	require.True(t, n.RecursiveReadOnly)
}
