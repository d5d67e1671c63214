package stage1test

import (
	"context"
	"os"
	"sync"

	"github.com/rktnetes/rktshim/stage1"
)

// Fake is an isolator that does nothing and can be told to fail. The zero value
// succeeds. It is safe for concurrent use; set the errors before it is used.
type Fake struct {
	CheckErr, BootErr, SweepErr, StopErr error

	mu        sync.Mutex
	booted    []stage1.Spec // guarded by mu, as is what follows
	swept     []stage1.Spec
	instances []*FakeInstance
}

// Check implements stage1.Isolator.
func (f *Fake) Check() error { return f.CheckErr }

// Boot implements stage1.Isolator. It checks the spec as a real one does.
func (f *Fake) Boot(_ context.Context, spec stage1.Spec, _ stage1.Host) (stage1.Instance, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	if f.BootErr != nil {
		return nil, f.BootErr
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	inst := &FakeInstance{stopErr: f.StopErr, done: make(chan struct{})}
	f.booted = append(f.booted, spec)
	f.instances = append(f.instances, inst)
	return inst, nil
}

// Sweep implements stage1.Isolator.
func (f *Fake) Sweep(spec stage1.Spec) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.swept = append(f.swept, spec)
	return f.SweepErr
}

// Booted returns the specs that were booted.
func (f *Fake) Booted() []stage1.Spec {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]stage1.Spec(nil), f.booted...)
}

// Swept returns the specs that were swept.
func (f *Fake) Swept() []stage1.Spec {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]stage1.Spec(nil), f.swept...)
}

// Instances returns what was booted.
func (f *Fake) Instances() []*FakeInstance {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*FakeInstance(nil), f.instances...)
}

// FakeInstance is an instance without namespaces.
type FakeInstance struct {
	stopErr error
	done    chan struct{}
	end     sync.Once

	mu    sync.Mutex
	stops int // guarded by mu
}

// Namespace implements stage1.Instance: all are the host's.
func (i *FakeInstance) Namespace(stage1.Kind) *os.File { return nil }

// Done implements stage1.Instance.
func (i *FakeInstance) Done() <-chan struct{} { return i.done }

// End makes the instance end by itself.
func (i *FakeInstance) End() { i.end.Do(func() { close(i.done) }) }

// Stop implements stage1.Instance.
func (i *FakeInstance) Stop(context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.stops++
	return i.stopErr
}

// Stops returns how often Stop was called.
func (i *FakeInstance) Stops() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.stops
}
