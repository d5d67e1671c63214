// Package keylock orders work on things that have names: one holder for each key
// at a time, any number of keys at once.
package keylock

import (
	"context"
	"fmt"
	"sync"
)

// Locks is a set of locks by key. Its zero value is ready, and a key that nobody
// holds or waits for costs no memory. It must not be copied after first use.
type Locks[K comparable] struct {
	mu   sync.Mutex
	keys map[K]*lock // guarded by mu
}

type lock struct {
	held  chan struct{} // capacity 1, full while held
	users int           // holder and waiters; guarded by Locks.mu
}

// Lock waits until the caller is the only holder of key, in order of arrival, or
// until ctx ends. Its error wraps ctx.Err(), and then nothing is held. A context
// that has already ended gets no lock, even a free one.
func (l *Locks[K]) Lock(ctx context.Context, key K) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("lock %v: %w", key, err)
	}
	k := l.join(key)
	select {
	case k.held <- struct{}{}:
		return nil
	case <-ctx.Done():
		l.mu.Lock()
		defer l.mu.Unlock()
		l.leaveLocked(key, k)
		return fmt.Errorf("lock %v: %w", key, ctx.Err())
	}
}

// TryLock takes the lock of key if nobody holds it and says whether it did.
func (l *Locks[K]) TryLock(key K) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys[key] != nil {
		return false
	}
	l.joinLocked(key).held <- struct{}{}
	return true
}

// Unlock gives key to the next that waits. It panics if nobody holds key.
func (l *Locks[K]) Unlock(key K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[key]
	if k == nil {
		panic(fmt.Sprintf("keylock: unlock of %v, which is not locked", key))
	}
	select {
	case <-k.held:
	default:
		panic(fmt.Sprintf("keylock: unlock of %v, which is not locked", key))
	}
	l.leaveLocked(key, k)
}

func (l *Locks[K]) join(key K) *lock {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.joinLocked(key)
}

func (l *Locks[K]) joinLocked(key K) *lock {
	k := l.keys[key]
	if k == nil {
		if l.keys == nil {
			l.keys = make(map[K]*lock)
		}
		k = &lock{held: make(chan struct{}, 1)}
		l.keys[key] = k
	}
	k.users++
	return k
}

func (l *Locks[K]) leaveLocked(key K, k *lock) {
	if k.users--; k.users == 0 {
		delete(l.keys, key)
	}
}
