package transport

import (
	"context"
	"fmt"
	"path"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
)

// unary is the interceptor of calls with one answer.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	return s.call(ctx, info.FullMethod, req, func(ctx context.Context) (any, error) { return next(ctx, req) })
}

// stream is the interceptor of calls with a stream of answers.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	_, err := s.call(ss.Context(), info.FullMethod, nil, func(ctx context.Context) (any, error) {
		return nil, next(srv, &streamWithContext{ServerStream: ss, ctx: ctx})
	})
	return err
}

// streamWithContext is a stream whose handler sees the context that carries our
// logger.
type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

func (s *streamWithContext) Context() context.Context { return s.ctx }

// call runs one call of either kind: counted, with the object's id on the
// context's logger, safe from panics, its error turned into a status, and logged.
func (s *Server) call(ctx context.Context, fullMethod string, req any, run func(context.Context) (any, error)) (resp any, err error) {
	method, start := path.Base(fullMethod), time.Now()
	c := s.calls.begin(method)
	defer s.calls.end(c)

	logger := klog.LoggerWithValues(s.calls.logger, idsOf(req)...)
	resp, err = recovered(klog.NewContext(ctx, logger), method, run)
	if err = toStatus(method, err); err != nil {
		resp = nil
	}
	took := time.Since(start)
	if s.cfg.Observe != nil {
		s.cfg.Observe(method, status.Code(err).String(), took)
	}
	logCall(logger, method, resp, err, took)
	return resp, err
}

// recovered runs a call and turns its panic into an internal error; the stack
// goes to the log, not to the caller.
func recovered(ctx context.Context, method string, run func(context.Context) (any, error)) (resp any, err error) {
	defer func() {
		if p := recover(); p != nil {
			klog.FromContext(ctx).Error(nil, "Panic in a CRI call", "method", method, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			resp, err = nil, fmt.Errorf("%s panicked: %v; the stack is in the log, please report it: %w", method, p, errdefs.ErrInternal)
		}
	}()
	return run(ctx)
}
