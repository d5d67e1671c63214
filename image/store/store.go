package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"go.podman.io/storage"
	"go.podman.io/storage/types"
)

// Default places of the store, used by the kubelet and by rkt alike.
const (
	DefaultRoot    = "/var/lib/rkt/images"
	DefaultRunRoot = "/run/rkt/images"
)

// Config says where a store lives. It is plain data and crosses to the worker.
type Config struct {
	// Root keeps images, layers and container roots. It must lie on a
	// filesystem on which overlay can have its upper folder: not on overlay.
	Root string `json:"root"`
	// RunRoot keeps what must vanish at reboot: mount counts and mount points.
	RunRoot string `json:"runRoot"`
	// Pinned are path.Match patterns; an image with a tag that matches one
	// reports pinned. Example: "registry.k8s.io/*".
	Pinned []string `json:"pinned,omitempty"`
}

// Store is one folder of images, layers and container roots.
// Its methods may be called from many goroutines and many processes at once.
type Store struct {
	cfg     Config
	lib     storage.Store
	index   index
	usage   usageCache
	bootID  string
	release func() // gives the library's handle back
}

// The library keeps one handle per root in a list that is not safe to shrink
// while another goroutine grows it, so both ends go through openMu.
var (
	openMu sync.Mutex
	opened = map[storage.Store]int{}
)

// Open opens the store, makes it if it is not there, and removes what a killed
// process left half done (see Recover). It starts nothing that outlives it.
// The host's storage.conf has no influence.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if !filepath.IsAbs(cfg.Root) || !filepath.IsAbs(cfg.RunRoot) {
		return nil, fmt.Errorf("open image store: root %q and run root %q must be absolute paths: %w", cfg.Root, cfg.RunRoot, errdefs.ErrInvalidArgument)
	}
	if err := checkPins(cfg.Pinned); err != nil {
		return nil, fmt.Errorf("open image store %s: %w", cfg.Root, err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("open image store %s: read boot id: %w", cfg.Root, err)
	}
	lib, release, err := openLibrary(cfg)
	if err != nil {
		return nil, fmt.Errorf("open image store %s: %w", cfg.Root, err)
	}
	s := &Store{cfg: cfg, lib: lib, bootID: string(boot[:len(boot)-1]), release: release}
	for _, dir := range []string{damagedDir, usedDir, replacedDir, rootsDir} {
		if err := os.MkdirAll(s.own(dir), 0o700); err != nil {
			release()
			return nil, fmt.Errorf("open image store %s: %w", cfg.Root, err)
		}
	}
	if err := s.Recover(ctx); err != nil && !errors.Is(err, errBusy) {
		release()
		return nil, err
	}
	return s, nil
}

// Close gives up the store. Mounted roots stay mounted.
func (s *Store) Close() error {
	s.release()
	return nil
}

// Library is the storage library's handle, for the pull engine and for
// exporting. What is written through it bypasses this package's bookkeeping.
func (s *Store) Library() storage.Store { return s.lib }

// Root is the folder that the store was opened on.
func (s *Store) Root() string { return s.cfg.Root }

// own is the path of one of our files beside storage's.
func (s *Store) own(elem ...string) string {
	return filepath.Join(append([]string{s.cfg.Root, "rkt"}, elem...)...)
}

// noShifting tells the library not to try, once per boot, whether overlay takes
// mapped ids. It tries in a fork of this whole process that execs nothing: killed
// at the wrong moment, the copy waits for a scheduler that it does not have, for
// ever, with the locks of the store.
const noShifting = "_CONTAINERS_OVERLAY_DISABLE_IDMAP"

func openLibrary(cfg Config) (storage.Store, func(), error) {
	openMu.Lock()
	defer openMu.Unlock()
	ignoreHostConfig()
	if err := os.Setenv(noShifting, "yes"); err != nil {
		return nil, nil, err
	}
	lib, err := storage.GetStore(types.StoreOptions{
		GraphRoot:       cfg.Root,
		RunRoot:         cfg.RunRoot,
		GraphDriverName: "overlay",
		// The driver's private bind mount over its home would stay behind
		// when this process ends, and nothing here needs it.
		GraphDriverOptions: []string{"overlay.skip_mount_home=true"},
		// Volatile mounts refuse to mount again after a crash.
		DisableVolatile: true,
	})
	if err != nil {
		return nil, nil, err
	}
	opened[lib]++
	var once sync.Once
	return lib, func() {
		once.Do(func() {
			openMu.Lock()
			defer openMu.Unlock()
			if opened[lib]--; opened[lib] == 0 {
				delete(opened, lib)
				lib.Free()
			}
		})
	}, nil
}

// ignoreHostConfig makes the library load its defaults from an empty file: it
// reads them once per process even when every option is given, and a broken
// /etc/containers/storage.conf would fail us.
var ignoreHostConfig = sync.OnceFunc(func() {
	const env = "CONTAINERS_STORAGE_CONF"
	was, had := os.LookupEnv(env)
	os.Setenv(env, os.DevNull)
	types.DefaultStoreOptions() //nolint:errcheck // cached by the library; GetStore reports it
	if had {
		os.Setenv(env, was)
	} else {
		os.Unsetenv(env)
	}
})
