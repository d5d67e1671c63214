package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/fsnotify/fsnotify"

	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/pod/operator"
)

// logReader prints a log in CRI format: "<time> <stream> <P|F> <text>", where P marks
// a part of a line that goes on.
type logReader struct {
	path       string
	out        io.Writer
	timestamps bool

	f       *os.File
	rest    []byte // a line that has no end yet
	partial bool   // the last line printed was a part
}

// quietLook is how often the end of an app is looked for while its log is silent,
// and files anew, should the kernel have told of no change.
const quietLook = time.Second

// print prints what there is, the last tail lines of it unless tail is negative.
func (l *logReader) print(tail int) (err error) {
	if l.f, err = os.Open(l.path); err != nil {
		return err
	}
	defer l.f.Close()
	if err := l.seek(tail); err != nil {
		return err
	}
	return l.drain()
}

// seek goes to the last tail lines of the file.
func (l *logReader) seek(tail int) error {
	if tail < 0 {
		return nil
	}
	end, err := l.f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	start, err := tailStart(l.f, end, tail)
	if err != nil {
		return err
	}
	_, err = l.f.Seek(start, io.SeekStart)
	return err
}

// tailStart returns where the last n lines before end begin.
func tailStart(r io.ReaderAt, end int64, n int) (int64, error) {
	chunk := make([]byte, 64<<10)
	lines := -1 // the end of the last line is no beginning
	for at := end; at > 0; {
		size := min(at, int64(len(chunk)))
		at -= size
		if _, err := r.ReadAt(chunk[:size], at); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
		for i := size - 1; i >= 0; i-- {
			if chunk[i] != '\n' {
				if lines < 0 {
					lines = 0 // the last line is not finished, but one
				}
				continue
			}
			if lines++; lines == n {
				return at + i + 1, nil
			}
		}
	}
	if n == 0 {
		return end, nil
	}
	return 0, nil
}

// drain prints from the open file to its end.
func (l *logReader) drain() error {
	w := bufio.NewWriterSize(l.out, 64<<10)
	r := bufio.NewReaderSize(l.f, 64<<10)
	for {
		line, err := r.ReadSlice('\n')
		l.rest = append(l.rest, line...)
		if err == nil {
			l.line(w, l.rest)
			l.rest = l.rest[:0]
		}
		switch {
		case errors.Is(err, io.EOF):
			return w.Flush()
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return errors.Join(err, w.Flush())
		}
	}
}

// line prints one line of the log, which ends in '\n'. What is not in the format is
// printed as it is.
func (l *logReader) line(w *bufio.Writer, line []byte) {
	stamp, rest, ok := bytes.Cut(line, []byte(" "))
	_, rest, ok2 := bytes.Cut(rest, []byte(" "))
	tag, text, ok3 := bytes.Cut(rest, []byte(" "))
	part := bytes.Equal(tag, []byte("P"))
	if !ok || !ok2 || !ok3 || !part && !bytes.Equal(tag, []byte("F")) {
		w.Write(line) // w keeps the error for Flush
		l.partial = false
		return
	}
	if l.timestamps && !l.partial {
		w.Write(stamp)
		w.WriteByte(' ')
	}
	if part {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	w.Write(text)
	l.partial = part
}

// follow prints what there is and what comes, until ended says that the app has and
// all is printed, or ctx is done. Both are no error.
func (l *logReader) follow(ctx context.Context, tail int, ended func() (bool, error)) (err error) {
	watch, err := fsnotify.NewWatcher()
	if err != nil {
		watch = &fsnotify.Watcher{} // nil channels: quietLook is what remains
	} else {
		defer watch.Close()
		// The folder's changes tell of files that come and of what is written to them.
		_ = watch.Add(filepath.Dir(l.path))
	}
	if l.f, err = os.Open(l.path); err != nil {
		return err
	}
	defer func() { l.f.Close() }()
	if err := l.seek(tail); err != nil {
		return err
	}
	tick := time.NewTicker(quietLook)
	defer tick.Stop()
	over, err := ended()
	for err == nil {
		// After the question: what an app wrote is in its log when it has ended.
		if err = l.catchUp(); err != nil || over {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-watch.Events:
		case <-watch.Errors:
		case <-tick.C:
			over, err = ended()
		}
	}
	return err
}

// catchUp prints all there is, in the open file and in those after it.
func (l *logReader) catchUp() error {
	for turned := true; turned; {
		if err := l.drain(); err != nil {
			return err
		}
		var err error
		if turned, err = l.turn(); err != nil {
			return err
		}
	}
	return nil
}

// turn goes on with the file that now has the log's path, if it is another one: the
// old one was renamed, and is complete once a new one is there.
func (l *logReader) turn() (bool, error) {
	next, err := os.Open(l.path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil // renamed, and not opened anew yet; or removed
	}
	if err != nil {
		return false, err
	}
	same, err := sameFile(l.f, next)
	if err == nil && !same {
		err = l.drain() // what came between the last read and the new file
	}
	if err != nil || same {
		return false, errors.Join(err, next.Close())
	}
	l.f.Close()
	l.f, l.rest = next, l.rest[:0]
	return true, nil
}

func sameFile(a, b *os.File) (bool, error) {
	ai, err := a.Stat()
	if err != nil {
		return false, err
	}
	bi, err := b.Stat()
	if err != nil {
		return false, err
	}
	return os.SameFile(ai, bi), nil
}

// hasEnded says whether nothing more comes from an app.
func hasEnded(ctx context.Context, n *operator.Node, a namedApp) (bool, error) {
	s, err := n.Pod(ctx, a.Pod)
	switch {
	case errdefs.IsNotFound(err):
		return true, nil
	case ctx.Err() != nil:
		return false, nil
	case err != nil:
		return false, fmt.Errorf("look at pod %s: %w", a.Pod, err)
	}
	for _, now := range s.Apps {
		if now.ID == a.ID {
			return now.State == pod.Exited, nil
		}
	}
	return true, nil
}
