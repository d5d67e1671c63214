package cgroupstat

import (
	"errors"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// Usage is what a group with all groups below it uses at one moment.
type Usage struct {
	Time   time.Time
	CPU    time.Duration // since the group was made, summed over all processors
	Memory Memory
	Swap   *Swap // nil where the kernel does not count swap by group
	Tasks  uint64

	// Nil where the kernel does not count stalls by group, as on cgroup v1.
	CPUPressure, MemoryPressure, IOPressure *Pressure
}

// NoLimit is the limit of a group that has none.
const NoLimit = math.MaxUint64

// Memory is in bytes.
type Memory struct {
	Usage           uint64
	WorkingSet      uint64 // usage without what could be given back at once
	RSS             uint64 // anonymous
	Limit           uint64 // the group's own, not that of a group above; NoLimit for none
	PageFaults      uint64
	MajorPageFaults uint64
}

// Swap is in bytes. Limit is the group's own.
type Swap struct{ Usage, Limit uint64 }

// Pressure is how long tasks have waited for want of a resource: some of the
// group's tasks, or all of them.
type Pressure struct{ Some, Full Stall }

// Stall holds the share of time in percent over the last 10, 60 and 300 seconds,
// and all time so far.
type Stall struct {
	Avg10, Avg60, Avg300 float64
	TotalMicros          uint64
}

// Usage reads it all. A group that does not exist, yet or any more, is an error
// that wraps unix.ENODEV.
func (g *Group) Usage() (u Usage, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if u.CPU, u.Time, err = g.cpuLocked(); err != nil && !errors.Is(err, unix.ENOENT) {
		return u, err
	}
	parts := []func(*Usage) error{g.memoryV1, g.tasksV1}
	if g.unified {
		parts = []func(*Usage) error{g.memoryV2, g.tasksV2, g.pressures}
	}
	for _, part := range parts {
		// ENOENT: this kernel, or this node's configuration, lacks the controller.
		if err := part(&u); err != nil && !errors.Is(err, unix.ENOENT) {
			return u, err
		}
	}
	return u, nil
}

func (g *Group) tasksV1(u *Usage) (err error) {
	u.Tasks, err = g.number("pids", "pids.current")
	return err
}

func (g *Group) tasksV2(u *Usage) (err error) {
	u.Tasks, err = g.number("", "pids.current")
	return err
}

// v1Unlimited is from where on a v1 limit means none: the kernel rounds the largest
// number down to a page.
const v1Unlimited = math.MaxInt64 &^ (1<<16 - 1)

func v1Limit(n uint64) uint64 {
	if n >= v1Unlimited {
		return NoLimit
	}
	return n
}

func (g *Group) memoryV1(u *Usage) (err error) {
	m := &u.Memory
	if m.Usage, err = g.number("memory", "memory.usage_in_bytes"); err != nil {
		return err
	}
	if m.Limit, err = g.number("memory", "memory.limit_in_bytes"); err != nil {
		return err
	}
	m.Limit = v1Limit(m.Limit)
	var swap, inactive uint64
	err = g.fields("memory", "memory.stat", func(key []byte, value uint64) {
		switch string(key) { // those with "total_" count the groups below too
		case "total_inactive_file":
			inactive = value
		case "total_rss":
			m.RSS = value
		case "total_swap":
			swap = value
		case "total_pgfault":
			m.PageFaults = value
		case "total_pgmajfault":
			m.MajorPageFaults = value
		}
	})
	if err != nil {
		return err
	}
	m.WorkingSet = m.Usage - min(inactive, m.Usage)
	both, err := g.number("memory", "memory.memsw.limit_in_bytes")
	if err != nil {
		return err // ENOENT: swap is not counted
	}
	u.Swap = &Swap{Usage: swap, Limit: NoLimit}
	if both = v1Limit(both); both != NoLimit && m.Limit != NoLimit {
		u.Swap.Limit = both - min(m.Limit, both)
	}
	return nil
}

func (g *Group) memoryV2(u *Usage) (err error) {
	m := &u.Memory
	if m.Usage, err = g.number("", "memory.current"); err != nil {
		return err
	}
	if m.Limit, err = g.number("", "memory.max"); err != nil {
		return err
	}
	var inactive uint64
	err = g.fields("", "memory.stat", func(key []byte, value uint64) {
		switch string(key) {
		case "inactive_file":
			inactive = value
		case "anon":
			m.RSS = value
		case "pgfault":
			m.PageFaults = value
		case "pgmajfault":
			m.MajorPageFaults = value
		}
	})
	if err != nil {
		return err
	}
	m.WorkingSet = m.Usage - min(inactive, m.Usage)
	var swap Swap
	if swap.Usage, err = g.number("", "memory.swap.current"); err != nil {
		return err // ENOENT: swap is not counted
	}
	if swap.Limit, err = g.number("", "memory.swap.max"); err != nil {
		return err
	}
	u.Swap = &swap
	return nil
}

func (g *Group) pressures(u *Usage) error {
	for _, p := range []struct {
		name string
		into **Pressure
	}{{"cpu.pressure", &u.CPUPressure}, {"memory.pressure", &u.MemoryPressure}, {"io.pressure", &u.IOPressure}} {
		got, err := g.pressure(p.name)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) { // turned off at boot, or for this group
			continue
		}
		if err != nil {
			return err
		}
		*p.into = got
	}
	return nil
}
