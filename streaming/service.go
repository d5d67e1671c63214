// Package streaming serves the sessions of CRI: Exec, Attach and PortForward. Each
// call answers with a URL on loopback that holds good once, for a minute; the
// kubelet connects its client to it, by SPDY or by WebSocket.
//
// What a session carries goes through pipes whose other ends the process itself
// holds (exec), or its pod's supervisor (attach), or through a socket in the pod's
// network namespace (port-forward): nothing stands between, and no more is kept here
// than one buffer per stream.
//
// A session ends with its client: when the connection is closed or reset, also
// behind data that nobody takes, or when its peer has not answered the kernel for
// half a minute. An exec's processes end with it.
package streaming

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	cristreaming "k8s.io/cri-streaming/pkg/streaming"
)

// Container is what is asked about a container before a session.
type Container struct {
	TTY   bool // it has a terminal
	Stdin bool // its stdin is kept open
}

// Stdio are the ends of pipes that a process gets. A nil one is left out.
type Stdio struct{ Stdin, Stdout, Stderr *os.File }

// Process is one exec under way.
type Process interface {
	// Terminal is the master side of its terminal if it has one, else nil. It is
	// the caller's to close.
	Terminal() *os.File
	// Resize sets the size of the terminal.
	Resize(ctx context.Context, rows, cols int) error
	// Wait blocks until the process has ended and returns its exit code. When ctx
	// ends first, all that it has started is ended. It is called once.
	Wait(ctx context.Context) (code int, err error)
}

// Runtime is what sessions need of the engine. An unknown container or pod is
// NotFound, one that does not run FailedPrecondition.
type Runtime interface {
	// Container returns a running container.
	Container(id string) (Container, error)
	// Exec starts a process in a container, with stdio or with a terminal. The
	// files stay the caller's.
	Exec(ctx context.Context, container string, cmd []string, tty bool, stdio Stdio) (Process, error)
	// Attach begins to copy a container's output, from now on, and stdin to it, and
	// returns what waits until the container has ended and all was written, or ctx
	// ends, which ends the copying. The files stay the caller's.
	Attach(ctx context.Context, container string, stdio Stdio) (wait func(context.Context) error, err error)
	// Resize sets the size of a container's terminal.
	Resize(ctx context.Context, container string, rows, cols int) error
	// Network returns the path of a running pod's network namespace, empty for the
	// host's.
	Network(pod string) (path string, err error)
}

// keepAlive finds peers that have vanished.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// Service answers CRI's calls for sessions and serves them. Its methods are safe
// for concurrent use.
type Service struct {
	runtime  Runtime
	listener *listener
	urls     cristreaming.Server

	mu       sync.Mutex
	ending   bool                // guarded by mu; no session may begin
	handlers sync.WaitGroup      // sessions whose client is connected
	sessions map[string]*session // guarded by mu; those of them that have a key
}

// New opens a listener on a port of loopback. Either Run or Close must be called.
func New(runtime Runtime) (*Service, error) {
	return listen(runtime, keepAlive)
}

func listen(runtime Runtime, alive net.KeepAliveConfig) (*Service, error) {
	s := &Service{runtime: runtime, sessions: map[string]*session{}}
	var err error
	if s.listener, err = newListener(alive); err != nil {
		return nil, fmt.Errorf("listen for sessions: %w", err)
	}
	cfg := cristreaming.DefaultConfig
	cfg.BaseURL = &url.URL{Scheme: "http", Host: s.listener.Addr().String(), Path: "/"}
	if s.urls, err = cristreaming.NewServer(cfg, bridge{s}); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close gives the port up where Run is not called. It may be called again, and
// after Run.
func (s *Service) Close() error { return s.listener.Close() }

// Run serves sessions until ctx ends, then ends those under way and waits for them.
func (s *Service) Run(ctx context.Context) error {
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ConnContext:       withConn,
		ConnState:         noteHijack,
	}
	var g errgroup.Group
	g.Go(func() error { return s.listener.watch() })
	g.Go(func() error {
		err := server.Serve(s.listener)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		s.listener.Close() // ends the watch
		return err
	})
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	err := g.Wait()
	s.mu.Lock()
	s.ending = true
	s.mu.Unlock()
	s.listener.abortAll()
	s.handlers.Wait()
	s.listener.conns.Wait()
	if err != nil {
		return fmt.Errorf("serve sessions: %w", err)
	}
	return nil
}

// Exec implements runtime.v1.RuntimeService.
func (s *Service) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if len(req.GetCmd()) == 0 {
		return nil, invalid("cmd", "is empty")
	}
	if err := checkStreams(req.GetStdin(), req.GetStdout(), req.GetStderr(), req.GetTty()); err != nil {
		return nil, err
	}
	if _, err := s.container(req.GetContainerId()); err != nil {
		return nil, err
	}
	return s.urls.GetExec(req)
}

// Attach implements runtime.v1.RuntimeService. stdin is asked for only of a
// container that keeps it, a terminal only of one that has it.
func (s *Service) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := checkStreams(req.GetStdin(), req.GetStdout(), req.GetStderr(), req.GetTty()); err != nil {
		return nil, err
	}
	c, err := s.container(req.GetContainerId())
	switch {
	case err != nil:
		return nil, err
	case req.GetTty() && !c.TTY:
		return nil, fmt.Errorf("tty: container %s has no terminal: %w", req.GetContainerId(), errdefs.ErrFailedPrecondition)
	case req.GetStdin() && !c.Stdin:
		return nil, fmt.Errorf("stdin: container %s keeps none open: %w", req.GetContainerId(), errdefs.ErrFailedPrecondition)
	}
	return s.urls.GetAttach(req)
}

// PortForward implements runtime.v1.RuntimeService.
func (s *Service) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	for i, port := range req.GetPort() {
		if port < 1 || port > 65535 {
			return nil, invalid(fmt.Sprintf("port[%d]", i), "%d is no port", port)
		}
	}
	if req.GetPodSandboxId() == "" {
		return nil, invalid("pod_sandbox_id", "is empty")
	}
	if _, err := s.runtime.Network(req.GetPodSandboxId()); err != nil {
		return nil, fmt.Errorf("pod_sandbox_id: %w", err)
	}
	return s.forwardURL(req)
}

func (s *Service) container(id string) (Container, error) {
	if id == "" {
		return Container{}, invalid("container_id", "is empty")
	}
	c, err := s.runtime.Container(id)
	if err != nil {
		return c, fmt.Errorf("container_id: %w", err)
	}
	return c, nil
}

func checkStreams(stdin, stdout, stderr, tty bool) error {
	switch {
	case tty && stderr:
		return invalid("stderr", "is part of stdout with tty")
	case !stdin && !stdout && !stderr:
		return invalid("stdin, stdout, stderr", "none is asked for")
	}
	return nil
}

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%s: %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}
