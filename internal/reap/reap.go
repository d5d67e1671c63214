// Package reap starts processes and collects every exit of a process that is
// somebody's last parent: the supervisor, which as child subreaper also inherits
// what the OCI runtime leaves behind.
//
// One owner waits for all children; os/exec and wait4 for single children must
// not be used beside it. A process is signalled only under the lock under which
// it would be reaped, so a pid never means another process than the one started.
package reap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Status is how a process ended.
type Status struct {
	Code   int            // exit code; 128+Signal if it was killed
	Signal syscall.Signal // 0 if it exited by itself
}

// Reaper collects the exits of all children of this process. Only one may run
// per process.
type Reaper struct {
	mu     sync.Mutex
	procs  map[int]*Process // guarded by mu; living children that somebody asked for
	claims int              // guarded by mu; starts and adoptions under way
	early  map[int]Status   // guarded by mu; exits of unknown children during a claim
	count  uint64           // guarded by mu; exits collected that nobody asked for
}

// New returns a reaper; nothing is collected before Run.
func New() *Reaper {
	return &Reaper{procs: map[int]*Process{}, early: map[int]Status{}}
}

// Run collects exits until ctx is done. It blocks without waking up while no
// child exits.
func (r *Reaper) Run(ctx context.Context) error {
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	defer signal.Stop(chld)
	for {
		r.collect()
		select {
		case <-chld:
		case <-ctx.Done():
			return nil
		}
	}
}

// collect reaps every child that has exited.
func (r *Reaper) collect() {
	for r.collectOne() {
	}
}

func (r *Reaper) collectOne() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var ws unix.WaitStatus
	pid, err := unix.Wait4(-1, &ws, unix.WNOHANG, nil)
	if errors.Is(err, unix.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	st := Status{Code: ws.ExitStatus()}
	if ws.Signaled() {
		st = Status{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
	}
	if p := r.procs[pid]; p != nil {
		delete(r.procs, pid)
		p.end(st)
		return true
	}
	if r.claims > 0 {
		r.early[pid] = st
		return true
	}
	r.count++
	return true
}

// Orphans returns how many exits were collected that nobody had asked for.
func (r *Reaper) Orphans() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.count
}

// Claim holds back the exits of unknown children until Release, so that a child
// whose pid is learnt only later is not missed when it exits at once.
type Claim struct{ r *Reaper }

// Claim begins a time in which a child may appear; take it before the child can
// exist.
func (r *Reaper) Claim() *Claim {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.claims++
	return &Claim{r}
}

// Release ends the claim.
func (c *Claim) Release() {
	c.r.mu.Lock()
	defer c.r.mu.Unlock()
	if c.r.claims--; c.r.claims == 0 {
		c.r.count += uint64(len(c.r.early))
		clear(c.r.early)
	}
}

// Adopt returns the child with the given pid, which somebody else has forked and
// which became ours when its parent exited. It is an error of class NotFound if
// no such child exists or has existed since the claim.
func (c *Claim) Adopt(pid int) (*Process, error) {
	r := c.r
	r.mu.Lock()
	defer r.mu.Unlock()
	p := &Process{r: r, pid: pid, done: make(chan struct{})}
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil); err != nil {
		st, ok := r.early[pid]
		if !ok {
			return nil, fmt.Errorf("adopt process %d: %w: %w", pid, err, errdefs.ErrNotFound)
		}
		delete(r.early, pid)
		p.end(st)
		return p, nil
	}
	// It is there, so an exit of that pid is another's, which had it before: a busy
	// machine gives a pid again within seconds.
	delete(r.early, pid)
	if r.procs[pid] != nil {
		return nil, fmt.Errorf("adopt process %d: it has an owner already: %w", pid, errdefs.ErrAlreadyExists)
	}
	r.procs[pid] = p
	return p, nil
}

// Process is one child. Its methods are safe for concurrent use.
type Process struct {
	r    *Reaper
	pid  int
	done chan struct{}
	st   Status // valid once done is closed
}

// end is called with the reaper's lock held.
func (p *Process) end(st Status) {
	p.st = st
	close(p.done)
}

// PID returns the pid, which means this process only until Done is closed.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended and been reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status returns how the process ended; call it after Done.
func (p *Process) Status() Status {
	<-p.done
	return p.st
}

// Wait blocks until the process has ended or ctx is done.
func (p *Process) Wait(ctx context.Context) (Status, error) {
	select {
	case <-p.done:
		return p.st, nil
	case <-ctx.Done():
		return Status{}, ctx.Err()
	}
}

// Signal sends sig to the process. One that has ended, reaped or not, is an
// error of class NotFound.
func (p *Process) Signal(sig syscall.Signal) error {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if p.ended() {
		return fmt.Errorf("signal process %d: it has ended: %w", p.pid, errdefs.ErrNotFound)
	}
	if err := unix.Kill(p.pid, sig); err != nil {
		return fmt.Errorf("signal process %d: %w", p.pid, err)
	}
	return nil
}

// While calls f with the pid while the process cannot be reaped, so that f may
// open files below /proc/<pid>. f must be quick. A process that has ended is an
// error of class NotFound.
func (p *Process) While(f func(pid int) error) error {
	p.r.mu.Lock()
	defer p.r.mu.Unlock()
	if p.ended() {
		return fmt.Errorf("process %d has ended: %w", p.pid, errdefs.ErrNotFound)
	}
	return f(p.pid)
}

// ended needs the reaper's lock. A zombie has ended.
func (p *Process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
	}
	var si unix.Siginfo
	err := unix.Waitid(unix.P_PID, p.pid, &si, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
	return err != nil || si.Signo != 0
}
