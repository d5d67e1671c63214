package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"sync"
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

func TestAgentKilledAtAnyMomentLeavesWhatItsRecordsTellOf(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(true, "10.88.0.0/24"), `{"type": "firewall"}`, portmap)
	for _, id := range churnPods {
		h.pod(id)
	}
	for after := 50 * time.Millisecond; after < 350*time.Millisecond; after += 61 * time.Millisecond {
		h.kill(h.helper("churn"), func() { time.Sleep(after) }) // the moment is what the test is about
		var wg sync.WaitGroup
		for _, id := range churnPods {
			wg.Go(func() {
				record, err := saved(h.dir, id)
				if err == nil {
					err = h.Detach(t.Context(), record)
				}
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		require.NoError(t, h.Sweep(func(string) bool { return false }))
		h.requireNothingLeft()
	}
}
