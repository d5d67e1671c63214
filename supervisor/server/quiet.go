package server

import (
	"runtime/debug"
	"sync"
	"time"
)

// quietAfter is how long nothing must have happened before memory is given back.
const quietAfter = 500 * time.Millisecond

// quieter gives freed memory back to the kernel once things are quiet, so that an
// idle supervisor is small; a timer runs only after something has happened.
type quieter struct {
	mu    sync.Mutex
	timer *time.Timer // guarded by mu; nil until the first touch
}

// touch says that something has happened.
func (q *quieter) touch() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.timer == nil {
		q.timer = time.AfterFunc(quietAfter, func() {
			debug.FreeOSMemory() // the first run empties the pools' victims
			debug.FreeOSMemory()
		})
		return
	}
	q.timer.Reset(quietAfter)
}

// stop ends the timer.
func (q *quieter) stop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.timer != nil {
		q.timer.Stop()
	}
}
