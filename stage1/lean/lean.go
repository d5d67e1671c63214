// Package lean isolates a pod with nothing resident but the supervisor: it makes
// the pod's namespaces by a thread that is thrown away and pins them by open
// descriptors. Only a pod that shares its PID namespace gets a process, its init.
package lean

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/namespace"
	"github.com/rktnetes/rktshim/internal/reap"
	"github.com/rktnetes/rktshim/stage1"
)

// Isolator is the flavor "lean".
type Isolator struct{}

// Check finds every node fit: the kernel is all that lean needs.
func (Isolator) Check() error { return nil }

// Boot implements stage1.Isolator.
func (Isolator) Boot(ctx context.Context, spec stage1.Spec, host stage1.Host) (_ stage1.Instance, err error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	inst := &instance{spec: spec, files: map[stage1.Kind]*os.File{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, inst.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if err := inst.makeNamespaces(); err != nil {
		return nil, err
	}
	if err := spec.MountShm(); err != nil {
		return nil, err
	}
	if spec.SharedPID {
		if err := inst.startInit(host); err != nil {
			return nil, err
		}
	}
	return inst, nil
}

// Sweep implements stage1.Isolator: only the shared memory outlives a supervisor.
func (Isolator) Sweep(spec stage1.Spec) error { return spec.UnmountShm() }

type instance struct {
	spec  stage1.Spec
	files map[stage1.Kind]*os.File // fixed after Boot
	init  *reap.Process            // nil unless the PID namespace is shared
	life  *os.File                 // while it is open, in this process only, the init lives

	mu      sync.Mutex // held while stopping
	stopped bool
}

// makeNamespaces opens the pod's network and makes the others. Sysctls are set
// from a thread that is in all of them.
func (i *instance) makeNamespaces() error {
	if i.spec.Network != "" {
		f, err := namespace.Open(i.spec.Network, unix.CLONE_NEWNET)
		if err != nil {
			return err
		}
		i.files[stage1.Network] = f
	}
	var kinds []stage1.Kind
	if i.spec.OwnIPC {
		kinds = append(kinds, stage1.IPC)
	}
	if i.spec.OwnUTS {
		kinds = append(kinds, stage1.UTS)
	}
	names := make([]string, len(kinds))
	for n, k := range kinds {
		names[n] = k.Proc()
	}
	files, err := namespace.New(names, func() error {
		if net := i.files[stage1.Network]; net != nil {
			if err := unix.Setns(int(net.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("join network namespace %s: %w", i.spec.Network, err)
			}
		}
		return i.spec.SetupInside()
	})
	if err != nil {
		return err
	}
	for n, k := range kinds {
		i.files[k] = files[n]
	}
	return nil
}

// startInit starts the pod's pid 1. It dies with the supervisor, and all in the
// namespace with it.
func (i *instance) startInit(host stage1.Host) (err error) {
	stdin, life, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start the pod's init: %w", err)
	}
	defer stdin.Close()
	i.life = life
	_ = stdin.Fd() // sets blocking mode
	cmd := reap.Command{
		Path:  host.Init[0],
		Args:  host.Init,
		Files: []*os.File{stdin},
		Sys:   &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWPID},
	}
	start := func() (err error) {
		i.init, err = host.Reaper.Start(cmd)
		return err
	}
	if i.spec.Cgroup == "" {
		err = start()
	} else {
		err = cgroup.ForkInto(i.spec.Cgroup, cmd.Sys, start)
	}
	if err != nil {
		return fmt.Errorf("start the pod's init: %w", err)
	}
	return i.init.While(func(pid int) error {
		f, err := namespace.Open(fmt.Sprintf("/proc/%d/ns/pid", pid), unix.CLONE_NEWPID)
		i.files[stage1.PID] = f
		return err
	})
}

// Namespace implements stage1.Instance.
func (i *instance) Namespace(kind stage1.Kind) *os.File { return i.files[kind] }

// Done implements stage1.Instance.
func (i *instance) Done() <-chan struct{} {
	if i.init == nil {
		return nil
	}
	return i.init.Done()
}

// InitPID implements stage1.InitHolder.
func (i *instance) InitPID() int {
	if i.init == nil {
		return 0
	}
	select {
	case <-i.init.Done():
		return 0
	default:
		return i.init.PID()
	}
}

// Stop implements stage1.Instance.
func (i *instance) Stop(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped {
		return nil
	}
	if i.init != nil {
		_ = i.init.Signal(unix.SIGKILL) // it may have ended
		if _, err := i.init.Wait(ctx); err != nil {
			return fmt.Errorf("stop the pod's init: %w", err)
		}
	}
	if err := i.spec.UnmountShm(); err != nil {
		return err
	}
	for _, f := range i.files {
		namespace.Close(f)
	}
	namespace.Close(i.life)
	i.stopped = true
	return nil
}
