package pod

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// flights joins requests for the same thing: while one is under way, the next with
// the same key waits for its outcome instead of starting another.
type flights[K comparable, V any] struct {
	mu   sync.Mutex
	open map[K]*flight[V] // guarded by mu
}

type flight[V any] struct {
	cancel  context.CancelFunc
	waiters int           // guarded by flights.mu; 0 means that it was given up
	done    chan struct{} // closed when what follows is final
	value   V
	err     error
	panic   string // not empty: work panicked
}

// do returns what work returns. Work goes on as long as anybody waits for it; when
// the last one gives up, its context ends, and that last one waits until it has.
func (f *flights[K, V]) do(ctx context.Context, key K, work func(context.Context) (V, error)) (V, error) {
	for {
		fl, joined := f.board(ctx, key, work)
		if joined {
			return f.await(ctx, fl)
		}
		select { // one that was given up is still being undone
		case <-fl.done:
		case <-ctx.Done():
			var none V
			return none, ctx.Err()
		}
	}
}

// board joins the flight for key, or starts one. It cannot join one given up.
func (f *flights[K, V]) board(ctx context.Context, key K, work func(context.Context) (V, error)) (_ *flight[V], joined bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl := f.open[key]; fl != nil {
		if fl.waiters == 0 {
			return fl, false
		}
		fl.waiters++
		return fl, true
	}
	if f.open == nil {
		f.open = map[K]*flight[V]{}
	}
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	fl := &flight[V]{cancel: cancel, waiters: 1, done: make(chan struct{})}
	f.open[key] = fl
	go f.fly(wctx, key, fl, work)
	return fl, true
}

func (f *flights[K, V]) fly(ctx context.Context, key K, fl *flight[V], work func(context.Context) (V, error)) {
	defer func() {
		if p := recover(); p != nil { // the one who asked panics instead, where it is caught
			fl.panic = fmt.Sprintf("%v\n%s", p, debug.Stack())
		}
		fl.cancel()
		f.mu.Lock()
		delete(f.open, key)
		f.mu.Unlock()
		close(fl.done)
	}()
	fl.value, fl.err = work(ctx)
}

func (f *flights[K, V]) await(ctx context.Context, fl *flight[V]) (V, error) {
	select {
	case <-fl.done:
	case <-ctx.Done():
		if f.leave(fl) {
			fl.cancel()
			<-fl.done
		}
		var none V
		return none, ctx.Err()
	}
	if fl.panic != "" {
		panic(fl.panic)
	}
	return fl.value, fl.err
}

// leave says whether it was the last to wait.
func (f *flights[K, V]) leave(fl *flight[V]) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	fl.waiters--
	return fl.waiters == 0
}
