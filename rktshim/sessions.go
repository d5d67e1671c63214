package rktshim

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/container"
	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/streaming"
	"github.com/rktnetes/rktshim/supervisor"
)

// sessions is the engine as sessions see it: containers are apps, and what runs in
// them is their supervisor's.
type sessions struct {
	engine     *pod.Engine
	containers *container.Service
}

// Container implements streaming.Runtime.
func (s sessions) Container(id string) (streaming.Container, error) {
	app, err := s.running(id)
	if err != nil {
		return streaming.Container{}, err
	}
	return streaming.Container{TTY: app.Spec.TTY, Stdin: app.Spec.Stdin}, nil
}

func (s sessions) running(id string) (pod.App, error) {
	app, err := s.engine.App(pod.AppID(id))
	if err == nil && app.State != pod.Running {
		err = fmt.Errorf("container %s is %s, not running: %w", id, app.State, errdefs.ErrFailedPrecondition)
	}
	return app, err
}

func (s sessions) supervisor(ctx context.Context, id string) (*supervisor.Client, error) {
	app, err := s.running(id)
	if err != nil {
		return nil, err
	}
	return s.engine.Connection(ctx, app.Pod)
}

// Exec implements streaming.Runtime.
func (s sessions) Exec(ctx context.Context, id string, cmd []string, tty bool, stdio streaming.Stdio) (streaming.Process, error) {
	c, err := s.supervisor(ctx, id)
	if err != nil {
		return nil, err
	}
	process, err := s.containers.ExecProcess(pod.AppID(id), cmd, tty)
	if err != nil {
		return nil, err
	}
	session, err := c.Exec(ctx, supervisor.ExecSpec{App: id, Process: process, TTY: tty}, stdio.Stdin, stdio.Stdout, stdio.Stderr)
	if err != nil {
		return nil, err
	}
	return execution{session}, nil
}

// Attach implements streaming.Runtime.
func (s sessions) Attach(ctx context.Context, id string, stdio streaming.Stdio) (wait func(context.Context) error, err error) {
	c, err := s.supervisor(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.BeginAttach(id, stdio.Stdin, stdio.Stdout, stdio.Stderr)
}

// Resize implements streaming.Runtime.
func (s sessions) Resize(ctx context.Context, id string, rows, cols int) error {
	c, err := s.supervisor(ctx, id)
	if err != nil {
		return err
	}
	return c.ResizeApp(ctx, id, rows, cols)
}

// Network implements streaming.Runtime.
func (s sessions) Network(id string) (string, error) {
	p, err := s.engine.Pod(pod.ID(id))
	if err == nil && p.State != pod.Running {
		err = fmt.Errorf("pod %s is %s, not running: %w", id, p.State, errdefs.ErrFailedPrecondition)
	}
	return p.NetNS, err
}

// execution is a supervisor's session as streaming sees it.
type execution struct{ *supervisor.Session }

// Terminal implements streaming.Process.
func (e execution) Terminal() *os.File { return e.Session.Terminal }

// Wait implements streaming.Process.
func (e execution) Wait(ctx context.Context) (int, error) {
	exit, err := e.Session.Wait(ctx)
	return exit.Code, err
}
