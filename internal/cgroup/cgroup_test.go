package cgroup_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/thread"
)

// group makes a group for the test, swept of what a killed run has left.
func group(t *testing.T) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("cgroups take root")
	}
	path := "/rktt-cgroup/" + strings.ToLower(t.Name())
	clean := func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, cgroup.Kill(ctx, path))
		require.NoError(t, cgroup.Remove(ctx, path))
	}
	clean()
	t.Cleanup(func() {
		clean()
		_ = cgroup.Remove(t.Context(), "/rktt-cgroup") // the last one succeeds
	})
	require.NoError(t, cgroup.Make(path))
	return path
}

// start runs a shell script that is born in the group.
func start(t *testing.T, path, script string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	require.NoError(t, cgroup.ForkInto(path, cmd.SysProcAttr, cmd.Start))
	t.Cleanup(func() {
		require.NoError(t, cgroup.Kill(context.Background(), path))
		_ = cmd.Wait() // killed, or ended as it should
	})
	return cmd
}

func TestProcessIsBornInTheGroup(t *testing.T) {
	path := group(t)
	cmd := start(t, path, "sleep 1000 & sleep 1000")
	text, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/cgroup")
	require.NoError(t, err)
	require.Equal(t, len(cgroup.Dirs(path)), strings.Count(string(text), path+"\n"), string(text))
	own, err := os.ReadFile("/proc/self/cgroup")
	require.NoError(t, err)
	require.NotContains(t, string(own), path, "we stay outside")
}

// A group that another is just making, or whose maker was killed, has no cpus yet.
func TestGroupIsUsableWhoeverMadeItsParents(t *testing.T) {
	path := group(t)
	for _, dir := range cgroup.Dirs(path) {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "a/b"), 0o755))
	}

	require.NoError(t, cgroup.Make(path+"/a/b"))
	require.NoError(t, cgroup.Make(path+"/a/c/d"))

	sleeper := exec.Command("sleep", "1000")
	require.NoError(t, sleeper.Start())
	t.Cleanup(func() {
		sleeper.Process.Kill()
		sleeper.Wait()
	})
	for _, child := range []string{"/a/b", "/a/c/d"} {
		for _, dir := range cgroup.Dirs(path + child) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(sleeper.Process.Pid)), 0), dir)
		}
	}
}

func TestKillEndsTheTreeAndForkBombs(t *testing.T) {
	path := group(t)
	require.NoError(t, cgroup.Make(path+"/below"))
	start(t, path+"/below", "setsid sleep 1000 & sleep 1000")
	start(t, path, "while :; do (sleep 0.01 &) ; done")
	require.NoError(t, cgroup.Kill(t.Context(), path))
	require.Empty(t, cgroup.Procs(path))
	require.NoError(t, cgroup.Remove(t.Context(), path))
	require.Empty(t, cgroup.Dirs(path))
	require.NoError(t, cgroup.Kill(t.Context(), path), "nothing to kill")
	require.NoError(t, cgroup.Remove(t.Context(), path), "nothing to remove")
}

func TestRemoveOfABusyGroupGivesUpWithItsContext(t *testing.T) {
	path := group(t)
	start(t, path, "sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, cgroup.Remove(ctx, path), unix.EBUSY)
	require.Error(t, cgroup.Remove(t.Context(), "/"), "never the root")
}

func TestChildrenAndControllers(t *testing.T) {
	path := group(t)
	require.NoError(t, cgroup.Make(path+"/a"))
	require.NoError(t, cgroup.Make(path+"/b"))
	require.ElementsMatch(t, []string{"a", "b"}, cgroup.Children(path))
	require.NoError(t, cgroup.Make(path+"/a/rktt-found"))
	require.NoError(t, cgroup.Make(path+"/rktt-found"))
	require.ElementsMatch(t, []string{path + "/rktt-found", path + "/a/rktt-found"}, cgroup.Find("rktt-found"))
	require.Empty(t, cgroup.Find("rktt-found-not"))
	var names []string
	for _, dir := range cgroup.Dirs(path) {
		names = append(names, cgroup.Controller(dir, path))
	}
	if cgroup.Unified() {
		require.Equal(t, []string{""}, names)
	} else {
		require.Contains(t, names, "freezer")
	}
}

const askEnv = "CGROUP_TEST_ASK"

// TestContains asks a process that was born in a group.
func TestContains(t *testing.T) {
	if path := os.Getenv(askEnv); path != "" {
		for _, p := range []string{path, path + "/", path + "/below", filepath.Dir(path)} {
			fmt.Println(p, cgroup.Contains(p))
		}
		return
	}
	path := group(t)
	require.NoError(t, cgroup.Make(path+"/below"))
	require.False(t, cgroup.Contains(path))
	require.False(t, cgroup.Contains(path+"/none"))
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestContains$")
	cmd.Env = append(os.Environ(), askEnv+"="+path)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	var out bytes.Buffer
	cmd.Stdout = &out
	require.NoError(t, cgroup.ForkInto(path, cmd.SysProcAttr, cmd.Start))
	require.NoError(t, cmd.Wait())
	for what, want := range map[string]string{"": "true", "/": "true", "/below": "false"} {
		require.Contains(t, out.String(), path+what+" "+want+"\n")
	}
	require.Contains(t, out.String(), filepath.Dir(path)+" false\n")
}

// A folder that is no cgroup, where a hierarchy has been, must not tell whom to kill.
func TestFilesThatLookLikeAGroupKillNobody(t *testing.T) {
	path := group(t)
	bystander := exec.Command("/bin/sleep", "1000")
	require.NoError(t, bystander.Start())
	defer bystander.Wait()         //nolint:errcheck // it is killed
	defer bystander.Process.Kill() //nolint:errcheck // nor is it gone
	dir := cgroup.Dirs(path)[0]
	require.NoError(t, thread.Run(func() error { // in whose mounts, and nowhere else, the group is no group
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Mount("none", dir, "tmpfs", 0, ""); err != nil {
			return err
		}
		pid := strconv.Itoa(bystander.Process.Pid)
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(pid+"\n"), 0o644); err != nil {
			return err
		}
		if pids := cgroup.Procs(path); len(pids) > 0 {
			return fmt.Errorf("%v are in the group", pids)
		}
		return cgroup.Kill(t.Context(), path)
	}))
	ended, err := unix.Wait4(bystander.Process.Pid, nil, unix.WNOHANG, nil)
	require.NoError(t, err)
	require.Zero(t, ended, "it was killed")
}
