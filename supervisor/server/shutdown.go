package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/supervisor"
)

// termGrace is what apps get when the supervisor itself is told to end, as systemd
// does at shutdown of the host.
const termGrace = 10 * time.Second

// shutdown ends the pod: apps, then whatever else is in its cgroup, then the
// instance. It may be called again; only after it has succeeded does Run return.
func (s *Server) shutdown(ctx context.Context) error {
	done, first := s.beginShutdown()
	if !first {
		select {
		case <-done:
			return s.downErr
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	err := s.tearDown()
	s.mu.Lock()
	s.downErr = err
	if err != nil {
		s.down = nil // may be tried again
	}
	s.mu.Unlock()
	close(done)
	return err
}

func (s *Server) beginShutdown() (done chan struct{}, first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	if s.down != nil {
		return s.down, false
	}
	s.down = make(chan struct{})
	return s.down, true
}

func (s *Server) tearDown() error {
	s.creating.Wait()
	s.killApps()
	ctx, cancel := context.WithTimeout(context.Background(), killTime)
	defer cancel()
	var errs []error
	if s.spec.Cgroup != "" {
		errs = append(errs, s.clearCgroup(ctx))
	}
	errs = append(errs, s.instance.Stop(ctx))
	if s.spec.Cgroup != "" {
		errs = append(errs, cgroup.Remove(ctx, s.spec.Stage1.Cgroup))
	}
	for _, name := range []string{"ns", "oci", "tmp", "stage1"} {
		errs = append(errs, os.RemoveAll(filepath.Join(s.cfg.RunDir, name)))
	}
	if err := errors.Join(errs...); err != nil {
		s.log.warn("Pod not shut down", err)
		return fmt.Errorf("shut down pod: %w", err)
	}
	s.log.info("Pod shut down")
	return nil
}

// killApps kills all apps and waits until their exits are on disk.
func (s *Server) killApps() {
	var wg sync.WaitGroup
	for _, a := range s.allApps() {
		wg.Go(func() {
			a.kill(context.Background())
			<-a.exited
		})
	}
	wg.Wait()
}

// clearCgroup kills and removes every group of the pod but ours and the instance's.
func (s *Server) clearCgroup(ctx context.Context) error {
	var errs []error
	for _, name := range cgroup.Children(s.spec.Cgroup) {
		path := filepath.Join(s.spec.Cgroup, name)
		if path == s.supervisorCgroup() || path == s.spec.Stage1.Cgroup {
			continue
		}
		err := cgroup.Kill(ctx, path)
		if err == nil {
			err = cgroup.Remove(ctx, path)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// terminate ends the pod politely, without being asked by the engine.
func (s *Server) terminate() {
	s.log.info("Asked to terminate")
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.creating.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), termGrace)
	defer cancel()
	for _, a := range s.allApps() {
		if a.is(supervisor.AppRunning) {
			_ = a.proc.Signal(unix.SIGTERM) // it may have exited
		}
	}
	for _, a := range s.allApps() {
		if a.is(supervisor.AppRunning) {
			select {
			case <-a.exited:
			case <-ctx.Done():
			}
		}
	}
	_ = s.shutdown(context.Background()) // Run returns its error
	s.finish()
}

// finish lets Run return.
func (s *Server) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.over:
	default:
		close(s.over)
	}
}
