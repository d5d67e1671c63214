package server

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// maxLine is the most bytes of output in one log line; a longer line of the app
// is split into parts marked P.
const maxLine = 16 << 10

// flushAt bounds the text that one write carries.
const flushAt = 64 << 10

// criLog is an app's log file in CRI format: "<RFC 3339 time> <stream> <P|F> <text>".
// Both streams write whole lines in the order in which they were read. It never
// makes a writer wait for space: what does not fit is dropped, counted, and
// reported in the log once there is room.
type criLog struct {
	mu        sync.Mutex
	path      string
	f         *os.File
	closed    bool
	lost      int64 // bytes of output dropped and not reported yet
	lostTotal int64
	why       error // of the last loss
}

// openLog opens or makes the log at path.
func openLog(path string) (*criLog, error) {
	f, err := openAppend(path, os.O_CREATE)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	return &criLog{path: path, f: f}, nil
}

func openAppend(path string, flags int) (*os.File, error) {
	return os.OpenFile(path, flags|os.O_WRONLY|os.O_APPEND, 0o640)
}

// reopen turns to a new file at the log's path, which somebody has renamed. If
// that fails, the old file stays in use.
//
// Once the log is closed it is FailedPrecondition, and no file is made: hence the
// open under the lock.
func (l *criLog) reopen() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("it is complete: %w", errdefs.ErrFailedPrecondition)
	}
	f, err := openAppend(l.path, os.O_CREATE)
	if err != nil {
		return fmt.Errorf("reopen log: %w", err)
	}
	old := l.f
	l.f = f
	l.reportLoss()
	return old.Close()
}

func (l *criLog) close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reportLoss()
	l.closed = true
	return l.f.Close()
}

// lostBytes returns how much output has been dropped since the app was created.
func (l *criLog) lostBytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lostTotal
}

// write appends text, which consists of whole lines carrying payload bytes of
// output.
func (l *criLog) write(text []byte, payload int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost > 0 && !l.reportLoss() {
		l.drop(payload, l.why)
		return
	}
	if kept, err := l.append(text); err != nil {
		// Count what the lines that did get in carried as kept.
		l.drop(payload*int64(len(text)-kept)/int64(len(text)), err)
	}
}

// append writes text, and if only a part fits, takes the torn last line back. It
// returns how many bytes stand.
func (l *criLog) append(text []byte) (int, error) {
	n, err := l.f.Write(text)
	if err == nil {
		return n, nil
	}
	whole := bytes.LastIndexByte(text[:n], '\n') + 1
	if torn := int64(n - whole); torn > 0 {
		if st, serr := l.f.Stat(); serr == nil && st.Size() >= torn {
			err = errors.Join(err, l.f.Truncate(st.Size()-torn))
		}
	}
	return whole, err
}

func (l *criLog) drop(n int64, why error) {
	l.lost += max(n, 1)
	l.lostTotal += max(n, 1)
	l.why = why
}

// reportLoss writes the record of what was dropped and says whether none is
// outstanding.
func (l *criLog) reportLoss() bool {
	if l.lost == 0 {
		return true
	}
	why := l.why
	var errno syscall.Errno
	if errors.As(why, &errno) {
		why = errno
	}
	line := appendHead(nil, time.Now(), "stderr", true)
	line = append(line, "rktshim: about "...)
	line = strconv.AppendInt(line, l.lost, 10)
	line = append(line, " bytes of output lost here: "...)
	line = append(line, why.Error()...)
	line = append(line, '\n')
	if _, err := l.append(line); err != nil {
		return false
	}
	l.lost = 0
	return true
}

// timeForm is RFC 3339 with all nine digits, so that lines align.
const timeForm = "2006-01-02T15:04:05.000000000Z07:00"

func appendHead(b []byte, now time.Time, stream string, full bool) []byte {
	b = now.UTC().AppendFormat(b, timeForm)
	b = append(b, ' ')
	b = append(b, stream...)
	if full {
		return append(b, " F "...)
	}
	return append(b, " P "...)
}

// lineSplitter turns one stream of an app into log lines. It is used by one
// goroutine at a time.
type lineSplitter struct {
	log    *criLog
	stream string
	carry  []byte // a line that has no end yet, at most maxLine bytes
}

// feed logs what one read gave.
func (s *lineSplitter) feed(chunk []byte) {
	if s.log == nil {
		return
	}
	var out []byte
	var payload int64
	now := time.Now()
	head := appendHead(make([]byte, 0, 64), now, s.stream, true)
	emit := func(line []byte, full bool) {
		head[len(head)-2] = 'P'
		if full {
			head[len(head)-2] = 'F'
		}
		out = append(append(append(out, head...), line...), '\n')
		payload += int64(len(line))
		if len(out) >= flushAt {
			s.log.write(out, payload)
			out, payload = out[:0], 0
		}
	}
	for len(chunk) > 0 {
		end := bytes.IndexByte(chunk, '\n')
		line, rest := chunk, []byte(nil)
		if end >= 0 {
			line, rest = chunk[:end], chunk[end+1:]
		}
		for len(s.carry)+len(line) > maxLine {
			n := maxLine - len(s.carry)
			if len(s.carry) > 0 {
				emit(append(s.carry, line[:n]...), false)
				s.carry = nil
			} else {
				emit(line[:n], false)
			}
			line = line[n:]
		}
		switch {
		case end < 0:
			s.carry = append(s.carry, line...)
		case len(s.carry) > 0:
			emit(append(s.carry, line...), true)
			s.carry = nil
		default:
			emit(line, true)
		}
		chunk = rest
	}
	if len(out) > 0 {
		s.log.write(out, payload)
	}
}

// finish logs a last line that has no end, marked P: it was no whole line.
func (s *lineSplitter) finish() {
	if s.log == nil || len(s.carry) == 0 {
		return
	}
	out := appendHead(nil, time.Now(), s.stream, false)
	out = append(append(out, s.carry...), '\n')
	s.log.write(out, int64(len(s.carry)))
	s.carry = nil
}
