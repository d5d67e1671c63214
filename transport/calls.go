package transport

import (
	"fmt"
	"sort"
	"strings"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// calls knows the calls that are running, so that a shutdown can wait for them
// and name those that do not end.
type calls struct {
	logger klog.Logger // set before the first call

	mu      sync.Mutex
	running map[*call]struct{} // guarded by mu
	idle    chan struct{}      // guarded by mu; closed when the last one ends; nil unless somebody waits
}

type call struct {
	method string
	start  time.Time
}

func (cs *calls) begin(method string) *call {
	c := &call{method: method, start: time.Now()}
	cs.mu.Lock()
	defer cs.mu.Unlock()
	if cs.running == nil {
		cs.running = make(map[*call]struct{})
	}
	cs.running[c] = struct{}{}
	return c
}

func (cs *calls) end(c *call) {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	delete(cs.running, c)
	if len(cs.running) == 0 && cs.idle != nil {
		close(cs.idle)
		cs.idle = nil
	}
}

// wait waits until no call runs, at most for patience, and then names those that
// still do. No call may begin any more.
func (cs *calls) wait(patience time.Duration) error {
	cs.mu.Lock()
	if len(cs.running) == 0 {
		cs.mu.Unlock()
		return nil
	}
	idle := make(chan struct{})
	cs.idle = idle
	cs.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-idle:
		return nil
	case <-timer.C:
		return fmt.Errorf("shut down the CRI server: calls ignore their cancellation: %s", cs)
	}
}

// String lists the running calls with their ages.
func (cs *calls) String() string {
	cs.mu.Lock()
	defer cs.mu.Unlock()
	var names []string
	for c := range cs.running {
		names = append(names, fmt.Sprintf("%s (%s)", c.method, time.Since(c.start).Round(time.Millisecond)))
	}
	sort.Strings(names)
	return strings.Join(names, ", ")
}
