package reap

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Command says what to start.
type Command struct {
	Path string   // absolute path of the binary
	Args []string // with the program's own name first
	Env  []string // nil means empty, not inherited
	Dir  string   // empty means "/"

	// Files become descriptors 0, 1, 2, … of the process; a nil one is
	// /dev/null. Fewer than three are filled up with /dev/null. They stay open
	// here and belong to the caller.
	Files []*os.File

	// Sys is passed to the fork, nil for none. Do not use its Pdeathsig: that fires
	// when the forking thread ends, and packages cgroup and namespace end threads.
	Sys *syscall.SysProcAttr
}

// Start forks and execs; the process's exit is collected by Run.
func (r *Reaper) Start(cmd Command) (*Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	defer null.Close()
	files := make([]uintptr, max(3, len(cmd.Files)))
	for i := range files {
		files[i] = null.Fd()
		if i < len(cmd.Files) && cmd.Files[i] != nil {
			if files[i], err = rawFD(cmd.Files[i]); err != nil {
				return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
			}
		}
	}
	dir := cmd.Dir
	if dir == "" {
		dir = "/"
	}
	env := cmd.Env
	if env == nil {
		env = []string{}
	}
	claim := r.Claim()
	defer claim.Release()
	pid, err := syscall.ForkExec(cmd.Path, cmd.Args, &syscall.ProcAttr{Dir: dir, Env: env, Files: files, Sys: cmd.Sys})
	runtime.KeepAlive(cmd.Files)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return claim.Adopt(pid)
}

// rawFD is (*os.File).Fd without its turning the file to blocking mode.
func rawFD(f *os.File) (uintptr, error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var fd uintptr
	err = conn.Control(func(n uintptr) { fd = n })
	return fd, err
}

// RunCommand starts a command and waits for its end. When ctx is done first, the
// command is killed and ctx's error returned.
func (r *Reaper) RunCommand(ctx context.Context, cmd Command) (Status, error) {
	p, err := r.Start(cmd)
	if err != nil {
		return Status{}, err
	}
	st, err := p.Wait(ctx)
	if err != nil {
		_ = p.Signal(unix.SIGKILL) // it may have ended meanwhile
		<-p.Done()
		return Status{}, fmt.Errorf("run %s: %w", cmd.Path, err)
	}
	return st, nil
}
