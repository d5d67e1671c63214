package store

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Writeback writes to the disk what was unpacked while it was open, and knows
// whether any of that has failed. The kernel tells a write that failed in the
// background once to each file that was open then, and to the next one that is
// opened: a file opened only for the sync may come too late.
// Its methods may be called at once.
type Writeback struct {
	root *os.File

	mu  sync.Mutex // held while syncing: who comes second must learn of the first one's error
	err error      // guarded by mu; the first one
}

// NewWriteback is opened before the first file is unpacked. The caller closes it.
func (s *Store) NewWriteback() (*Writeback, error) {
	root, err := os.Open(s.cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("sync image store: %w", err)
	}
	return &Writeback{root: root}, nil
}

// Sync writes everything unpacked so far to the disk. CommitImage must come
// after it. Once it has failed it fails for ever.
func (w *Writeback) Sync() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := unix.Syncfs(int(w.root.Fd())); err != nil && w.err == nil {
		w.err = fmt.Errorf("sync image store: %w", err)
	}
	return w.err
}

// Err is the first error of Sync.
func (w *Writeback) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Close gives up the file. It writes nothing.
func (w *Writeback) Close() error { return w.root.Close() }

// Distrust marks layers as damaged, so that the next pull replaces them: they
// may not have reached the disk, for the given reason. Those that are not there
// are passed over.
func (s *Store) Distrust(layers []digest.Digest, reason error) error {
	var errs []error
	for _, chain := range layers {
		if there, _ := s.HasLayer(chain); !there {
			continue
		}
		id := chain.Encoded()
		errs = append(errs, s.mark(id, []Damage{{Layer: id, Path: "/", Problem: reason.Error()}}))
	}
	return errors.Join(errs...)
}
