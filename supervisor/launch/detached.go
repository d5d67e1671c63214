package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/supervisor"
)

// Detached launches supervisors as children of this process in a session and
// cgroup of their own; they outlive it. Their stderr goes to supervisor.log in the
// run folder. The zero value is ready for use.
//
// No init ends a pod with its supervisor here. What shares the pod's PID namespace
// dies with it; an app that has its own is killed by the engine, which notices at
// once, or, where none runs, when one starts or at rkt's gc. The kernel offers
// nothing better: a parent death signal is for the process itself to ask for, and an
// outer PID namespace would keep the app's exit from the supervisor.
type Detached struct {
	mu       sync.Mutex
	children map[string]int // guarded by mu; pids of supervisors started, by pod, until reaped
}

// Cgroup implements Launcher.
func (d *Detached) Cgroup(parent, pod string) (string, error) {
	if err := checkPod(pod); err != nil {
		return "", err
	}
	if parent != "" && !filepath.IsAbs(parent) {
		return "", fmt.Errorf("cgroup parent %q: want an absolute path: %w", parent, errdefs.ErrInvalidArgument)
	}
	return filepath.Join("/", parent, prefix+pod), nil
}

// Launch implements Launcher. The supervisor is born in its cgroup.
func (d *Detached) Launch(ctx context.Context, spec Spec) (err error) {
	path, err := d.Cgroup(spec.Parent, spec.Pod)
	if err != nil {
		return err
	}
	d.reap()
	if locked, err := hasSupervisor(spec.PodDir); err != nil || locked {
		return errors.Join(err, alreadyRuns(spec, locked))
	}
	own := filepath.Join(path, supervisor.CgroupName)
	if err = cgroup.Make(own); err == nil {
		err = d.start(spec, own)
	}
	if err != nil {
		if rerr := cgroup.Remove(ctx, path); rerr != nil {
			err = fmt.Errorf("%w (undo: %v)", err, rerr)
		}
		return fmt.Errorf("launch pod %s: %w", spec.Pod, err)
	}
	return nil
}

func alreadyRuns(spec Spec, locked bool) error {
	if !locked {
		return nil
	}
	return fmt.Errorf("launch pod %s: it has a supervisor: %w", spec.Pod, errdefs.ErrAlreadyExists)
}

// hasSupervisor says whether somebody holds the lock of the pod's folder.
func hasSupervisor(podDir string) (bool, error) {
	f, err := os.Open(podDir)
	if err != nil {
		return false, err
	}
	defer f.Close()
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

func (d *Detached) start(spec Spec, group string) error {
	listener, err := listen(spec)
	if err != nil {
		return err
	}
	defer listener.Close()
	log, err := os.OpenFile(filepath.Join(spec.RunDir, "supervisor.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	var pid int
	attr := &syscall.ProcAttr{
		Dir:   "/",
		Env:   environment,
		Files: []uintptr{listener.Fd(), log.Fd(), log.Fd()},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	err = cgroup.ForkInto(group, attr.Sys, func() (err error) {
		pid, err = syscall.ForkExec(spec.Binary, []string{spec.Binary, spec.PodDir, spec.RunDir}, attr)
		return err
	})
	if err != nil {
		return fmt.Errorf("start %s: %w", spec.Binary, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.children == nil {
		d.children = map[string]int{}
	}
	d.children[spec.Pod] = pid
	return nil
}

// reap collects supervisors that have exited. It is called by every other method,
// so none stays a zombie for longer than its pod's record, at no cost of a
// goroutine and a thread per pod.
func (d *Detached) reap() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for pod, pid := range d.children {
		if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got == pid || errors.Is(err, unix.ECHILD) {
			delete(d.children, pod)
		}
	}
}

// Kill implements Launcher.
func (d *Detached) Kill(ctx context.Context, parent, pod string) error {
	path, err := d.Cgroup(parent, pod)
	if err != nil {
		return err
	}
	defer d.reap()
	if err := d.killOutside(ctx, pod); err != nil {
		return fmt.Errorf("kill pod %s: %w", pod, err)
	}
	if err := cgroup.Kill(ctx, path); err != nil {
		return fmt.Errorf("kill pod %s: %w", pod, err)
	}
	if err := cgroup.Remove(ctx, path); err != nil {
		return fmt.Errorf("kill pod %s: %w", pod, err)
	}
	return nil
}

// killOutside kills a supervisor of ours that has not entered its cgroup yet, and
// reaps it.
func (d *Detached) killOutside(ctx context.Context, pod string) error {
	d.mu.Lock()
	pid, ok := d.children[pod]
	delete(d.children, pod) // it is ours to reap now
	d.mu.Unlock()
	if !ok {
		return nil
	}
	if err := unix.Kill(pid, unix.SIGKILL); err != nil { // not reaped yet, so the pid is its
		return err
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); got == pid || errors.Is(err, unix.ECHILD) {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			d.mu.Lock()
			defer d.mu.Unlock()
			d.children[pod] = pid
			return fmt.Errorf("supervisor %d does not end: %w", pid, ctx.Err())
		}
	}
}

// Find implements Launcher.
func (d *Detached) Find(_ context.Context, pod string) (parents []string, err error) {
	if err := checkPod(pod); err != nil {
		return nil, err
	}
	for _, path := range cgroup.Find(prefix + pod) {
		parents = append(parents, filepath.Dir(path))
	}
	return parents, nil
}

// List implements Launcher.
func (d *Detached) List(_ context.Context, _ string, parents []string) (pods []string, err error) {
	d.reap()
	for _, parent := range parents {
		for _, name := range cgroup.Children(filepath.Join("/", parent)) {
			if pod, ok := strings.CutPrefix(name, prefix); ok && checkPod(pod) == nil {
				pods = append(pods, pod)
			}
		}
	}
	return pods, nil
}
