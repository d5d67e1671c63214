package server

import (
	"context"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/supervisor"
)

// attach copies the app's output to the files and the given stdin to the app, until
// the app has ended and its output with it, the readers are gone, or ctx is done.
// files are [stdin], stdout, stderr.
func (s *Server) attach(ctx context.Context, a *app, req supervisor.Request, files []*os.File) error {
	want := 2
	if req.Stdin {
		want = 3
	}
	if err := wantFiles(req, files, want); err != nil {
		return err
	}
	if !a.is(supervisor.AppRunning) {
		return fmt.Errorf("attach to app %s: it is not running: %w", a.spec.Name, errdefs.ErrFailedPrecondition)
	}
	own := make([]*os.File, 0, want)
	defer func() { supervisor.CloseAll(own) }()
	for i, f := range files {
		nb, err := nonBlocking(f)
		if err != nil {
			return fmt.Errorf("attach to app %s: %w", a.spec.Name, err)
		}
		files[i] = nil
		own = append(own, nb)
	}
	var input *os.File // the app's stdin, for this client alone
	if req.Stdin {
		var err error
		if input, err = a.stdin.open(); err != nil {
			return fmt.Errorf("attach to app %s: stdin: %w", a.spec.Name, err)
		}
	}
	k := newSink(own[want-2], own[want-1], a.spec.TTY)
	a.sinks.add(k)
	defer a.sinks.remove(k)
	if input != nil {
		reading, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { a.stdin.copy(reading, input, own[0]) })
		defer wg.Wait()
		defer stop()
	}
	select {
	case <-k.gone:
	case <-a.exited:
	case <-ctx.Done():
	}
	k.finish(ctx)
	return nil
}

func (a *app) reopenLog() error {
	if a.log == nil {
		return fmt.Errorf("reopen log of app %s: it keeps none: %w", a.spec.Name, errdefs.ErrFailedPrecondition)
	}
	if a.is(supervisor.AppExited) {
		return fmt.Errorf("reopen log of app %s: it has exited: %w", a.spec.Name, errdefs.ErrFailedPrecondition)
	}
	if err := a.log.reopen(); err != nil {
		return fmt.Errorf("reopen log of app %s: %w", a.spec.Name, err)
	}
	return nil
}

func (a *app) resize(rows, cols int) error {
	if a.tty == nil {
		return fmt.Errorf("resize app %s: it has no terminal: %w", a.spec.Name, errdefs.ErrFailedPrecondition)
	}
	return setSize(a.tty, rows, cols)
}
