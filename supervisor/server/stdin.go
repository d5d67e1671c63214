package server

import (
	"io"
	"os"
	"sync"

	"github.com/rktnetes/rktshim/supervisor"
)

// stdin is our end of an app's standard input.
type stdin struct {
	once bool // closes for good when the first attach that had it ends
	tty  bool // f is the terminal, which also gives output

	mu     sync.Mutex
	f      *os.File
	closed bool // guarded by mu
}

func newTTYStdin(master *os.File, spec supervisor.AppSpec) *stdin {
	if !spec.Stdin {
		return nil
	}
	return &stdin{f: master, tty: true, once: spec.StdinOnce}
}

// copyFrom hands on what src gives until it ends or is closed.
func (i *stdin) copyFrom(src *os.File) {
	_, _ = io.Copy(writerOnly{i.f}, src) // either side may go at any time
	if i.once {
		i.close()
	}
}

// writerOnly hides (*os.File).ReadFrom, whose splice would hold a pipe.
type writerOnly struct{ io.Writer }

func (i *stdin) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed || i.tty { // the terminal's master is closed with the streams
		return
	}
	i.closed = true
	i.f.Close()
}
