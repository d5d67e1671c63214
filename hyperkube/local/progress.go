package local

import (
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// progress shows the steps of a start, with their times.
type progress struct {
	out    io.Writer
	parent *os.File // set when another process shows the progress
}

// newProgress writes to out, or to the process that started this one for it.
func newProgress(out io.Writer) *progress {
	if os.Getenv(progressEnv) == "" {
		return &progress{out: out}
	}
	os.Unsetenv(progressEnv)
	unix.CloseOnExec(progressFD) // components must not keep it open
	f := os.NewFile(progressFD, "progress")
	return &progress{out: f, parent: f}
}

// step announces a step; the function it returns says that it is done.
func (p *progress) step(what string) (done func()) {
	start := time.Now()
	return func() { p.say("%-62s %6.2f s", what, time.Since(start).Seconds()) }
}

func (p *progress) say(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

// ready ends the progress: whoever waits for it goes on.
func (p *progress) ready() {
	if p.parent != nil {
		fmt.Fprintln(p.parent, readyLine)
		p.close()
	}
}

func (p *progress) close() {
	if p.parent != nil {
		p.parent.Close()
	}
}
