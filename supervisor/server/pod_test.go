package server_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
)

func TestShutdownLeavesNothing(t *testing.T) {
	p := launch(t, supervisor.Spec{Stage1: stage1.Spec{OwnIPC: true, OwnUTS: true, Hostname: "h", ShmBytes: 1 << 20, SharedPID: true}})
	a := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	b := p.add("b", appConfig{Args: []string{"/bin/sleep", "1000"}})
	_, err := p.CreateApp(t.Context(), b)
	require.NoError(t, err)
	_, err = p.Exec(t.Context(), supervisor.ExecSpec{App: "a", Process: execProcess(t, false, "/bin/sleep", "1000")}, nil, nil, nil)
	require.NoError(t, err)

	require.NoError(t, p.Shutdown(t.Context()))

	p.waitExit()
	require.Zero(t, p.cmd.ProcessState.ExitCode(), p.log())
	exit, err := supervisor.ReadExit(a.Dir)
	require.NoError(t, err)
	require.Equal(t, 9, exit.Signal)
	require.Empty(t, cgroup.Procs(p.cgroup))
	require.Subset(t, []string{p.id}, cgroup.Children(p.cgroup))
	left, err := os.ReadDir(p.runDir)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NotContains(t, mounts(t), p.runDir)
	require.ErrorIs(t, p.Shutdown(t.Context()), errdefs.ErrUnavailable)
}

func mounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	return string(text)
}

func TestSIGTERMEndsThePodPolitely(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.sh("a", "trap 'exit 3' TERM; echo up; while :; do sleep 0.02; done")
	waitFor(t, func() bool { return fileHas(spec.Log, "up") })
	require.NoError(t, p.cmd.Process.Signal(unix.SIGTERM))
	p.waitExit()
	exit, err := supervisor.ReadExit(spec.Dir)
	require.NoError(t, err)
	require.Equal(t, 3, exit.Code)
}

func TestSecondSupervisorOfAPodIsRefused(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	fd, err := unix.Open(p.podDir, unix.O_RDONLY, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.ErrorIs(t, unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), unix.EWOULDBLOCK, "it holds the lock")
	require.NoError(t, p.Shutdown(t.Context()))
	p.waitExit()
	require.NoError(t, unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB), "and frees it at its end")
}

// Whoever looks whether a pod has a supervisor holds its lock for a moment.
func TestLookAtTheLockDoesNotKeepASupervisorFromStarting(t *testing.T) {
	p := prepare(t, supervisor.Spec{})
	fd, err := unix.Open(p.podDir, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Flock(fd, unix.LOCK_SH))
	p.start()
	waitFor(t, func() bool { return tries(p) }) // or has given up already
	require.NoError(t, unix.Flock(fd, unix.LOCK_UN))

	p.dial()
}

// tries says whether the supervisor has its pod's folder open, or has ended.
func tries(p *testPod) bool {
	select {
	case <-p.exited:
		return true
	default:
	}
	files, _ := filepath.Glob("/proc/" + itoa(p.cmd.Process.Pid) + "/fd/*")
	for _, f := range files {
		if at, err := os.Readlink(f); err == nil && at == p.podDir {
			return true
		}
	}
	return false
}

// As in a container that has not all capabilities.
func TestSupervisorThatMayNotProtectItselfSaysSoAndGoesOn(t *testing.T) {
	p := prepare(t, supervisor.Spec{})
	p.wrapper = []string{"setpriv", "--bounding-set=-sys_resource"}
	p.start()
	p.dial()

	p.sh("a", "exit 5")

	require.Equal(t, 5, p.wait("a").Code)
	require.Contains(t, p.log(), "The supervisor is not protected from the OOM killer")
}

// The lock must not live on in an app when the supervisor is killed.
func TestKilledSupervisorFreesItsLockWhileItsAppsLiveOn(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	spec := p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
	require.NoError(t, p.cmd.Process.Kill())
	p.waitExit()
	fd, err := unix.Open(p.podDir, unix.O_RDONLY, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	require.NoError(t, unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB))
	<-p.Gone()
	require.NoError(t, cgroup.Kill(t.Context(), p.cgroup), "the engine's way without it")
	require.Empty(t, cgroup.Procs(spec.Cgroup))
	_, err = supervisor.ReadExit(spec.Dir)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestKilledSupervisorTakesASharedPIDNamespaceWithIt(t *testing.T) {
	for _, flavor := range []string{"lean", "nspawn"} {
		t.Run(flavor, func(t *testing.T) {
			p := launch(t, supervisor.Spec{Flavor: flavor, Stage1: stage1.Spec{SharedPID: true}})
			p.run("a", appConfig{
				Args:       []string{"/bin/sleep", "1000"},
				Namespaces: []map[string]string{{"type": "pid", "path": supervisor.NamespacePath(p.runDir, "pid")}, {"type": "mount"}},
			})
			require.NoError(t, p.cmd.Process.Kill())
			p.waitExit()
			waitFor(t, func() bool { return len(cgroup.Procs(p.cgroup)) == 0 })
		})
	}
}

func TestEventsAreKeptUntilAcknowledged(t *testing.T) {
	p := launch(t, supervisor.Spec{})
	for _, name := range []string{"a", "b", "c"} {
		p.run(name, appConfig{Args: []string{"/bin/true"}})
		p.wait(name)
	}
	p.Client.Close() // the engine is killed and comes back
	p.dial()
	require.NoError(t, p.Subscribe(t.Context(), 0))
	var seen []string
	for range 3 {
		ev, err := p.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, uint64(len(seen)+1), ev.Seq)
		seen = append(seen, ev.App)
	}
	require.Equal(t, []string{"a", "b", "c"}, seen)
	require.NoError(t, p.Ack(t.Context(), 2))

	p.Client.Close()
	p.dial()
	require.NoError(t, p.Subscribe(t.Context(), 0))
	ev, err := p.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, "c", ev.App)
	st, err := p.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, uint64(3), st.Seq)
}

func TestPodEndsWithItsInit(t *testing.T) {
	for _, flavor := range []string{"lean", "nspawn"} {
		t.Run(flavor, func(t *testing.T) {
			p := launch(t, supervisor.Spec{Flavor: flavor, Stage1: stage1.Spec{SharedPID: true}})
			p.run("a", appConfig{Args: []string{"/bin/sleep", "1000"}})
			st, err := p.Status(t.Context())
			require.NoError(t, err)
			require.NotZero(t, st.Init)
			require.NoError(t, unix.Kill(st.Init, unix.SIGKILL))

			require.Equal(t, 9, p.wait("a").Signal)
			ev, err := p.Next(t.Context())
			require.NoError(t, err)
			require.Equal(t, supervisor.PodHasEnded, ev.Kind)
			_, err = p.CreateApp(t.Context(), p.add("b", appConfig{}))
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
			require.NoError(t, p.Shutdown(t.Context()))
			p.waitExit()
		})
	}
}

func TestFailedBootIsToldWithItsClass(t *testing.T) {
	for name, spec := range map[string]supervisor.Spec{
		"unknown flavor": {Flavor: "kvm"},
		"bad spec":       {Stage1: stage1.Spec{Hostname: "x"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := prepare(t, spec)
			p.start()
			_, err := supervisor.Dial(t.Context(), p.runDir, "test")
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			p.waitExit()
			require.Equal(t, 1, p.cmd.ProcessState.ExitCode())
		})
	}
	p := prepare(t, supervisor.Spec{Stage1: stage1.Spec{Network: "/no/such/netns", ShmBytes: 4096}})
	p.start()
	_, err := supervisor.Dial(t.Context(), p.runDir, "test")
	require.ErrorContains(t, err, "/no/such/netns")
	p.waitExit()
	require.NotContains(t, mounts(t), p.runDir)
	_, err = supervisor.Dial(t.Context(), p.runDir, "test")
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
}

func TestAppsShareTheInstance(t *testing.T) {
	sysctls, shmmni := map[string]string{"kernel.shmmni": "77"}, "77"
	if unix.Access("/proc/sys/kernel/shmmni", unix.W_OK) != nil { // a nested host
		sysctls, shmmni = nil, "4096"
	}
	for _, flavor := range []string{"lean", "nspawn"} {
		t.Run(flavor, func(t *testing.T) {
			p := launch(t, supervisor.Spec{Flavor: flavor, Stage1: stage1.Spec{
				OwnIPC: true, OwnUTS: true, SharedPID: true, Hostname: "pod-host",
				ShmBytes: 3 << 20, Sysctls: sysctls,
			}})
			spec := p.run("a", appConfig{
				Args: []string{"/bin/sh", "-c", "hostname; cat /proc/sys/kernel/shmmni; ps; mount | grep shm"},
				Namespaces: []map[string]string{
					{"type": "pid", "path": supervisor.NamespacePath(p.runDir, "pid")},
					{"type": "ipc", "path": supervisor.NamespacePath(p.runDir, "ipc")},
					{"type": "uts", "path": supervisor.NamespacePath(p.runDir, "uts")},
					{"type": "mount"},
				},
				Mounts: []map[string]any{{"destination": "/dev/shm", "type": "bind", "options": []string{"rbind"},
					"source": stage1.Spec{Dir: filepath.Join(p.runDir, "stage1")}.ShmPath()}},
			})
			require.Zero(t, p.wait("a").Code)
			out := logged(t, spec.Log, "stdout")
			require.Contains(t, out, "pod-host\n"+shmmni+"\n")
			require.Regexp(t, `(?m)^\s+1 .*init`, out, "pid 1 is our init")
			require.Contains(t, out, "size=3072k")
		})
	}
}

func TestRuncServesAsWell(t *testing.T) {
	p := launch(t, supervisor.Spec{Runtime: "/usr/sbin/runc", Stage1: stage1.Spec{OwnIPC: true, SharedPID: true}})
	spec := p.run("a", appConfig{
		Args: []string{"/bin/sleep", "1000"},
		Namespaces: []map[string]string{
			{"type": "pid", "path": supervisor.NamespacePath(p.runDir, "pid")},
			{"type": "ipc", "path": supervisor.NamespacePath(p.runDir, "ipc")},
			{"type": "mount"},
		},
	})
	out, err := p.exec(0, "/bin/sh", "-c", "echo hi; exit 9")
	require.NoError(t, err)
	require.Equal(t, 9, out.Exit.Code)
	require.Equal(t, "hi\n", string(out.Stdout))
	_, err = p.exec(time.Second, "/bin/sh", "-c", "setsid sleep 2000 & sleep 2000")
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Len(t, cgroup.Procs(spec.Cgroup), 1)
	_, err = p.exec(0, "/no/such/program")
	require.ErrorContains(t, err, "no such file")
	exit, err := p.StopApp(t.Context(), "a", int(unix.SIGTERM), 0)
	require.NoError(t, err)
	require.Equal(t, 9, exit.Signal)
	require.NoError(t, p.RemoveApp(t.Context(), "a"))
	require.Empty(t, cgroup.Dirs(spec.Cgroup))
}
