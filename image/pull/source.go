package pull

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/types"
)

// errShort says that a source ended a blob before its size.
var errShort = errors.New("the source ended early")

// source is an image's source, opened anew when the registry no longer takes
// its token. It is closed when the pull that opened it and all jobs that use
// it have let go.
type source struct {
	cfg Config
	sys *types.SystemContext
	ref types.ImageReference

	mu    sync.Mutex
	src   types.ImageSource // guarded by mu
	stale []io.Closer       // guarded by mu; replaced ones that may still be read from
	users int               // guarded by mu
}

func (s *source) hold() *source {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
	return s
}

func (s *source) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users > 0 {
		return
	}
	if s.src != nil {
		s.stale = append(s.stale, s.src)
	}
	for _, c := range s.stale {
		c.Close() // it was only read from: nothing is lost
	}
	s.src, s.stale = nil, nil
}

// get opens the source if it is not open.
func (s *source) get(ctx context.Context) (types.ImageSource, error) {
	s.mu.Lock()
	src := s.src
	s.mu.Unlock()
	if src != nil {
		return src, nil
	}
	src, err := s.ref.NewImageSource(ctx, s.sys)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.src != nil { // another job was quicker
		src.Close()
		return s.src, nil
	}
	s.src = src
	return src, nil
}

// reopen makes the next get log in again.
func (s *source) reopen(old types.ImageSource) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.src == old && old != nil {
		s.stale = append(s.stale, old)
		s.src = nil
	}
}

// try calls ask until it succeeds or another try is of no use. A refused token
// is renewed, without a pause: it may have ended in mid-pull. Each call of ask must itself end when the source stalls.
func (s *source) try(ctx context.Context, ask func(context.Context, types.ImageSource) error) error {
	for attempt, renewed := 0, 0; ; {
		src, err := s.attempt(ctx, ask)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case isUnauthorized(err) && renewed < s.cfg.Retries && src != nil:
			renewed++
			s.reopen(src)
			continue
		case attempt >= s.cfg.Retries || !isTransient(err):
			return err
		}
		if err := pause(ctx, s.cfg.RetryDelay<<attempt); err != nil {
			return err
		}
		attempt++
	}
}

func (s *source) attempt(ctx context.Context, ask func(context.Context, types.ImageSource) error) (src types.ImageSource, err error) {
	err = s.guard(ctx, func(ctx context.Context) error {
		src, err = s.get(ctx)
		return err
	})
	if err != nil {
		return src, &sourceError{err}
	}
	return src, ask(ctx, src)
}

// guard cancels f, a short exchange with the source, when nothing has moved for
// the stall timeout. The library tries the mirrors of a registry in turn within
// one call, so each step of a request counts as progress: several that are slow
// to fail must not use up the time of the one that works.
func (s *source) guard(ctx context.Context, f func(context.Context) error) error {
	inner, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var endpoint atomic.Value // the last that was asked
	endpoint.Store("")
	timer := time.AfterFunc(s.cfg.StallTimeout, func() { cancel(s.stalled(endpoint.Load().(string))) })
	defer timer.Stop()
	moved := func() {
		if inner.Err() == nil {
			timer.Reset(s.cfg.StallTimeout)
		}
	}
	err := f(httptrace.WithClientTrace(inner, &httptrace.ClientTrace{
		GetConn: func(hostPort string) {
			endpoint.Store(hostPort)
			moved()
		},
		ConnectStart:         func(_, _ string) { moved() },
		ConnectDone:          func(_, _ string, _ error) { moved() },
		TLSHandshakeDone:     func(tls.ConnectionState, error) { moved() },
		GotFirstResponseByte: moved,
	}))
	if err != nil && ctx.Err() == nil && inner.Err() != nil {
		return context.Cause(inner)
	}
	return err
}

// stalled is the error of an endpoint that may be unknown.
func (s *source) stalled(endpoint string) error {
	if endpoint == "" {
		return fmt.Errorf("%w for %s", errStalled, s.cfg.StallTimeout)
	}
	return fmt.Errorf("%w for %s from %s", errStalled, s.cfg.StallTimeout, endpoint)
}

// exchange tries one short request.
func (s *source) exchange(ctx context.Context, ask func(context.Context, types.ImageSource) error) error {
	return s.try(ctx, func(ctx context.Context, src types.ImageSource) error {
		err := s.guard(ctx, func(ctx context.Context) error { return ask(ctx, src) })
		if err != nil {
			return &sourceError{err}
		}
		return nil
	})
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d/2 + rand.N(d))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// blob opens one blob. Reading it fails with errStalled, by way of cancel, when
// nothing comes for the stall timeout.
func (s *source) blob(ctx context.Context, src types.ImageSource, info types.BlobInfo, cancel context.CancelCauseFunc) (*blobReader, error) {
	var body io.ReadCloser
	timer := time.AfterFunc(s.cfg.StallTimeout, func() { cancel(s.stalled("")) })
	body, size, err := src.GetBlob(ctx, info, none.NoCache)
	timer.Stop()
	if err != nil {
		return nil, &sourceError{causeOr(ctx, err)}
	}
	if info.Size >= 0 && size >= 0 && size != info.Size {
		body.Close()
		return nil, fmt.Errorf("blob %s: the registry has %d bytes, the manifest says %d", info.Digest, size, info.Size)
	}
	return &blobReader{ctx: ctx, body: body, timer: timer, patience: s.cfg.StallTimeout, want: info.Size, cancel: cancel}, nil
}

func causeOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// blobReader reads a blob and watches that it moves. Only the time within Read
// counts: a slow disk is not the source's fault.
type blobReader struct {
	ctx      context.Context // of the one transfer that it is
	body     io.ReadCloser
	timer    *time.Timer
	cancel   context.CancelCauseFunc
	patience time.Duration
	want     int64 // -1 if unknown
	got      int64
	moved    func(total int64)
}

func (r *blobReader) Read(p []byte) (int, error) {
	r.timer.Reset(r.patience)
	n, err := r.body.Read(p)
	r.timer.Stop()
	r.got += int64(n)
	if n > 0 && r.moved != nil {
		r.moved(r.got)
	}
	switch {
	case r.want >= 0 && r.got > r.want:
		return 0, fmt.Errorf("the blob is longer than the %d bytes that the manifest says", r.want)
	case errors.Is(err, io.EOF) && r.want >= 0 && r.got < r.want:
		return n, &sourceError{fmt.Errorf("%w: %d of %d bytes", errShort, r.got, r.want)}
	case err != nil && !errors.Is(err, io.EOF):
		return n, &sourceError{causeOr(r.ctx, err)}
	}
	return n, err
}

func (r *blobReader) Close() error {
	r.timer.Stop()
	return r.body.Close()
}
