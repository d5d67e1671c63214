package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
)

// publish links the instance's namespaces into the run folder, under the names
// that config.json of the apps uses. The links lead to our open descriptors, so
// they name the right namespaces or none.
func (s *Server) publish() error {
	for _, kind := range stage1.Kinds {
		if f := s.instance.Namespace(kind); f != nil {
			if err := s.link(string(kind), f); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Server) link(name string, f *os.File) error {
	path := supervisor.NamespacePath(s.cfg.RunDir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()), path)
}

// linkTarget publishes the PID namespace of the app that a names, for as long as
// the runtime needs to join it.
func (s *Server) linkTarget(a *app) (unlink func(), err error) {
	target := s.findApp(a.spec.PIDOf)
	if target == nil {
		return nil, fmt.Errorf("app %s, whose PID namespace is asked for: %w", a.spec.PIDOf, errdefs.ErrNotFound)
	}
	var ns *os.File
	err = target.proc.While(func(pid int) (err error) {
		ns, err = os.Open("/proc/" + strconv.Itoa(pid) + "/ns/pid")
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("app %s, whose PID namespace is asked for: %w: %w", a.spec.PIDOf, err, errdefs.ErrFailedPrecondition)
	}
	name := "pid-" + a.spec.Name
	if err := s.link(name, ns); err != nil {
		ns.Close()
		return nil, err
	}
	return func() {
		_ = os.Remove(supervisor.NamespacePath(s.cfg.RunDir, name))
		ns.Close()
	}, nil
}
