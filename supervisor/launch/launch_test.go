package launch_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/thread"
	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/launch"
)

var binary string

func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Println("skipped: these tests make cgroups, which takes root")
		return
	}
	// node.sh brings a binary along: there is no Go in the node.
	if binary = os.Getenv("RKTT_SUPERVISOR"); binary == "" {
		dir, err := os.MkdirTemp("", "rktt-launch")
		if err != nil {
			panic(err)
		}
		binary = filepath.Join(dir, "rkt-supervisor")
		build := exec.Command("go", "build", "-o", binary, "github.com/rktnetes/rktshim/cmd/rkt-supervisor")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			panic(string(out))
		}
		defer os.RemoveAll(dir)
	}
	m.Run()
}

// launchers are those that this host can run, with a cgroup parent for each.
func launchers(t *testing.T) map[string]launch.Launcher {
	all := map[string]launch.Launcher{"rktt-launch": &launch.Detached{}}
	if _, err := os.Lstat("/run/systemd/system"); err == nil {
		s, err := launch.NewSystemd(t.Context())
		require.NoError(t, err)
		t.Cleanup(s.Close)
		all["rktt-launch.slice"] = s
	}
	return all
}

func each(t *testing.T, test func(t *testing.T, l launch.Launcher, parent string)) {
	for parent, l := range launchers(t) {
		t.Run(fmt.Sprintf("%T", l), func(t *testing.T) {
			if parent == "rktt-launch" {
				parent = "/rktt-launch"
				_ = cgroup.Kill(t.Context(), parent) // of a run that was killed
				t.Cleanup(func() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					require.NoError(t, cgroup.Remove(ctx, parent))
				})
			}
			test(t, l, parent)
		})
	}
}

func prepare(t *testing.T, l launch.Launcher, parent, pod string) launch.Spec {
	t.Helper()
	runDir, err := os.MkdirTemp("/run", "rktt-launch")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(runDir) })
	spec := launch.Spec{Pod: pod, Binary: binary, PodDir: filepath.Join(t.TempDir(), pod), RunDir: runDir, Parent: parent}
	require.NoError(t, os.Mkdir(spec.PodDir, 0o700))
	group, err := l.Cgroup(parent, pod)
	require.NoError(t, err)
	require.NoError(t, supervisor.WriteSpec(spec.PodDir, supervisor.Spec{
		Flavor: "lean", Runtime: "/usr/bin/crun", Cgroup: group,
		Stage1: stage1.Spec{ID: pod, OwnIPC: true, SharedPID: true},
	}))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, l.Kill(ctx, parent, pod))
		require.Empty(t, cgroup.Dirs(group))
		// systemd forgets a unit when it has time.
		require.Eventually(t, func() bool {
			traces, err := filepath.Glob("/run/systemd/*/*" + pod + "*")
			return err == nil && len(traces) == 0
		}, time.Minute, 10*time.Millisecond, "what systemd keeps of the pod")
	})
	return spec
}

func TestLaunchedSupervisorLivesInItsCgroup(t *testing.T) {
	each(t, func(t *testing.T, l launch.Launcher, parent string) {
		spec := prepare(t, l, parent, "aaaa-1")
		begin := time.Now()
		require.NoError(t, l.Launch(t.Context(), spec))
		c, err := supervisor.Dial(t.Context(), spec.RunDir, "test")
		require.NoError(t, err)
		t.Logf("launched and booted in %v", time.Since(begin))
		defer c.Close()
		group, err := l.Cgroup(parent, spec.Pod)
		require.NoError(t, err)
		st, err := c.Status(t.Context())
		require.NoError(t, err)
		require.ElementsMatch(t, []int{st.PID, st.Init}, cgroup.Procs(group))
		own, err := cgroup.Of(st.PID)
		require.NoError(t, err)
		require.Equal(t, group+"/"+spec.Pod, own)

		require.ErrorIs(t, l.Launch(t.Context(), spec), errdefs.ErrAlreadyExists)
		pods, err := l.List(t.Context(), filepath.Dir(spec.PodDir), []string{parent})
		require.NoError(t, err)
		require.Equal(t, []string{"aaaa-1"}, pods)
		found, err := l.Find(t.Context(), spec.Pod)
		require.NoError(t, err)
		require.Equal(t, []string{parent}, found)
		found, err = l.Find(t.Context(), "aaaa-0")
		require.NoError(t, err)
		require.Empty(t, found)
		if _, ok := l.(*launch.Systemd); ok {
			pods, err = l.List(t.Context(), "/another/engine", []string{parent})
			require.NoError(t, err)
			require.Empty(t, pods)
		}

		require.NoError(t, c.Shutdown(t.Context()))
		<-c.Gone()
		require.NoError(t, l.Kill(t.Context(), parent, spec.Pod))
		require.NoError(t, l.Kill(t.Context(), parent, spec.Pod), "killing twice is no error")
		pods, err = l.List(t.Context(), filepath.Dir(spec.PodDir), []string{parent})
		require.NoError(t, err)
		require.Empty(t, pods)
		require.ErrorIs(t, unix.Kill(st.PID, 0), unix.ESRCH, "not even a zombie is left")
	})
}

func TestKillEndsALivingPod(t *testing.T) {
	each(t, func(t *testing.T, l launch.Launcher, parent string) {
		spec := prepare(t, l, parent, "aaaa-2")
		require.NoError(t, l.Launch(t.Context(), spec))
		c, err := supervisor.Dial(t.Context(), spec.RunDir, "test")
		require.NoError(t, err)
		defer c.Close()
		st, err := c.Status(t.Context())
		require.NoError(t, err)
		require.NoError(t, l.Kill(t.Context(), parent, spec.Pod))
		<-c.Gone()
		for _, pid := range []int{st.PID, st.Init} {
			require.False(t, alive(pid))
		}
		group, err := l.Cgroup(parent, spec.Pod)
		require.NoError(t, err)
		require.Empty(t, cgroup.Dirs(group))
	})
}

// alive does not count a zombie, which an orphan may stay where pid 1 is no init.
func alive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// Where systemd runs, it ends the pod with its supervisor; elsewhere the init ends
// by itself and the engine kills the rest by the cgroup.
func TestPodEndsWithItsSupervisor(t *testing.T) {
	each(t, func(t *testing.T, l launch.Launcher, parent string) {
		spec := prepare(t, l, parent, "aaaa-3")
		require.NoError(t, l.Launch(t.Context(), spec))
		c, err := supervisor.Dial(t.Context(), spec.RunDir, "test")
		require.NoError(t, err)
		defer c.Close()
		require.NoError(t, unix.Kill(c.Hello().PID, unix.SIGKILL))
		<-c.Gone()
		group, err := l.Cgroup(parent, spec.Pod)
		require.NoError(t, err)
		require.Eventually(t, func() bool { return len(cgroup.Procs(group)) == 0 }, time.Minute, 10*time.Millisecond)
	})
}

func TestBinaryThatCannotRunIsAnError(t *testing.T) {
	each(t, func(t *testing.T, l launch.Launcher, parent string) {
		spec := prepare(t, l, parent, "aaaa-4")
		spec.Binary = "/no/such/binary"
		require.Error(t, l.Launch(t.Context(), spec))
		group, err := l.Cgroup(parent, spec.Pod)
		require.NoError(t, err)
		require.Empty(t, cgroup.Dirs(group))
	})
}

// As one in uninterruptible sleep, a frozen process outlives its kill.
func TestSupervisorThatDoesNotEndDelaysNobodyElse(t *testing.T) {
	if cgroup.Unified() {
		return // where frozen processes can be killed
	}
	l, parent := &launch.Detached{}, "/rktt-launch/frozen"
	t.Cleanup(func() { require.NoError(t, cgroup.Remove(context.Background(), "/rktt-launch")) })
	spec := prepare(t, l, parent, "aaaa-6")
	require.NoError(t, l.Launch(t.Context(), spec))
	c, err := supervisor.Dial(t.Context(), spec.RunDir, "test")
	require.NoError(t, err)
	defer c.Close()
	freezer := "/sys/fs/cgroup/freezer" + parent + "/freezer.state"
	require.NoError(t, os.WriteFile(freezer, []byte("FROZEN"), 0))
	t.Cleanup(func() { _ = os.WriteFile(freezer, []byte("THAWED"), 0) }) // the test does it before
	require.Eventually(t, func() bool {
		state, err := os.ReadFile(freezer)
		return err == nil && string(state) == "FROZEN\n"
	}, time.Minute, time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	killed := make(chan error, 1)
	go func() { killed <- l.Kill(ctx, parent, spec.Pod) }()

	pods, err := l.List(t.Context(), "", []string{parent})

	require.NoError(t, err)
	require.Equal(t, []string{spec.Pod}, pods)
	select {
	case err := <-killed:
		require.ErrorIs(t, err, context.DeadlineExceeded)
	case <-time.After(time.Minute):
		t.Error("the kill outlasts its context")
	}
	require.NoError(t, os.WriteFile(freezer, []byte("THAWED"), 0))
	require.NoError(t, l.Kill(t.Context(), parent, spec.Pod))
	require.ErrorIs(t, unix.Kill(c.Hello().PID, 0), unix.ESRCH, "it is reaped")
}

func TestGroupThatCannotBeRemovedIsNamedWithItsPod(t *testing.T) {
	each(t, func(t *testing.T, l launch.Launcher, parent string) {
		group, err := l.Cgroup(parent, "aaaa-5")
		require.NoError(t, err)
		require.NoError(t, cgroup.Make(group))
		dir := cgroup.Dirs(group)[0]
		err = thread.Run(func() error { // in whose mounts, and nowhere else, the group cannot be removed
			if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			if err := unix.Mount("busy", dir, "tmpfs", 0, ""); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			return cgroupBusy(l.Kill(ctx, parent, "aaaa-5"))
		})
		require.NoError(t, err)
		require.NoError(t, l.Kill(t.Context(), parent, "aaaa-5"), "it can be tried again")
		require.Empty(t, cgroup.Dirs(group))
	})
}

func cgroupBusy(err error) error {
	if !errors.Is(err, unix.EBUSY) || !strings.HasPrefix(err.Error(), "kill pod aaaa-5: remove cgroup ") {
		return fmt.Errorf("%v, but it should name the pod and why", err)
	}
	return nil
}

func TestNamesThatWouldEscapeAreRefused(t *testing.T) {
	each(t, func(t *testing.T, l launch.Launcher, parent string) {
		for _, pod := range []string{"", "../x", "A", "a b"} {
			_, err := l.Cgroup(parent, pod)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument, pod)
		}
	})
	_, err := (&launch.Detached{}).Cgroup("relative", "a")
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

// The same tests with systemd as init, in a throw-away node.
func TestInANodeWithSystemd(t *testing.T) {
	if os.Getenv("RKTT_SUPERVISOR") != "" {
		t.Skip("this is inside the node already")
	}
	node, err := filepath.Abs("../../e2e/hosts/node.sh")
	require.NoError(t, err)
	dir := t.TempDir()
	self, err := os.Executable()
	require.NoError(t, err)
	for from, to := range map[string]string{self: "launch.test", binary: "rkt-supervisor"} {
		require.NoError(t, exec.Command("cp", from, filepath.Join(dir, to)).Run())
	}
	out, err := exec.CommandContext(t.Context(), node, "-b", dir, "env", "RKTT_SUPERVISOR="+dir+"/rkt-supervisor", "TMPDIR=/tmp",
		dir+"/launch.test", "-test.v", "-test.timeout=5m").CombinedOutput()
	t.Log(string(out))
	require.NoError(t, err)
	require.Contains(t, string(out), "PASS: TestKillEndsALivingPod/*launch.Systemd")
	require.NotContains(t, string(out), "--- FAIL")
}
