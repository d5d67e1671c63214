package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestManyPodsAtOnceGetDifferentAddressesAndLeaveNothing(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"), `{"type": "firewall"}`, portmap)
	var mu sync.Mutex
	pods := make(map[netip.Addr]string)
	all := make(map[string]json.RawMessage)
	var wg sync.WaitGroup
	for i := range 20 {
		pod := h.pod(fmt.Sprint("pod-", i))
		pod.PortMappings = []PortMapping{{HostPort: 8000 + i, ContainerPort: 80}}
		wg.Go(func() {
			var r records
			result, err := h.Attach(t.Context(), pod, r.save)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			pods[result.IPs[0]] = pod.ID
			all[pod.ID] = r.last()
		})
	}
	wg.Wait()
	require.Len(t, pods, 20)
	for _, record := range all {
		wg.Go(func() {
			if err := h.Detach(t.Context(), record); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	h.requireNothingLeft()
}

func TestAttachCancelledAtAnyMomentLeavesNothing(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"), `{"type": "firewall"}`, portmap)
	cancelled := 0
	for after := 0 * time.Millisecond; after < 60*time.Millisecond; after += 3 * time.Millisecond {
		pod := h.pod(after.String())
		pod.PortMappings = []PortMapping{{HostPort: 8080, ContainerPort: 80}}
		ctx, cancel := context.WithTimeout(t.Context(), after)
		var r records
		_, err := h.Attach(ctx, pod, r.save)
		cancel()
		if err == nil {
			h.detach(r.last())
			continue
		}
		cancelled++
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NotContains(t, err.Error(), "undo")
	}
	require.NotZero(t, cancelled)
	h.requireNothingLeft()
}

const churning = "RKT_NETWORK_TEST_CHURN" // folder of the host to attach pods on

// TestChurn is not a test but the node agent that the next one kills: it attaches
// and detaches pods without end and keeps their records in files.
func TestChurn(t *testing.T) {
	dir := os.Getenv(churning)
	if dir == "" {
		t.Skip("only for TestAgentKilledAtAnyMomentLeavesWhatItsRecordsTellOf")
	}
	n := agent(t, dir)
	var wg sync.WaitGroup
	for _, id := range churnPods {
		wg.Go(func() {
			for {
				pod := Pod{ID: id, NetNS: filepath.Join(dir, "netns", id), PortMappings: []PortMapping{{HostPort: 8000 + int(id[0]), ContainerPort: 80}}}
				if _, err := n.Attach(t.Context(), pod, saveIn(dir, id)); err != nil {
					t.Error(err)
					return
				}
				record, err := os.ReadFile(filepath.Join(dir, "records", id))
				if err == nil {
					err = n.Detach(t.Context(), record)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

var churnPods = []string{"a", "b", "c", "d"}

// agent is the CNI of another process on the host in dir.
func agent(t *testing.T, dir string) *CNI {
	n, err := New(Config{
		ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{filepath.Join(dir, "bin"), debianPlugins},
		RunDir: filepath.Join(dir, "run"), Timeout: time.Minute,
	})
	require.NoError(t, err)
	n.read(t.Context())
	return n
}

// saveIn keeps a pod's record as a file that is whole or not there.
func saveIn(dir, pod string) Save {
	path := filepath.Join(dir, "records", pod)
	return func(_ context.Context, record json.RawMessage) error {
		return errors.Join(os.WriteFile(path+".new", record, 0o600), os.Rename(path+".new", path))
	}
}

func TestAgentKilledAtAnyMomentLeavesWhatItsRecordsTellOf(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"), `{"type": "firewall"}`, portmap)
	require.NoError(t, os.Mkdir(filepath.Join(h.dir, "records"), 0o700))
	for _, id := range churnPods {
		h.pod(id)
	}
	for after := 50 * time.Millisecond; after < 350*time.Millisecond; after += 61 * time.Millisecond {
		agent := exec.Command("/proc/self/exe", "-test.run=^TestChurn$")
		agent.Env = append(os.Environ(), churning+"="+h.dir)
		agent.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		require.NoError(t, agent.Start())
		time.Sleep(after) // the moment is what the test is about
		require.NoError(t, agent.Process.Kill())
		require.ErrorContains(t, agent.Wait(), "killed")
		var wg sync.WaitGroup
		for _, id := range churnPods {
			wg.Go(func() {
				record, err := os.ReadFile(filepath.Join(h.dir, "records", id))
				if err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
				if err := h.Detach(t.Context(), record); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.NoError(t, h.Sweep(func(string) bool { return false }))
		h.requireNothingLeft()
	}
}
