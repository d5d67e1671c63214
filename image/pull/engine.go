package pull

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/pkg/sysregistriesv2"
	"go.podman.io/image/v5/types"

	"github.com/rktnetes/rktshim/image/store"
)

// Engine pulls images into one store. All pulls of a node agent go through one
// engine, so that they share layers; its methods may be called at once.
type Engine struct {
	store *store.Store
	cfg   Config
	slots chan struct{} // one for each layer that may be worked on
	wg    sync.WaitGroup

	mu   sync.Mutex
	jobs map[digest.Digest]*job // guarded by mu; by chain id, only running ones
}

// New makes an engine; it starts nothing.
func New(s *store.Store, cfg Config) *Engine {
	cfg = cfg.withDefaults()
	return &Engine{store: s, cfg: cfg, slots: make(chan struct{}, cfg.Layers), jobs: map[digest.Digest]*job{}}
}

// Wait returns when no job runs any more: after the last Pull has returned, it
// takes as long as giving up what was cancelled.
func (e *Engine) Wait() { e.wg.Wait() }

// Pull fetches an image from its registry. Pulling one that is there asks the
// registry whether its name means another by now, and fetches no config and no
// layers that are there and undamaged.
//
// The error begins with the kubelet's word if the registry is unavailable or
// the policy refuses the image; it has a class only if the request is invalid.
func (e *Engine) Pull(ctx context.Context, req Request, progress Progress) (Result, error) {
	named, err := store.ParseReference(req.Image)
	if err != nil {
		return Result{}, fmt.Errorf("pull: %w", err)
	}
	sys, err := e.cfg.system()
	if err != nil {
		return Result{}, fmt.Errorf("pull %s: %w", named, err)
	}
	if err := req.Auth.apply(sys, named); err != nil {
		return Result{}, fmt.Errorf("pull %s: %w", named, err)
	}
	ref, err := docker.NewReference(named)
	if err != nil {
		return Result{}, fmt.Errorf("pull %s: %w: %w", named, err, errdefs.ErrInvalidArgument)
	}
	sysregistriesv2.InvalidateCache()
	res, err := e.fetch(ctx, &source{cfg: e.cfg, sys: sys, ref: ref}, func(p *plan) ([]string, error) { return p.names(named) }, progress)
	return res, describe(named.String(), err)
}

// Import fetches an image from any source that the image library can read, for
// example a local archive, and gives it the names, which must be normalised.
// The policy applies.
func (e *Engine) Import(ctx context.Context, ref types.ImageReference, names []string, progress Progress) (Result, error) {
	what := ref.Transport().Name() + ":" + ref.StringWithinTransport()
	for _, name := range names {
		if named, err := store.ParseReference(name); err != nil || named.String() != name {
			return Result{}, fmt.Errorf("import %s: name %q is not a whole image name: %w", what, name, errdefs.ErrInvalidArgument)
		}
	}
	sys, err := e.cfg.system()
	if err != nil {
		return Result{}, fmt.Errorf("import %s: %w", what, err)
	}
	sysregistriesv2.InvalidateCache()
	res, err := e.fetch(ctx, &source{cfg: e.cfg, sys: sys, ref: ref}, func(*plan) ([]string, error) { return names, nil }, progress)
	return res, describe(what, err)
}

// maxRounds is how often a pull starts over because layers that it counted on
// were removed, or a job that it shared failed with another pull's credentials.
const maxRounds = 3

func (e *Engine) fetch(ctx context.Context, src *source, name func(*plan) ([]string, error), progress Progress) (Result, error) {
	end, err := e.store.BeginPull()
	if err != nil {
		return Result{}, err
	}
	defer end()
	defer src.hold().release()
	policy, err := loadPolicy(e.cfg.Policy)
	if err != nil {
		return Result{}, err
	}
	defer policy.Destroy() //nolint:errcheck // frees memory only
	p, err := src.resolve(ctx, policy, e.store)
	if err != nil {
		return Result{}, err
	}
	names, err := name(p)
	if err != nil {
		return Result{}, err
	}
	res := Result{Names: names}
	var size int64
	for round := 1; ; round++ {
		size, err = e.layers(ctx, p, src, progress, &res)
		if err == nil {
			res.ID, err = e.commit(p, names, size)
		}
		var shared *sharedError
		again := errdefs.IsNotFound(err) || errors.As(err, &shared)
		if err == nil || !again || round == maxRounds || ctx.Err() != nil {
			return res, err
		}
	}
}

// commit records the image. Its layers reach the disk before it does.
func (e *Engine) commit(p *plan, names []string, size int64) (string, error) {
	img := store.NewImage{Config: p.config, Manifest: p.manifest, Names: names, Size: size}
	if top := p.top(); top != "" {
		img.TopLayer = top.Encoded()
	}
	if done, err := e.store.Rename(img); err != nil || done != "" {
		return done, err
	}
	if !e.cfg.NoSync {
		if err := e.store.Sync(); err != nil {
			return "", err
		}
	}
	return e.store.CommitImage(img)
}

// layers brings all layers of a plan into the store and sums their sizes.
func (e *Engine) layers(ctx context.Context, p *plan, src *source, progress Progress, res *Result) (int64, error) {
	var mine []*job
	defer func() {
		for _, j := range mine {
			e.leave(j)
		}
	}()
	var size int64
	var below *job
	for _, l := range p.layers {
		if have, damaged := e.store.HasLayer(l.chain); have && !damaged {
			n, err := e.store.LayerSize(l.chain)
			if err != nil {
				return 0, err
			}
			size += n
			below = nil
			progress.tell(Event{Layer: l.blob.Digest, Phase: Present, Bytes: l.blob.Size, Size: l.blob.Size})
			continue
		}
		below = e.join(ctx, l, below, src, progress)
		mine = append(mine, below)
	}
	for _, j := range mine {
		select {
		case <-j.done:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
		if j.err != nil {
			if j.src != src {
				return 0, &sharedError{j.err}
			}
			return 0, j.err
		}
		size += j.size
		if j.src == src {
			res.Fetched += j.fetched.Load()
		}
	}
	return size, nil
}

// sharedError is the failure of a job that another pull began.
type sharedError struct{ err error }

func (e *sharedError) Error() string { return e.err.Error() }
func (e *sharedError) Unwrap() error { return e.err }

func (p Progress) tell(ev Event) {
	if p != nil {
		p(ev)
	}
}

// job brings one layer into the store.
type job struct {
	layer
	below   *job // the parent's job; nil if the store has the parent
	src     *source
	repair  bool // the store has the layer, damaged
	cancel  context.CancelCauseFunc
	fetched atomic.Int64

	done chan struct{} // closed when err and size are set
	err  error
	size int64

	users    int        // guarded by Engine.mu
	watchers []Progress // guarded by Engine.mu
}

var errAbandoned = fmt.Errorf("nobody waits for the layer any more: %w", context.Canceled)

// join finds the job for a layer or starts it. The caller must leave it.
func (e *Engine) join(ctx context.Context, l layer, below *job, src *source, progress Progress) *job {
	e.mu.Lock()
	defer e.mu.Unlock()
	j := e.jobs[l.chain]
	if j == nil {
		// A job outlives the pull that began it if another shares it.
		jctx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
		j = &job{layer: l, below: below, src: src.hold(), cancel: cancel, done: make(chan struct{})}
		_, j.repair = e.store.HasLayer(l.chain)
		e.jobs[l.chain] = j
		e.wg.Go(func() {
			defer cancel(nil)
			e.run(jctx, j)
		})
	}
	j.users++
	if progress != nil {
		j.watchers = append(j.watchers, progress)
		progress(Event{Layer: l.blob.Digest, Phase: Waiting, Bytes: j.fetched.Load(), Size: l.blob.Size})
	}
	return j
}

// leave gives up one use of a job; the last one to leave cancels it.
func (e *Engine) leave(j *job) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if j.users--; j.users == 0 {
		j.cancel(errAbandoned)
		if e.jobs[j.chain] == j {
			delete(e.jobs, j.chain)
		}
	}
}

// run does a job, from fetching to its place in the store.
func (e *Engine) run(ctx context.Context, j *job) {
	defer j.src.release()
	err := e.bring(ctx, j)
	e.mu.Lock()
	if e.jobs[j.chain] == j {
		delete(e.jobs, j.chain)
	}
	e.mu.Unlock()
	j.err = err
	close(j.done)
	if err == nil {
		e.tell(j, Done)
	}
}

func (e *Engine) bring(ctx context.Context, j *job) error {
	staged, u, err := e.stage(ctx, j)
	if err != nil {
		return err
	}
	if j.below != nil {
		select {
		case <-j.below.done:
			err = j.below.err
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			return errors.Join(err, e.store.Discard(staged))
		}
	}
	j.size = staged.Size()
	if j.repair { // its image is recorded already
		if !e.cfg.NoSync {
			if err := e.store.Sync(); err != nil {
				return errors.Join(err, e.store.Discard(staged))
			}
		}
		return e.store.ReplaceLayer(j.chain, staged)
	}
	return e.store.CommitLayer(j.chain, j.parent, staged, u.rec)
}

func (e *Engine) tell(j *job, phase Phase) {
	e.mu.Lock()
	watchers := j.watchers[:len(j.watchers):len(j.watchers)]
	e.mu.Unlock()
	for _, w := range watchers {
		w(Event{Layer: j.blob.Digest, Phase: phase, Bytes: j.fetched.Load(), Size: j.blob.Size})
	}
}

// tellEvery is how often a layer's progress is told.
const tellEvery = 100 * time.Millisecond

// stage fetches and unpacks a layer, once a slot is free.
func (e *Engine) stage(ctx context.Context, j *job) (*store.StagedLayer, *unpacker, error) {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	if staged, u := e.copyLocal(j); staged != nil {
		return staged, u, nil
	}
	var staged *store.StagedLayer
	var u *unpacker
	err := j.src.try(ctx, func(ctx context.Context, src types.ImageSource) (err error) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		blob, err := j.src.blob(ctx, src, j.blob, cancel)
		if err != nil {
			return fmt.Errorf("fetch layer %s: %w", j.blob.Digest, err)
		}
		defer blob.Close()
		var told time.Time
		blob.moved = func(total int64) {
			j.fetched.Store(total)
			if now := time.Now(); now.Sub(told) > tellEvery || total == j.blob.Size {
				told = now
				e.tell(j, Pulling)
			}
		}
		u = &unpacker{blob: blob, l: j.layer}
		staged, err = e.store.Stage(u)
		return err
	})
	return staged, u, err
}

// copyLocal takes the layer from the store, where it may stand on other
// parents. Whatever goes wrong, the source still has it.
func (e *Engine) copyLocal(j *job) (*store.StagedLayer, *unpacker) {
	content, err := e.store.OpenContent(j.diff)
	if err != nil {
		return nil, nil
	}
	defer content.Close()
	l := j.layer
	l.blob.Digest = l.diff // it comes uncompressed
	u := &unpacker{blob: content, l: l}
	staged, err := e.store.Stage(u)
	if err != nil {
		return nil, nil
	}
	staged.SetBlob(j.blob.Digest)
	return staged, u
}
