package network

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const failing = `{"type": "failing"}`

func TestFailedAddIsRolledBack(t *testing.T) {
	h := newHost(t)
	h.plugin("failing", `[ $CNI_COMMAND = DEL ] || { echo '{"code": 100, "msg": "out of luck", "details": "again"}'; exit 1; }`)
	h.uses(h.bridge(true, "10.88.0.0/24"), `{"type": "firewall"}`, portmap, failing)
	pod := h.pod("a")
	pod.PortMappings = []PortMapping{{HostPort: 8080, ContainerPort: 80}}
	var r records
	_, err := h.Attach(t.Context(), pod, r.save)
	require.EqualError(t, err, `attach pod a: network "pods": plugin "failing": ADD: out of luck; again`)
	require.Len(t, r.saved, 2)
	require.Nil(t, r.saved[1], "the record must say that nothing is attached")
	h.requireNothingLeft()
}

func TestFailedRollbackIsReportedAndLeftToDetach(t *testing.T) {
	h := newHost(t)
	h.plugin("failing", `
[ $CNI_COMMAND = ADD ] && { setsid sleep 1000 >/dev/null 2>&1 & } # must not keep the pod's claim
[ -e `+h.dir+`/healed ] || { echo "no route to the controller" >&2; exit 1; }`)
	h.uses(h.bridge(true, "10.88.0.0/24"), `{"type": "firewall"}`, failing)
	var r records
	_, err := h.Attach(t.Context(), h.pod("a"), r.save)
	require.ErrorContains(t, err, `plugin "failing": ADD`)
	require.ErrorContains(t, err, `(undo: detach: network "pods": plugin "failing": DEL: exit status 1: "no route to the controller")`)
	require.NotNil(t, r.last())

	start := time.Now()
	require.ErrorContains(t, h.Detach(t.Context(), r.last()), "no route to the controller")
	require.NotEmpty(t, h.leased(), "what the other plugins hold must wait for the one that fails")
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "healed"), nil, 0o600))
	h.detach(r.last())
	require.Less(t, time.Since(start), h.config.Timeout, "a daemon that a plugin has left must not hold it up")
	require.NoError(t, killPlugins("a"))
	require.Eventually(t, func() bool { return len(pluginProcesses(t)) == 0 }, time.Minute, 5*time.Millisecond)
	h.requireNothingLeft()
}

// hang makes a plugin that hangs in ADD, in a child that has left its process
// group, after it has made the file "hangs".
func (h *host) hang() string {
	h.plugin("hang", `
if [ $CNI_COMMAND = ADD ]; then
	setsid sh -c 'touch `+h.dir+`/hangs; exec sleep 1000' &
	sleep 1000
fi`)
	return `{"type": "hang"}`
}

func (h *host) awaitHang() {
	require.Eventually(h.t, func() bool {
		_, err := os.Stat(filepath.Join(h.dir, "hangs"))
		return err == nil
	}, 10*time.Second, 5*time.Millisecond)
}

func TestHangingPluginIsKilledAtItsDeadlineWhileOthersAttach(t *testing.T) {
	h := newHost(t)
	h.config.Timeout = 3 * time.Second
	bridge := h.bridge(false, "10.88.0.0/24")
	h.uses(bridge, h.hang())
	slow, pod := h.pod("slow"), h.pod("a")
	var r records
	failed := make(chan error)
	go func() {
		_, err := h.Attach(t.Context(), slow, r.save)
		failed <- err
	}()
	h.awaitHang()

	h.uses(bridge) // the one that hangs keeps its own configuration
	_, record := h.attach(pod)
	select {
	case err := <-failed:
		require.Fail(t, "the hanging ADD must not have ended yet", "%v", err)
	default:
	}
	err := <-failed
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, `plugin "hang": ADD: killed before it answered`)
	require.NotContains(t, err.Error(), "undo")
	require.Nil(t, r.last())
	require.Len(t, h.leased(), 1, "the slow pod's address must be free again")
	h.detach(record)
	h.requireNothingLeft()
}

func TestCancelledAttachIsRolledBack(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"), h.hang())
	ctx, cancel := context.WithCancel(t.Context())
	pod := h.pod("a")
	failed := make(chan error)
	var r records
	go func() {
		_, err := h.Attach(ctx, pod, r.save)
		failed <- err
	}()
	h.awaitHang()
	cancel()
	require.ErrorIs(t, <-failed, context.Canceled)
	require.Nil(t, r.last())
	h.requireNothingLeft()
}

func TestKilledPluginIsRolledBack(t *testing.T) {
	h := newHost(t)
	h.plugin("suicide", `[ $CNI_COMMAND = DEL ] || kill -9 $$`)
	h.uses(h.bridge(true, "10.88.0.0/24"), `{"type": "suicide"}`)
	var r records
	_, err := h.Attach(t.Context(), h.pod("a"), r.save)
	require.ErrorContains(t, err, `plugin "suicide": ADD: signal: killed`)
	h.requireNothingLeft()
}

func TestDetachWorksWithoutTheNamespace(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(false, "10.88.0.0/24"), portmap)
	pod := h.pod("a")
	pod.PortMappings = []PortMapping{{HostPort: 8080, ContainerPort: 80}}
	_, record := h.attach(pod)
	require.NoError(t, unix.Unmount(pod.NetNS, unix.MNT_DETACH)) // as after a reboot: a file without a mount
	h.detach(record)
	require.NoError(t, os.Remove(pod.NetNS))
	h.detach(record)
	require.Eventually(t, func() bool { return len(veths(t)) == 0 }, time.Minute, 5*time.Millisecond,
		"the kernel takes the namespace apart in its own time")
	h.requireNothingLeft()
}

func TestDetachUsesTheConfigurationOfItsAttach(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"), portmap)
	pod := h.pod("a")
	pod.PortMappings = []PortMapping{{HostPort: 8080, ContainerPort: 80}}
	_, record := h.attach(pod)
	require.NoError(t, os.RemoveAll(h.config.ConfDir))

	later, err := New(h.config) // a node agent of tomorrow, which has read nothing
	require.NoError(t, err)
	require.NoError(t, later.Detach(t.Context(), record))
	h.requireNothingLeft()
}

func TestMissingPluginIsAnErrorOfDetachUntilItIsBack(t *testing.T) {
	h := newHost(t)
	h.plugin("own", `[ $CNI_COMMAND = DEL ] || echo '{"ips": [{"address": "10.0.0.2/24"}]}'`)
	h.uses(`{"type": "own"}`)
	_, record := h.attach(h.pod("a"))
	path := filepath.Join(h.script, "own")
	require.NoError(t, os.Rename(path, path+".away"))
	err := h.Detach(t.Context(), record)
	require.ErrorContains(t, err, `plugin "own" not found in `+h.script)
	require.False(t, errdefs.IsNotFound(err), "nobody must take this for detached")
	require.NoError(t, os.Rename(path+".away", path))
	h.detach(record)
}

func TestMissingPluginLetsNothingBegin(t *testing.T) {
	h := newHost(t)
	h.plugin("own", "")
	h.uses(h.bridge(true, "10.88.0.0/24"), `{"type": "own"}`)
	require.NoError(t, os.Remove(filepath.Join(h.script, "own")))
	var r records
	_, err := h.Attach(t.Context(), h.pod("a"), r.save)
	require.True(t, errdefs.IsUnavailable(err), "%v", err)
	require.Empty(t, r.saved)
	h.requireNothingLeft()
}

func TestNetworkWithoutAnAddressIsRolledBack(t *testing.T) {
	h := newHost(t)
	h.plugin("empty", `echo $CNI_COMMAND >> `+h.dir+`/ran; [ $CNI_COMMAND = DEL ] || echo '{}'`)
	h.uses(`{"type": "empty"}`)
	var r records
	_, err := h.Attach(t.Context(), h.pod("a"), r.save)
	require.ErrorContains(t, err, `result of network "pods": no IP address for the pod`)
	require.Nil(t, r.last())
	ran, err := os.ReadFile(filepath.Join(h.dir, "ran"))
	require.NoError(t, err)
	require.Equal(t, "ADD\nDEL\n", string(ran))
}

func TestDetachAfterACrashWaitsForThePlugins(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"), `{"type": "firewall"}`, h.hang())
	record := h.attachAndCrash()
	require.NotEmpty(t, pluginProcesses(t), "plugins outlive the node agent")

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	err := h.Detach(ctx, record)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "earlier plugins still run")
	require.NotEmpty(t, h.leased(), "no DEL beside an ADD")

	h.config.Timeout = 2 * time.Second
	h.detach(record) // kills what hangs
	h.requireNothingLeft()
}

func TestPluginGoneMadDoesNotFillMemory(t *testing.T) {
	h := newHost(t)
	h.plugin("mad", `[ $CNI_COMMAND = DEL ] || head -c 3000000 /dev/zero`)
	h.uses(`{"type": "mad"}`)
	var r records
	_, err := h.Attach(t.Context(), h.pod("a"), r.save)
	require.ErrorContains(t, err, "answer is longer than 1048576 bytes")
}

func TestDaemonLeftByAPluginHoldsNothingUp(t *testing.T) {
	h := newHost(t)
	h.plugin("daemon", `
if [ $CNI_COMMAND = ADD ]; then
	setsid sleep 1000 &
	echo $! > `+h.dir+`/pid
	echo '{"ips": [{"address": "10.0.0.2/24"}]}'
else
	kill $(cat `+h.dir+`/pid)
fi`)
	h.uses(`{"type": "daemon"}`)
	start := time.Now()
	_, record := h.attach(h.pod("a"))
	h.detach(record)
	require.Less(t, time.Since(start), time.Minute)
	require.Eventually(t, func() bool { return len(pluginProcesses(t)) == 0 }, time.Minute, 5*time.Millisecond)
}
