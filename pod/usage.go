package pod

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroupstat"
	"github.com/rktnetes/rktshim/network"
)

// Usage is what an app or a pod uses at one moment.
type Usage struct {
	cgroupstat.Usage
	// Cores is how many processors were busy for it, over the last 5 to 20 seconds.
	// It is meaningful if HasCores is set: not in the first second of its life, nor
	// in that of this process.
	Cores    float64
	HasCores bool
}

// Traffic is what one network interface of a pod has carried.
type Traffic = network.Traffic

// AppUsage reads what a created or running app uses, from files of its cgroup that
// stay open. An unknown app is NotFound, one that has ended FailedPrecondition.
func (e *Engine) AppUsage(id AppID) (Usage, error) {
	app, err := e.App(id)
	if err != nil {
		return Usage{}, fmt.Errorf("usage of %w", err)
	}
	if app.State == Exited {
		return Usage{}, fmt.Errorf("usage of app %s: it has exited: %w", id, errdefs.ErrFailedPrecondition)
	}
	u, err := e.meters.app(id, app.Cgroup).usage()
	if err != nil {
		return Usage{}, fmt.Errorf("usage of app %s: %w", id, err)
	}
	return u, nil
}

// PodUsage reads what a running pod uses. That includes its supervisor and instance
// and, if its cgroup lies in one that the caller of Launch has made for this pod,
// all that is in there, with that cgroup's limits. An unknown pod is NotFound, one
// that does not run FailedPrecondition.
func (e *Engine) PodUsage(id ID) (Usage, error) {
	p, err := e.runningPod(id)
	if err != nil {
		return Usage{}, fmt.Errorf("usage of %w", err)
	}
	u, err := e.meters.pod(id, groupOf(&p)).usage()
	if err != nil {
		return Usage{}, fmt.Errorf("usage of pod %s: %w", id, err)
	}
	return u, nil
}

// PodTraffic reads what the interfaces of a running pod have carried, loopback left
// out, from a file that stays open while the pod runs. A pod on the host's network
// has none. Errors are those of PodUsage.
func (e *Engine) PodTraffic(id ID) ([]Traffic, error) {
	p, err := e.runningPod(id)
	if err != nil {
		return nil, fmt.Errorf("traffic of %w", err)
	}
	if p.NetNS == "" {
		return nil, nil
	}
	t, err := e.meters.pod(id, groupOf(&p)).traffic(p.NetNS)
	if err != nil {
		return nil, fmt.Errorf("traffic of pod %s: %w", id, err)
	}
	return t, nil
}

func (e *Engine) runningPod(id ID) (Pod, error) {
	p, err := e.Pod(id)
	if err == nil && p.State != Running {
		err = fmt.Errorf("pod %s is %s: %w", id, p.State, errdefs.ErrFailedPrecondition)
	}
	return p, err
}

// groupOf is the cgroup that counts for the pod as a whole: the one above its own
// if that bears the pod's uid, as the kubelet's do, else its own.
func groupOf(p *Pod) string {
	parent := path.Dir(p.Cgroup)
	name := path.Base(parent)
	if strings.Contains(name, p.Spec.UID) || strings.Contains(name, strings.ReplaceAll(p.Spec.UID, "-", "_")) {
		return parent
	}
	return p.Cgroup
}

// measureEvery is how often processor time is noted, for rates.
const measureEvery = 10 * time.Second

// measure notes processor times until ctx ends.
func (e *Engine) measure(ctx context.Context) {
	tick := time.NewTicker(measureEvery)
	defer tick.Stop()
	for {
		e.noteCPU()
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// noteCPU notes what has been used by all that lives, and closes the files of all
// that does not.
func (e *Engine) noteCPU() {
	apps, pods := map[AppID]bool{}, map[ID]bool{}
	for _, app := range e.Apps(func(a *App) bool { return a.State != Exited }) {
		apps[app.ID] = true
		e.meters.app(app.ID, app.Cgroup).note()
	}
	for _, p := range e.Pods(func(p *Pod) bool { return p.State == Running }) {
		pods[p.ID] = true
		e.meters.pod(p.ID, groupOf(&p)).note()
	}
	e.meters.keep(apps, pods)
}

// meters are open files of living apps and pods. The zero value is ready for use.
type meters struct {
	mu   sync.Mutex
	apps map[AppID]*meter // guarded by mu
	pods map[ID]*meter    // guarded by mu
}

func (m *meters) app(id AppID, group string) *meter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.apps == nil {
		m.apps = map[AppID]*meter{}
	}
	return meterIn(m.apps, id, group)
}

func (m *meters) pod(id ID, group string) *meter {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pods == nil {
		m.pods = map[ID]*meter{}
	}
	return meterIn(m.pods, id, group)
}

func meterIn[K comparable](in map[K]*meter, id K, group string) *meter {
	if in[id] == nil {
		in[id] = &meter{group: cgroupstat.New(group)}
	}
	return in[id]
}

// dropApp closes the files of an app.
func (m *meters) dropApp(id AppID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.apps[id]; a != nil {
		a.close()
		delete(m.apps, id)
	}
}

// dropPod closes the files of a pod, which gives its network namespace free.
func (m *meters) dropPod(id ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p := m.pods[id]; p != nil {
		p.close()
		delete(m.pods, id)
	}
}

// keep drops all others: those that were opened by a read which began before the
// end of what it reads.
func (m *meters) keep(apps map[AppID]bool, pods map[ID]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, a := range m.apps {
		if !apps[id] {
			a.close()
			delete(m.apps, id)
		}
	}
	for id, p := range m.pods {
		if !pods[id] {
			p.close()
			delete(m.pods, id)
		}
	}
}

// meter is the open files of one app or pod, and what was read from them before.
type meter struct {
	group *cgroupstat.Group

	mu       sync.Mutex
	rate     rate              // guarded by mu
	counters *network.Counters // guarded by mu; nil until asked for
	closed   bool              // guarded by mu
}

// note remembers the processor time used so far. A group that cannot be read has
// ended, or is not made yet.
func (m *meter) note() {
	used, at, err := m.group.CPU()
	if err != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rate.note(moment{used, at})
}

func (m *meter) usage() (u Usage, err error) {
	if u.Usage, err = m.group.Usage(); err != nil {
		return Usage{}, gone(err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	u.Cores, u.HasCores = m.rate.until(moment{u.CPU, u.Time})
	return u, nil
}

func (m *meter) traffic(netns string) ([]Traffic, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, fmt.Errorf("it has ended: %w", errdefs.ErrFailedPrecondition)
	}
	if m.counters == nil {
		c, err := network.OpenCounters(netns)
		if errors.Is(err, unix.ENOENT) {
			return nil, fmt.Errorf("%w (%v)", errdefs.ErrFailedPrecondition, err)
		}
		if err != nil {
			return nil, err
		}
		m.counters = c
	}
	return m.counters.Read()
}

// gone gives what a group that was removed answers the class that a caller expects.
func gone(err error) error {
	if errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("it has ended: %w (%v)", errdefs.ErrFailedPrecondition, err)
	}
	return err
}

func (m *meter) close() {
	m.group.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	if m.counters != nil {
		m.counters.Close()
		m.counters = nil
	}
}

// moment is a processor time, and when that was so. Times are compared by the
// monotonic clock that they carry: a step of the wall clock changes no rate.
type moment struct {
	used time.Duration
	at   time.Time
}

// Bounds of the time over which a rate is taken: the first is preferred, the second
// accepted.
const (
	goodWindow  = measureEvery / 2
	shortWindow = time.Second
)

// rate holds the last two moments that were noted.
type rate struct{ older, newer moment }

func (r *rate) note(m moment) {
	if !r.newer.at.IsZero() && m.at.Sub(r.newer.at) < shortWindow {
		return // it would push out one that is of use
	}
	r.older, r.newer = r.newer, m
}

// until returns how many processors were busy, from the younger moment that is long
// enough ago to m.
func (r *rate) until(m moment) (cores float64, ok bool) {
	from := r.newer
	if m.at.Sub(from.at) < goodWindow && !r.older.at.IsZero() {
		from = r.older
	}
	window := m.at.Sub(from.at)
	if from.at.IsZero() || window < shortWindow || m.used < from.used {
		return 0, false
	}
	return float64(m.used-from.used) / float64(window), true
}

// AppDetail reads all there is to know of a created or running app's cgroup, at the
// cost of opening each of its files. Errors are those of AppUsage.
func (e *Engine) AppDetail(id AppID) (cgroupstat.Detail, error) {
	app, err := e.App(id)
	if err != nil {
		return cgroupstat.Detail{}, fmt.Errorf("detail of %w", err)
	}
	return detail(app.Cgroup)
}

// PodDetail is AppDetail of what runs for the pod itself: its supervisor. Errors are
// those of PodUsage.
func (e *Engine) PodDetail(id ID) (cgroupstat.Detail, error) {
	p, err := e.runningPod(id)
	if err != nil {
		return cgroupstat.Detail{}, fmt.Errorf("detail of %w", err)
	}
	return detail(p.OwnCgroup())
}

func detail(group string) (cgroupstat.Detail, error) {
	d, err := cgroupstat.New(group).Detail()
	if err != nil {
		return d, fmt.Errorf("detail: %w", gone(err))
	}
	return d, nil
}

// OwnCgroup is the cgroup of what runs for the pod itself, see [Engine.Owner].
func (p *Pod) OwnCgroup() string { return path.Join(p.Cgroup, string(p.ID)) }
