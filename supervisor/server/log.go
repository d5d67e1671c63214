package server

import (
	"os"
	"strconv"
	"sync"
	"time"
)

// logger writes one line per event with keys, in the form of log/slog's text
// handler; slog itself costs each resident supervisor 700 KB.
type logger struct {
	mu  sync.Mutex
	out *os.File
	pod string
}

func (l *logger) info(msg string, keyvals ...string) { l.line("INFO", msg, nil, keyvals) }

func (l *logger) warn(msg string, err error, keyvals ...string) { l.line("WARN", msg, err, keyvals) }

func (l *logger) line(level, msg string, err error, keyvals []string) {
	b := make([]byte, 0, 256)
	b = append(b, "time="...)
	b = time.Now().UTC().AppendFormat(b, time.RFC3339Nano)
	b = append(b, " level="...)
	b = append(b, level...)
	b = append(b, " msg="...)
	b = strconv.AppendQuote(b, msg)
	b = append(b, " podID="...)
	b = append(b, l.pod...)
	for i := 0; i+1 < len(keyvals); i += 2 {
		b = append(b, ' ')
		b = append(b, keyvals[i]...)
		b = append(b, '=')
		b = strconv.AppendQuote(b, keyvals[i+1])
	}
	if err != nil {
		b = append(b, " err="...)
		b = strconv.AppendQuote(b, err.Error())
	}
	b = append(b, '\n')
	l.mu.Lock()
	defer l.mu.Unlock()
	_, _ = l.out.Write(b) // nobody is left to tell
}
