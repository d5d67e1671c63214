package image

import (
	"context"
	"fmt"
	"time"

	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/image/worker"
)

// Config is what the operator sets about images.
type Config struct {
	Store store.Config
	Pull  pull.Config
	// Worker is the program that pulls, with its arguments; its main calls
	// worker.Main. Example: {"/proc/self/exe", "rkt", "image-worker"}.
	Worker []string
	// WorkerIdle is how long it is kept without work. Zero means 10 s.
	WorkerIdle time.Duration
	// MeasureEvery is how often what containers have written is measured, for
	// ImageFsInfo and container stats. Zero means 1 minute.
	MeasureEvery time.Duration
	// UnusedLayers is how long layers of failed pulls are kept for the next
	// try. Zero means 1 hour.
	UnusedLayers time.Duration
	// InUse, if set, names the containers that use an image in other ways than
	// by a root of this store; such an image is not removed.
	InUse func(imageID string) []string
	// Observe is told of each pull that has ended, with the bytes of layers that came
	// from the registry. Nil: nobody is told.
	Observe func(fetched int64, took time.Duration, err error)
}

// DefaultConfig is a node's.
func DefaultConfig() Config {
	return Config{
		Store:  store.Config{Root: store.DefaultRoot, RunRoot: store.DefaultRunRoot},
		Worker: []string{"/proc/self/exe", "rkt", "image-worker"},
	}
}

// puller is all that the service needs of the worker.
type puller interface {
	Pull(ctx context.Context, req pull.Request, progress pull.Progress) (pull.Result, error)
	Close() error
}

// Service answers CRI's image calls. Reads come from memory.
type Service struct {
	cfg    Config
	store  *store.Store
	puller puller
}

// New opens the store, which includes removing what a killed process left. It
// starts nothing. The caller runs Run, and closes the service after it.
func New(ctx context.Context, cfg Config) (*Service, error) {
	if cfg.MeasureEvery <= 0 {
		cfg.MeasureEvery = time.Minute
	}
	if cfg.UnusedLayers <= 0 {
		cfg.UnusedLayers = time.Hour
	}
	client, err := worker.NewClient(worker.ClientConfig{Command: cfg.Worker, Idle: cfg.WorkerIdle, Store: cfg.Store, Pull: cfg.Pull})
	if err != nil {
		return nil, fmt.Errorf("image service: %w", err)
	}
	st, err := store.Open(ctx, cfg.Store)
	if err != nil {
		return nil, fmt.Errorf("image service: %w", err)
	}
	return &Service{cfg: cfg, store: st, puller: client}, nil
}

// Store is where the images and the roots of containers are.
func (s *Service) Store() *store.Store { return s.store }

// Close ends the worker, whose pulls fail, and gives up the store.
func (s *Service) Close() error {
	err := s.puller.Close()
	if serr := s.store.Close(); err == nil {
		err = serr
	}
	return err
}

// measureNewEvery is how soon a new container's writable layer is known.
const measureNewEvery = 10 * time.Second

// Run measures what containers write and removes layers that failed pulls left,
// until ctx ends. It blocks.
func (s *Service) Run(ctx context.Context) error {
	log := klog.FromContext(ctx)
	var collected time.Time
	// A new container is measured soon, the others when they are due.
	ticker := time.NewTicker(min(s.cfg.MeasureEvery, measureNewEvery))
	defer ticker.Stop()
	for {
		if err := s.store.MeasureRoots(ctx, s.cfg.MeasureEvery); err != nil && ctx.Err() == nil {
			log.Error(err, "Container filesystems not measured")
		}
		if now := time.Now(); now.Sub(collected) >= s.cfg.UnusedLayers/2 {
			collected = now
			s.collect(ctx)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}
