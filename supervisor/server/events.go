package server

import (
	"sync"

	"github.com/rktnetes/rktshim/supervisor"
)

// eventLog keeps what happened until the engine has acknowledged it.
type eventLog struct {
	mu      sync.Mutex
	last    uint64             // guarded by mu, as is what follows
	kept    []supervisor.Event // ascending
	changed chan struct{}      // closed and replaced when an event is added
}

func newEventLog() *eventLog { return &eventLog{changed: make(chan struct{})} }

// add numbers and keeps an event.
func (l *eventLog) add(ev supervisor.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last++
	ev.Seq = l.last
	l.kept = append(l.kept, ev)
	close(l.changed)
	l.changed = make(chan struct{})
}

// after returns the kept events with a number above seq, and a channel that is
// closed when there may be more.
func (l *eventLog) after(seq uint64) ([]supervisor.Event, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := 0
	for i < len(l.kept) && l.kept[i].Seq <= seq {
		i++
	}
	return append([]supervisor.Event(nil), l.kept[i:]...), l.changed
}

// ack forgets all events up to seq.
func (l *eventLog) ack(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := 0
	for i < len(l.kept) && l.kept[i].Seq <= seq {
		i++
	}
	l.kept = append([]supervisor.Event(nil), l.kept[i:]...)
}

// seq returns the number of the last event.
func (l *eventLog) seq() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last
}
