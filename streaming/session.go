package streaming

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

var (
	errGone  = fmt.Errorf("the client has gone: %w", context.Canceled)
	errEnded = errors.New("the session has ended")
)

// session is what one connection of a client carries.
type session struct {
	done <-chan struct{} // closed when it must end

	mu    sync.Mutex
	over  bool           // guarded by mu; nothing may begin any more
	tasks sync.WaitGroup // all that runs for it
}

type sessionKey struct{}

// begin counts a task in, unless the session is over. The task calls tasks.Done.
func (s *session) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return false
	}
	s.tasks.Add(1)
	return true
}

// finish waits for all tasks; no other begins.
func (s *session) finish() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.tasks.Wait()
}

// ServeHTTP implements http.Handler for the URLs that calls have answered with. It
// returns when nothing of the session is left.
func (s *Service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, ok := r.Context().Value(connKey{}).(*conn)
	if !ok {
		http.Error(w, "not a connection to the server of sessions", http.StatusInternalServerError)
		return
	}
	ctx, cancel := context.WithCancelCause(r.Context())
	sess := &session{done: ctx.Done()}
	key, path := cutKey(r.URL.Path)
	if !s.enter(key, sess) {
		http.Error(w, "the runtime is shutting down", http.StatusServiceUnavailable)
		cancel(errEnded)
		return
	}
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-c.gone:
			cancel(errGone)
		case <-ctx.Done():
		}
		if !errors.Is(context.Cause(ctx), errEnded) {
			c.abort() // wakes up all who write to it
		}
	})
	defer func() {
		if c.hijacked.Load() {
			c.Close() // the library may have left it open
		}
		cancel(errEnded)
		watch.Wait()
		sess.finish()
		s.leave(key, sess)
	}()
	c.spdy.Store(r.Header.Get("Upgrade") == spdyUpgrade)
	r = r.WithContext(context.WithValue(ctx, sessionKey{}, sess))
	u := *r.URL
	u.Path, r.URL = path, &u
	s.urls.ServeHTTP(w, r)
}

// enter makes a session known by its key, unless the service ends.
func (s *Service) enter(key string, sess *session) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return false
	}
	s.handlers.Add(1)
	if key != "" {
		s.sessions[key] = sess
	}
	return true
}

func (s *Service) leave(key string, sess *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[key] == sess {
		delete(s.sessions, key)
	}
	s.handlers.Done()
}

// forwardURL makes the URL of a port-forward session. The library gives a forwarder
// neither the request nor its context, nothing but the id of the pod: so that id
// carries a key of ours, and so does the URL, by which the two are brought together.
func (s *Service) forwardURL(req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	key := rand.Text()
	resp, err := s.urls.GetPortForward(&runtimeapi.PortForwardRequest{PodSandboxId: req.GetPodSandboxId() + "/" + key, Port: req.GetPort()})
	if err != nil {
		return nil, err
	}
	u, err := url.Parse(resp.GetUrl())
	if err != nil {
		return nil, fmt.Errorf("read the session's URL: %w", err)
	}
	u.Path = "/" + key + u.Path
	return &runtimeapi.PortForwardResponse{Url: u.String()}, nil
}

// cutKey takes the key off a path that has one.
func cutKey(path string) (key, rest string) {
	parts := strings.SplitN(path, "/", 3)
	if len(parts) == 3 && len(parts[1]) == len(rand.Text()) {
		return parts[1], "/" + parts[2]
	}
	return "", path
}

// bridge is what the library calls when a client has connected.
type bridge struct{ s *Service }

// Exec implements streaming.Runtime of cri-streaming.
func (b bridge) Exec(ctx context.Context, id string, cmd []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	return b.s.exec(ctx, id, cmd, client{in, out, errOut, resize}, tty)
}

// Attach implements streaming.Runtime of cri-streaming.
func (b bridge) Attach(ctx context.Context, id string, in io.Reader, out, errOut io.WriteCloser, _ bool, resize <-chan remotecommand.TerminalSize) error {
	return b.s.attach(ctx, id, client{in, out, errOut, resize})
}

// PortForward implements streaming.Runtime of cri-streaming. Its context is not the
// session's.
func (b bridge) PortForward(ctx context.Context, pod string, port int32, stream io.ReadWriteCloser) error {
	pod, key, _ := strings.Cut(pod, "/")
	b.s.mu.Lock()
	sess := b.s.sessions[key]
	b.s.mu.Unlock()
	if sess == nil || !sess.begin() {
		return errEnded
	}
	defer sess.tasks.Done()
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-sess.done:
			cancel()
		case <-ctx.Done():
		}
	})
	defer watch.Wait()
	defer cancel()
	return b.s.forward(ctx, sess, pod, port, stream)
}
