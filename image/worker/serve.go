package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"go.podman.io/image/v5/types"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
)

// Parse makes a source of the string that an import names.
type Parse func(source string) (types.ImageReference, error)

// Main is the child's whole main, after reexec.Init (see package store). It
// returns when the parent has closed the socket or ctx ends. Parse may be nil
// if nothing is imported through this program.
func Main(ctx context.Context, parse Parse) error {
	f := os.NewFile(socketFD, "worker socket")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("image worker: file descriptor %d is not the parent's socket: it is started by the kubelet or by rkt, not by hand: %w", socketFD, err)
	}
	defer conn.Close()
	return serve(ctx, conn, parse)
}

type server struct {
	engine *pull.Engine
	parse  Parse

	sendMu sync.Mutex
	send   *json.Encoder // guarded by sendMu

	mu      sync.Mutex
	cancels map[uint64]context.CancelFunc // guarded by mu
}

func serve(ctx context.Context, conn net.Conn, parse Parse) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	s := &server{parse: parse, send: json.NewEncoder(conn), cancels: map[uint64]context.CancelFunc{}}
	receive := json.NewDecoder(conn)
	st, err := s.greet(ctx, receive)
	if err != nil {
		s.reply(message{Error: toWire(err)})
		return err
	}
	defer st.Close()

	var wg sync.WaitGroup
	defer s.engine.Wait()
	defer wg.Wait()
	defer cancel()
	for {
		var m message
		if err := receive.Decode(&m); err != nil {
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("image worker: read request: %w", err)
		}
		if m.Cancel {
			s.cancel(m.ID)
			continue
		}
		rctx := s.begin(ctx, m.ID)
		wg.Go(func() {
			defer s.cancel(m.ID)
			s.answer(rctx, m)
		})
	}
}

// greet reads the first message and opens what it names.
func (s *server) greet(ctx context.Context, receive *json.Decoder) (*store.Store, error) {
	var m message
	if err := receive.Decode(&m); err != nil {
		return nil, fmt.Errorf("image worker: read hello: %w", err)
	}
	if m.Hello == nil || m.Hello.Version != version {
		return nil, fmt.Errorf("image worker: it speaks version %d of its protocol and the parent another: %w", version, errdefs.ErrFailedPrecondition)
	}
	st, err := store.Open(ctx, m.Hello.Store)
	if err != nil {
		return nil, err
	}
	s.engine = pull.New(st, m.Hello.Pull)
	s.reply(message{Hello: &hello{Version: version}})
	return st, nil
}

func (s *server) begin(ctx context.Context, id uint64) context.Context {
	ctx, cancel := context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cancels[id] = cancel
	return ctx
}

func (s *server) cancel(id uint64) {
	s.mu.Lock()
	cancel := s.cancels[id]
	delete(s.cancels, id)
	s.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

func (s *server) answer(ctx context.Context, m message) {
	var progress pull.Progress
	if m.Progress {
		progress = func(ev pull.Event) { s.reply(message{ID: m.ID, Event: &ev}) }
	}
	res, err := s.do(ctx, m, progress)
	if err != nil {
		s.reply(message{ID: m.ID, Error: toWire(err)})
		return
	}
	s.reply(message{ID: m.ID, Result: &res})
}

func (s *server) do(ctx context.Context, m message, progress pull.Progress) (pull.Result, error) {
	switch {
	case m.Pull != nil:
		return s.engine.Pull(ctx, *m.Pull, progress)
	case m.Import != nil && s.parse != nil:
		ref, err := s.parse(m.Import.Source)
		if err != nil {
			return pull.Result{}, fmt.Errorf("import %s: %w", m.Import.Source, err)
		}
		return s.engine.Import(ctx, ref, m.Import.Names, progress)
	}
	return pull.Result{}, fmt.Errorf("image worker: unknown request: %w", errdefs.ErrNotImplemented)
}

// reply sends one message. If the parent is gone, the read side notices.
func (s *server) reply(m message) {
	s.sendMu.Lock()
	defer s.sendMu.Unlock()
	s.send.Encode(m) //nolint:errcheck // see above
}
