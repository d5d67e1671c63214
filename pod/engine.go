// Package pod is the engine: it launches, stops and removes pods and their apps,
// keeps their records, and knows after a restart what it has to finish or undo.
// It knows neither CRI nor Kubernetes.
//
// # On disk
//
//	<Config.Dir>/<uuid>/pod.json            the pod's record; written first, removed last
//	                    supervisor.json     what its supervisor is told; flock on the folder is its life
//	                    network.json        the CNI attachment, while there is one
//	                    resolv.conf         for apps to mount
//	                    apps/<id>/app.json  an app's record
//	                              exit.json written by the supervisor
//	                              bundle/   for the OCI runtime
//	<Config.RunDir>/<uuid>/                 socket, shared memory: what a reboot may take
//	<Config.NetNSDir>/rkt-<uuid>            the pod's network namespace, pinned
//
// Each step is announced by a record that was written whole before it, so
// whatever a crash leaves is named by a record, and [Engine.Recover] finishes or
// undoes it. What no record names is garbage, see [Engine.Collect].
//
// # Locks
//
// Work on one pod is ordered by a keyed lock of its id, work on one app by one of
// the app's id, taken after its pod's and never before. Engine.mu guards the index
// and is held for moments only: nothing is written, dialled or awaited under it.
// Network plugins run under a lock of their own, so that one that hangs delays
// nobody but the detaching of that pod.
package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/keylock"
	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/launch"
)

// Config is set by the node's operator.
type Config struct {
	// Dir holds the pods' records and survives a reboot; "/var/lib/rkt/pods".
	Dir string
	// RunDir is a tmpfs for sockets and shared memory; "/run/rkt".
	RunDir string
	// NetNSDir is where network namespaces are pinned; "/run/netns", because
	// network agents look for pods there.
	NetNSDir string
	// Supervisor is the absolute path of rkt-supervisor. Without one the engine
	// launches and adopts no pod: rkt's, which only removes.
	Supervisor string
	// Runtime is the absolute path of the OCI runtime, RuntimeArgs precede its
	// commands. It is not needed without Supervisor.
	Runtime     string
	RuntimeArgs []string
	// Flavors are the isolators by name.
	Flavors map[string]Flavor
	// CgroupParents are searched for cgroups and units that no record names,
	// besides the parents of known pods.
	CgroupParents []string
	// StopTimeout bounds how long a supervisor may take to shut its pod down
	// before the pod's cgroup is killed. 0 means 30 s.
	StopTimeout time.Duration
	// RetryMin and RetryMax bound the pause between two tries of what must
	// succeed in the end, as detaching a network. 0 means 1 s and 1 minute.
	RetryMin, RetryMax time.Duration
	// LockWait is how long Recover waits for another engine of Dir to end; rkt's
	// do soon. 0 means 2 s.
	LockWait time.Duration
	// Socket is where Run listens for commands of operators, see [Ask]. Empty:
	// nowhere.
	Socket string
}

// Flavor is what the engine needs of an isolator; the rest is its supervisor's.
type Flavor interface {
	Check() error
	Sweep(spec stage1.Spec) error
}

// networks attaches pods; *network.CNI.
type networks interface {
	Attach(ctx context.Context, pod network.Pod, save network.Save) (network.Result, error)
	Detach(ctx context.Context, record json.RawMessage) error
}

// roots makes the root filesystems of apps, by the app's id. RemoveRoot of one
// that is gone returns nil, and unmounts one that is mounted.
type roots interface {
	CreateRoot(ctx context.Context, id, imageID string) error
	Mount(ctx context.Context, id string) (path string, err error)
	RemoveRoot(ctx context.Context, id string) error
	RootIDs(ctx context.Context) ([]string, error)
}

// Engine runs the pods of one node. Its methods are safe for concurrent use. Its
// owner calls Recover first, which makes it ready to serve, then Collect, then Run,
// which does what nobody asks for.
type Engine struct {
	cfg      Config
	launcher launch.Launcher
	net      networks
	roots    roots

	work     keylock.Locks[string] // by pod or app id
	dials    keylock.Locks[ID]
	detaches keylock.Locks[ID]
	launches flights[identity, ID]
	creates  flights[appIdentity, AppID]
	meters   meters
	counters counters
	wake     chan struct{} // holds one token when Run has something new to do
	moves    *cgroup.Quick // told when the OCI runtime is about to move processes

	mu      sync.Mutex
	pods    map[ID]*entry       // guarded by mu, entries too
	apps    map[AppID]*appEntry // guarded by mu, entries too
	foreign map[ID]bool         // guarded by mu; records that cannot be read: leave them alone
	unlock  func()              // guarded by mu; gives Dir free

	watchers map[*watcher]bool // guarded by mu, watchers too
	over     bool              // guarded by mu; Run has ended
	stamp    time.Time         // guarded by mu; of the last snapshot
}

// entry is one pod in the index.
type entry struct {
	rec       record
	net       network.Result     // what the pod was given; zero on the host's network
	client    *supervisor.Client // nil when not connected
	initPID   int
	following bool // by Run
	lost      bool // its supervisor has gone while it ran, and was counted

	retryAt    time.Time     // when Run must try again to dismantle or detach; zero: nothing to do
	retryPause time.Duration // the last one
}

// appEntry is one app in the index.
type appEntry struct {
	rec  appRecord
	pid  int
	exit *supervisor.Exit
}

// New returns an engine that knows no pod yet. It starts nothing.
func New(cfg Config, launcher launch.Launcher, net networks, roots roots) (*Engine, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Engine{
		cfg:      cfg,
		launcher: launcher,
		net:      net,
		roots:    roots,
		wake:     make(chan struct{}, 1),
		moves:    cgroup.NewQuick(),
		pods:     map[ID]*entry{},
		apps:     map[AppID]*appEntry{},
		foreign:  map[ID]bool{},
		watchers: map[*watcher]bool{},
	}, nil
}

func (c *Config) check() error {
	var errs []error
	paths := []struct{ field, path string }{{"Dir", c.Dir}, {"RunDir", c.RunDir}, {"NetNSDir", c.NetNSDir}}
	if c.Supervisor != "" {
		paths = append(paths, []struct{ field, path string }{{"Supervisor", c.Supervisor}, {"Runtime", c.Runtime}}...)
	}
	for _, f := range paths {
		if !filepath.IsAbs(f.path) {
			errs = append(errs, fmt.Errorf("pod config: %s %q: want an absolute path: %w", f.field, f.path, errdefs.ErrInvalidArgument))
		}
	}
	if len(c.Flavors) == 0 {
		errs = append(errs, fmt.Errorf("pod config: Flavors: none is given: %w", errdefs.ErrInvalidArgument))
	}
	for _, d := range []struct {
		value *time.Duration
		or    time.Duration
	}{{&c.StopTimeout, 30 * time.Second}, {&c.RetryMin, time.Second}, {&c.RetryMax, time.Minute}, {&c.LockWait, lockTime}} {
		if *d.value <= 0 {
			*d.value = d.or
		}
	}
	return errors.Join(errs...)
}

// poke makes Run look for new work.
func (e *Engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}
