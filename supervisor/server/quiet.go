package server

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// quietAfter is how long nothing must have happened before memory is given back.
const quietAfter = 500 * time.Millisecond

// quieter gives memory back to the kernel once things are quiet, so that an idle
// supervisor is small; a timer runs only after something has happened.
type quieter struct {
	mu    sync.Mutex
	timer *time.Timer // guarded by mu; nil until the first touch
}

// touch says that something has happened.
func (q *quieter) touch() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.timer == nil {
		q.timer = time.AfterFunc(quietAfter, shrink)
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

// shrink gives back free heap, and the pages of the binary that booting has touched
// and idling does not need; they come back from the page cache when they are used.
func shrink() {
	var gc debug.GCStats
	if debug.ReadGCStats(&gc); gc.NumGC > 0 { // else a collection costs more than it frees
		debug.FreeOSMemory() // makes victims of pooled buffers
		debug.FreeOSMemory() // frees them
	}
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	for line := range strings.Lines(string(maps)) {
		start, size, ok := readOnlyFilePages(line)
		if ok {
			_, _, _ = unix.Syscall(unix.SYS_MADVISE, start, size, unix.MADV_DONTNEED) // a hint
		}
	}
}

// readOnlyFilePages parses a line of /proc/self/maps and says whether it is a
// mapping of a file that cannot have been written to.
func readOnlyFilePages(line string) (start, size uintptr, ok bool) {
	f := strings.Fields(line)
	if len(f) < 6 || f[5][0] != '/' || f[1] != "r-xp" && f[1] != "r--p" {
		return 0, 0, false
	}
	from, to, _ := strings.Cut(f[0], "-")
	a, errA := strconv.ParseUint(from, 16, 64)
	b, errB := strconv.ParseUint(to, 16, 64)
	if errA != nil || errB != nil || b <= a {
		return 0, 0, false
	}
	return uintptr(a), uintptr(b - a), true
}
