package network

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// watched starts Run and waits for it at the end of the test.
func (h *host) watched() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- h.Run(ctx) }()
	h.t.Cleanup(func() {
		cancel()
		require.NoError(h.t, <-done)
	})
}

// awaits waits until the network is the named one, "" for none.
func (h *host) awaits(network string) {
	h.t.Helper()
	require.Eventually(h.t, func() bool {
		return h.Status().Network == network && (h.Ready() == nil) == (network != "")
	}, waitFor, tick, "want network %q", network)
}

func named(name string) string {
	return `{"cniVersion": "1.0.0", "name": "` + name + `", "plugins": [` + portmap + `]}`
}

func TestChangesOfTheFolderAreFollowed(t *testing.T) {
	h := newHost(t)
	h.watched()
	h.awaits("")
	h.writeConf("20.conflist", named("one"))
	h.awaits("one")
	h.writeConf("10.conflist", named("two"))
	h.awaits("two")
	h.writeConf("10.conflist", named("three"))
	h.awaits("three")
	require.NoError(t, os.Rename(filepath.Join(h.config.ConfDir, "10.conflist"), filepath.Join(h.config.ConfDir, "30.conflist")))
	h.awaits("one")
	h.writeConf("20.conflist", "{")
	h.awaits("three")
	require.Len(t, h.Status().Invalid, 1)
	require.NoError(t, os.Remove(filepath.Join(h.config.ConfDir, "20.conflist")))
	require.NoError(t, os.Remove(filepath.Join(h.config.ConfDir, "30.conflist")))
	h.awaits("")
}

func TestFolderMayComeLateGoAndBeReplaced(t *testing.T) {
	h := newHost(t)
	h.config.ConfDir = filepath.Join(h.dir, "etc", "cni", "net.d")
	h.watched()
	h.awaits("")
	staged := filepath.Join(h.dir, "staged")
	stage := func(name string) {
		require.NoError(t, os.MkdirAll(staged, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(staged, "1.conflist"), []byte(named(name)), 0o644))
	}
	require.NoError(t, os.MkdirAll(h.config.ConfDir, 0o755))
	h.writeConf("1.conflist", named("late"))
	h.awaits("late")
	require.NoError(t, os.RemoveAll(filepath.Join(h.dir, "etc")))
	h.awaits("")

	require.NoError(t, os.MkdirAll(filepath.Dir(h.config.ConfDir), 0o755))
	stage("moved")
	require.NoError(t, os.Rename(staged, h.config.ConfDir))
	h.awaits("moved")
	require.NoError(t, os.Rename(h.config.ConfDir, h.config.ConfDir+".old"))
	stage("replaced")
	require.NoError(t, os.Rename(staged, h.config.ConfDir))
	h.awaits("replaced")
	h.writeConf("1.conflist", named("written"))
	h.awaits("written")
	require.NoError(t, os.WriteFile(filepath.Join(h.config.ConfDir+".old", "1.conflist"), []byte(named("old")), 0o644))

	stage("linked")
	require.NoError(t, os.RemoveAll(h.config.ConfDir))
	require.NoError(t, os.Symlink(staged, h.config.ConfDir))
	h.awaits("linked")
	stage("through")
	h.awaits("through")
}

func TestPluginsThatComeAndGoAreFollowed(t *testing.T) {
	h := newHost(t)
	require.NoError(t, os.Remove(h.script))
	h.writeConf("1.conflist", conflist("1.0.0", `{"type": "late"}`))
	h.watched()
	require.Eventually(t, func() bool { return h.Status().Network == "pods" }, waitFor, tick)
	require.ErrorContains(t, h.Ready(), `plugin "late" not found`)
	require.NoError(t, os.Mkdir(h.script, 0o755))
	h.plugin("late", "")
	h.awaits("pods")
	require.NoError(t, os.Remove(filepath.Join(h.script, "late")))
	require.Eventually(t, func() bool { return h.Ready() != nil }, waitFor, tick)
}

func TestRunGoesOnWithoutWatches(t *testing.T) {
	h := newHost(t)
	h.writeConf("1.conflist", named("pods"))
	run := h.helper("blind")
	root := []syscall.SysProcIDMap{{Size: 1}}
	run.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: root, GidMappings: root}
	out, err := run.CombinedOutput()
	require.NoError(t, err, "%s", out)
}
