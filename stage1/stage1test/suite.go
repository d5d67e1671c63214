// Package stage1test is the suite that every isolator passes, and the fake that
// stands in for one.
package stage1test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/namespace"
	"github.com/rktnetes/rktshim/internal/reap"
	"github.com/rktnetes/rktshim/stage1"
)

// mark is in the name of all that the suite makes on the host.
const mark = "rktt-stage1"

var (
	initBinary string
	reaper     = reap.New()
)

// Main is the body of TestMain of a package that runs Suite. It runs the tests as
// root in a mount namespace of their own, with a reaper; they must not use os/exec.
func Main(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Println("skipped: namespaces take root")
		return
	}
	if os.Getenv("RKTT_INSIDE") == "" {
		os.Exit(inside())
	}
	sweep()
	initBinary = os.Getenv("RKTT_SUPERVISOR")
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		panic(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- reaper.Run(ctx) }()
	code := m.Run()
	stop()
	<-done
	sweep()
	os.Exit(code)
}

// inside builds our init and starts the test binary again in a mount namespace.
func inside() int {
	dir, err := os.MkdirTemp("", mark)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary := os.Getenv("RKTT_SUPERVISOR")
	if binary == "" {
		binary = filepath.Join(dir, "rkt-supervisor")
		build := exec.Command("go", "build", "-o", binary, "github.com/rktnetes/rktshim/cmd/rkt-supervisor")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Println(string(out))
			return 1
		}
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "RKTT_INSIDE=1", "RKTT_SUPERVISOR="+binary)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		return 1
	}
	return 0
}

// sweep removes what a run that was killed has left.
func sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = cgroup.Kill(ctx, "/"+mark)
	_ = cgroup.Remove(ctx, "/"+mark)
	for _, pattern := range []string{"/run/" + mark + "*", "/run/systemd/nspawn/propagate/rkt-" + mark + "*"} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			os.RemoveAll(path)
		}
	}
}

// Traits says what a flavor can do, for the suite to know what to expect.
type Traits struct {
	// HostOnly flavors have no namespaces of their own and refuse to make any.
	HostOnly bool
	// AlwaysInit flavors run an init for every pod.
	AlwaysInit bool
}

// Suite runs every rule of the contract against iso.
func Suite(t *testing.T, iso stage1.Isolator, traits Traits) {
	if err := iso.Check(); err != nil {
		t.Skipf("this host cannot run the flavor: %v", err)
	}
	s := suite{iso, traits}
	t.Run("HostNamespaces", s.hostNamespaces)
	t.Run("WrongSpecsAreRefused", s.wrongSpecs)
	t.Run("SweepOfNothing", s.sweepOfNothing)
	if traits.HostOnly {
		t.Run("OwnNamespacesAreRefused", s.refusesOwn)
		return
	}
	t.Run("OwnNamespaces", s.ownNamespaces)
	t.Run("EachNamespaceAlone", s.eachAlone)
	t.Run("StopLeavesNothing", s.stopLeavesNothing)
	t.Run("FailedBootLeavesNothing", s.failedBoot)
	t.Run("CanceledBootLeavesNothing", s.canceledBoot)
	t.Run("InstanceEndsWithItsInit", s.endsWithInit)
	t.Run("ManyAtOnce", s.manyAtOnce)
}

type suite struct {
	iso    stage1.Isolator
	traits Traits
}

// newSpec returns a spec with a folder of its own, which is checked to be empty,
// and the host unchanged, when the test ends.
func newSpec(t *testing.T) stage1.Spec {
	t.Helper()
	base, err := os.MkdirTemp("/run", mark)
	require.NoError(t, err)
	id := strings.ToLower(filepath.Base(base))
	spec := stage1.Spec{ID: id, Dir: filepath.Join(base, "stage1"), Cgroup: "/" + mark + "/" + id}
	require.NoError(t, os.Mkdir(spec.Dir, 0o700))
	require.NoError(t, cgroup.Make(spec.Cgroup))
	before, host := hostState(t)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		left := cgroup.Procs(spec.Cgroup)
		require.NoError(t, cgroup.Kill(ctx, spec.Cgroup))
		require.NoError(t, cgroup.Remove(ctx, spec.Cgroup))
		require.Empty(t, left, "processes are left")
		entries, err := os.ReadDir(spec.Dir)
		require.NoError(t, err)
		require.Empty(t, entries)
		after, hostAfter := hostState(t)
		require.Equal(t, before, after, "mounts")
		require.Equal(t, host, hostAfter, "hostname")
		paths, err := filepath.Glob("/run/systemd/nspawn/*/*" + id + "*")
		require.NoError(t, err)
		require.Empty(t, paths)
		require.NoFileExists(t, filepath.Join(base, ".#root.lck"))
		require.NoError(t, os.RemoveAll(base))
	})
	return spec
}

func hostState(t *testing.T) (mounts, host string) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	host, err = os.Hostname()
	require.NoError(t, err)
	return string(text), host
}

func boot(t *testing.T, iso stage1.Isolator, spec stage1.Spec) stage1.Instance {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	inst, err := iso.Boot(ctx, spec, Host())
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		require.NoError(t, inst.Stop(ctx))
	})
	return inst
}

// Host lends the test binary's own reaper and init, of which there is one each.
func Host() stage1.Host {
	return stage1.Host{Reaper: reaper, Init: []string{initBinary, "init"}}
}

// pinNetwork makes a network namespace at a path, as the engine does.
func pinNetwork(t *testing.T) string {
	t.Helper()
	files, err := namespace.New([]string{"net"}, func() error { return nil })
	require.NoError(t, err)
	defer namespace.Close(files...)
	path := filepath.Join(t.TempDir(), "net")
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	require.NoError(t, unix.Mount(fmt.Sprintf("/proc/self/fd/%d", files[0].Fd()), path, "", unix.MS_BIND, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(path, unix.MNT_DETACH)) })
	return path
}

// inode identifies a namespace.
func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	require.NoError(t, unix.Stat(path, &st))
	return st.Ino
}

func fileInode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	return inode(t, fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
}

func (s suite) hostNamespaces(t *testing.T) {
	inst := boot(t, s.iso, newSpec(t))
	for _, kind := range stage1.Kinds {
		require.Nil(t, inst.Namespace(kind), kind)
	}
}

func (s suite) wrongSpecs(t *testing.T) {
	good := newSpec(t)
	for name, break_ := range map[string]func(*stage1.Spec){
		"id":                 func(s *stage1.Spec) { s.ID = "../x" },
		"no id":              func(s *stage1.Spec) { s.ID = "" },
		"hostname":           func(s *stage1.Spec) { s.Hostname = "x" },
		"network":            func(s *stage1.Spec) { s.Network = "x" },
		"dir":                func(s *stage1.Spec) { s.Dir = "x" },
		"shm":                func(s *stage1.Spec) { s.ShmBytes = -1 },
		"sysctl of the host": func(s *stage1.Spec) { s.Sysctls = map[string]string{"kernel.shmmni": "1"} },
		"unknown sysctl":     func(s *stage1.Spec) { s.Sysctls = map[string]string{"kernel.panic": "1"} },
		"sysctl path":        func(s *stage1.Spec) { s.Sysctls = map[string]string{"net/../kernel/panic": "1"} },
	} {
		spec := good
		break_(&spec)
		_, err := s.iso.Boot(t.Context(), spec, Host())
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, name)
	}
}

func (s suite) refusesOwn(t *testing.T) {
	good := newSpec(t)
	for name, ask := range map[string]func(*stage1.Spec){
		"network":   func(s *stage1.Spec) { s.Network = "/proc/self/ns/net" },
		"ownIPC":    func(s *stage1.Spec) { s.OwnIPC = true },
		"ownUTS":    func(s *stage1.Spec) { s.OwnUTS = true },
		"sharedPID": func(s *stage1.Spec) { s.SharedPID = true },
		"shmBytes":  func(s *stage1.Spec) { s.ShmBytes = 4096 },
	} {
		spec := good
		ask(&spec)
		_, err := s.iso.Boot(t.Context(), spec, Host())
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		require.ErrorContains(t, err, name)
	}
}

func (s suite) sweepOfNothing(t *testing.T) {
	require.NoError(t, s.iso.Sweep(newSpec(t)))
}

func (s suite) ownNamespaces(t *testing.T) {
	spec := newSpec(t)
	spec.Network = pinNetwork(t)
	spec.OwnIPC, spec.OwnUTS, spec.SharedPID = true, true, true
	spec.Hostname = "pod-1"
	spec.ShmBytes = 2 << 20
	sysctls := map[string]string{"kernel/shmmni": "123", "net/ipv4/ip_forward": "1", "net/ipv4/conf/lo/forwarding": "1"}
	if errors.Is(unix.Access("/proc/sys/kernel/shmmni", unix.W_OK), unix.EROFS) { // a nested host
		delete(sysctls, "kernel/shmmni")
	}
	spec.Sysctls = sysctls
	inst := boot(t, s.iso, spec)

	var files []*os.File
	for _, kind := range stage1.Kinds {
		f := inst.Namespace(kind)
		require.NotNil(t, f, kind)
		require.NotEqual(t, inode(t, "/proc/self/ns/"+kind.Proc()), fileInode(t, f), kind)
		if kind != stage1.PID {
			files = append(files, f)
		}
	}
	require.Equal(t, inode(t, spec.Network), fileInode(t, inst.Namespace(stage1.Network)))
	require.NoError(t, namespace.In(files, func() error {
		var uts unix.Utsname
		if err := unix.Uname(&uts); err != nil {
			return err
		}
		if got := unix.ByteSliceToString(uts.Nodename[:]); got != "pod-1" {
			return fmt.Errorf("hostname %q", got)
		}
		for name, want := range sysctls {
			got, err := os.ReadFile("/proc/sys/" + name)
			if err != nil || strings.TrimSpace(string(got)) != want {
				return fmt.Errorf("sysctl %s is %q: %w", name, got, err)
			}
		}
		return nil
	}))
	var st unix.Statfs_t
	require.NoError(t, unix.Statfs(spec.ShmPath(), &st))
	require.Equal(t, int64(unix.TMPFS_MAGIC), int64(st.Type))
	require.Equal(t, uint64(2<<20), st.Blocks*uint64(st.Bsize))
	init := inst.(stage1.InitHolder).InitPID()
	require.Equal(t, fileInode(t, inst.Namespace(stage1.PID)), inode(t, fmt.Sprintf("/proc/%d/ns/pid", init)))
	require.Contains(t, cgroup.Procs(spec.Cgroup), init)
	select {
	case <-inst.Done():
		t.Fatal("it has ended")
	default:
	}
}

func (s suite) eachAlone(t *testing.T) {
	for kind, ask := range map[stage1.Kind]func(*testing.T, *stage1.Spec){
		stage1.Network: func(t *testing.T, s *stage1.Spec) { s.Network = pinNetwork(t) },
		stage1.IPC:     func(_ *testing.T, s *stage1.Spec) { s.OwnIPC = true },
		stage1.UTS:     func(_ *testing.T, s *stage1.Spec) { s.OwnUTS = true },
		stage1.PID:     func(_ *testing.T, s *stage1.Spec) { s.SharedPID = true },
	} {
		t.Run(string(kind), func(t *testing.T) {
			spec := newSpec(t)
			ask(t, &spec)
			inst := boot(t, s.iso, spec)
			for _, k := range stage1.Kinds {
				if k == kind {
					require.NotNil(t, inst.Namespace(k), k)
				} else {
					require.Nil(t, inst.Namespace(k), k)
				}
			}
			if h, ok := inst.(stage1.InitHolder); ok {
				require.Equal(t, s.traits.AlwaysInit || kind == stage1.PID, h.InitPID() != 0)
			}
		})
	}
}

func (s suite) stopLeavesNothing(t *testing.T) {
	spec := newSpec(t)
	spec.OwnIPC, spec.OwnUTS, spec.SharedPID, spec.ShmBytes = true, true, true, 4096
	inst := boot(t, s.iso, spec)
	pid := inst.(stage1.InitHolder).InitPID()
	require.NoError(t, os.WriteFile(filepath.Join(spec.ShmPath(), "used"), []byte("x"), 0o600))

	require.NoError(t, inst.Stop(t.Context()))
	require.NoError(t, inst.Stop(t.Context()), "stopping twice")

	require.ErrorIs(t, unix.Kill(pid, 0), unix.ESRCH)
	require.NoError(t, s.iso.Sweep(spec), "sweeping after a stop")
} // newSpec checks the rest

func (s suite) failedBoot(t *testing.T) {
	spec := newSpec(t)
	spec.OwnIPC, spec.SharedPID, spec.ShmBytes = true, true, 4096

	wrong := spec
	wrong.Network = "/no/such/netns"
	_, err := s.iso.Boot(t.Context(), wrong, Host())
	require.ErrorContains(t, err, "/no/such/netns")

	wrong = spec
	wrong.Network = "/proc/self/ns/ipc"
	_, err = s.iso.Boot(t.Context(), wrong, Host())
	require.Error(t, err)

	wrong = spec
	wrong.Sysctls = map[string]string{"kernel.shmmni": "not a number"}
	_, err = s.iso.Boot(t.Context(), wrong, Host())
	require.ErrorContains(t, err, "kernel.shmmni")

	noInit := Host()
	noInit.Init = []string{"/no/such/init"}
	_, err = s.iso.Boot(t.Context(), spec, noInit)
	require.ErrorContains(t, err, "/no/such/init")
}

func (s suite) canceledBoot(t *testing.T) {
	spec := newSpec(t)
	spec.OwnIPC, spec.ShmBytes = true, 4096
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	inst, err := s.iso.Boot(ctx, spec, Host())
	if err == nil { // too quick to notice
		require.NoError(t, inst.Stop(t.Context()))
		return
	}
	require.True(t, errors.Is(err, context.Canceled) || errors.Is(err, os.ErrDeadlineExceeded), "%v", err)
}

func (s suite) endsWithInit(t *testing.T) {
	spec := newSpec(t)
	spec.SharedPID = true
	inst := boot(t, s.iso, spec)
	require.NoError(t, unix.Kill(inst.(stage1.InitHolder).InitPID(), unix.SIGKILL))
	select {
	case <-inst.Done():
	case <-time.After(10 * time.Second):
		t.Fatal("the end of its init was not noticed")
	}
	require.Zero(t, inst.(stage1.InitHolder).InitPID())
	require.NoError(t, inst.Stop(t.Context()))
}

func (s suite) manyAtOnce(t *testing.T) {
	specs := make([]stage1.Spec, 8)
	for i := range specs {
		specs[i] = newSpec(t)
		specs[i].OwnIPC, specs[i].OwnUTS, specs[i].SharedPID = true, true, true
		specs[i].Hostname = fmt.Sprintf("pod-%d", i)
	}
	errs := make(chan error, len(specs))
	for _, spec := range specs {
		go func() {
			inst, err := s.iso.Boot(t.Context(), spec, Host())
			if err == nil {
				err = inst.Stop(t.Context())
			}
			errs <- err
		}()
	}
	for range specs {
		require.NoError(t, <-errs)
	}
}
