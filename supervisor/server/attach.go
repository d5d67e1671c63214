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
	if req.Stdin && a.stdin == nil {
		return fmt.Errorf("attach to app %s: it has no stdin: %w", a.spec.Name, errdefs.ErrFailedPrecondition)
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
	k := &sink{stdout: own[want-2], stderr: own[want-1], gone: make(chan struct{})}
	a.sinks.add(k)
	defer a.sinks.remove(k)
	var wg sync.WaitGroup
	defer wg.Wait()
	if req.Stdin {
		defer own[0].Close() // ends the copy
		wg.Go(func() { a.stdin.copyFrom(own[0]) })
	}
	select {
	case <-k.gone:
	case <-a.exited:
	case <-ctx.Done():
	}
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
