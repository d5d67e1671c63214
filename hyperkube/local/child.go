package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stopPatience is how long a component may take to end before it is killed.
const stopPatience = 15 * time.Second

// child is a running component.
type child struct {
	component
	log    string
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has been waited for
}

// startChild starts a component with its output in a file, and reports on died
// when it has ended. It is told to end if this process dies.
func startChild(c component, logFile string, died chan<- *child) (*child, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	k := &child{component: c, log: logFile, cmd: self(append([]string{c.name}, c.args...)...), exited: make(chan struct{})}
	k.cmd.Stdout, k.cmd.Stderr = log, log
	k.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGTERM}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the parent, to Pdeathsig, is the thread
		defer runtime.UnlockOSThread()
		err := k.cmd.Start()
		started <- err
		if err == nil {
			k.cmd.Wait()
			close(k.exited)
			died <- k
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	return k, nil
}

// self is this program with other arguments. It is the running file, even if
// another was put in its place.
func self(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	if path, err := os.Executable(); err == nil {
		cmd.Args[0] = filepath.Join(filepath.Dir(path), "hyperkube") // for ps(1)
	}
	return cmd
}

// stop ends the component, by force if it takes too long, and waits for it.
func (k *child) stop() {
	k.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-k.exited:
	case <-time.After(stopPatience):
		k.cmd.Process.Kill()
		<-k.exited
	}
}

// died says how the component ended and what it said last.
func (k *child) died() error {
	how := fmt.Sprintf("ended with exit code %d", k.cmd.ProcessState.ExitCode())
	if ws, ok := k.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		how = fmt.Sprintf("was killed by signal %d (%s)", int(ws.Signal()), ws.Signal())
	}
	return fmt.Errorf("%s %s; the end of %s:\n%s", k.name, how, k.log, tail(k.log, tailLines))
}

// Of a log's end at most so much is shown.
const (
	tailLines     = 20
	tailLineBytes = 1000
	tailBytes     = 1 << 20
)

// tail gives the last lines of a file, for an error. Long lines are cut.
func tail(file string, lines int) string {
	f, err := os.Open(file)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err.Error()
	}
	from := max(0, size-tailBytes)
	b, err := io.ReadAll(io.NewSectionReader(f, from, size-from))
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(b, "\n"), []byte("\n"))
	all = all[max(0, len(all)-lines):]
	out := make([]string, len(all))
	for i, line := range all {
		out[i] = string(line)
		if cut := len(line) - tailLineBytes; cut > 0 {
			out[i] = fmt.Sprintf("%s… (%d bytes more)", line[:tailLineBytes], cut)
		}
	}
	return strings.Join(out, "\n")
}

// children are the components that run, in the order of their starts.
type children struct {
	node
	all  []*child
	died chan *child
}

func (n node) newChildren() *children {
	return &children{node: n, died: make(chan *child, 16)} // more than there are components
}

// start starts a component and notes its process.
func (cs *children) start(c component) error {
	k, err := startChild(c, cs.log(c.name), cs.died)
	if err != nil {
		return err
	}
	cs.all = append(cs.all, k)
	return cs.noteProcess(c.name, k.cmd.Process.Pid)
}

// stop ends all, the last started first: each finds what it needs to end.
func (cs *children) stop() {
	for i := len(cs.all) - 1; i >= 0; i-- {
		cs.all[i].stop()
	}
	cs.all = nil
}

// waitPatience is how long each step of a start may take.
const waitPatience = 3 * time.Minute

// wait polls until done says so. It returns an error when a component has died,
// or when it takes too long: then with the last reason that done gave.
func (cs *children) wait(ctx context.Context, what string, done func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, waitPatience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var why error
	for {
		now := done(ctx)
		if ctx.Err() == nil || now == nil { // else it says no more than that the time is up
			why = now
		}
		select { // another program may have answered for a dead component
		case k := <-cs.died:
			return k.died()
		default:
		}
		if why == nil {
			return nil
		}
		select {
		case k := <-cs.died:
			return k.died()
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("%s: not after %s: %w; the logs are in %s", what, waitPatience, why, filepath.Dir(cs.log("")))
			}
			return ctx.Err()
		case <-tick.C:
		}
	}
}
