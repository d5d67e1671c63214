package cgroupstat

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
)

// Detail is all that there is to know of a group, for those who scrape it now and
// then: it opens every file, also below /proc, anew.
type Detail struct {
	*cgroups.Stats
	Unified bool // which names Stats.MemoryStats.Stats has

	CPUShares, CPUPeriod, CPUQuota uint64 // 0 quota: no limit
	MemoryReservation, SwapLimit   uint64
	OOMKills                       uint64

	Processes   uint64 // in the group itself
	Descriptors uint64 // that they have open
	Sockets     uint64 // among these
}

// Detail reads it. A group that does not exist is an error that wraps unix.ENODEV.
func (g *Group) Detail() (d Detail, err error) {
	d.Unified = g.unified
	manager, err := g.manager()
	if err == nil {
		d.Stats, err = manager.GetStats()
	}
	if err != nil {
		if unix.Access(filepath.Join(g.root, g.hierarchy("memory"), g.path), unix.F_OK) != nil {
			err = fmt.Errorf("%w (%v)", unix.ENODEV, err)
		}
		return d, fmt.Errorf("read cgroup %s: %w", g.path, err)
	}
	if err := g.limits(&d); err != nil {
		return d, err
	}
	d.OOMKills = uint64(cgroup.OOMKills(g.path))
	return d, g.processes(&d)
}

// hierarchy is where a controller's files are.
func (g *Group) hierarchy(controller string) string {
	if g.unified {
		return ""
	}
	return controller
}

func (g *Group) manager() (cgroups.Manager, error) {
	config := &cgroups.Cgroup{Path: g.path, Resources: &cgroups.Resources{}}
	if g.unified {
		return fs2.NewManager(config, filepath.Join(g.root, g.path))
	}
	paths := map[string]string{}
	for _, c := range []string{"cpu", "cpuacct", "memory", "pids", "blkio"} {
		if dir := filepath.Join(g.root, c, g.path); unix.Access(dir, unix.F_OK) == nil {
			paths[c] = dir
		}
	}
	return fs.NewManager(config, paths)
}

// limits are not among the library's stats. A controller that is not there has none.
func (g *Group) limits(d *Detail) (err error) {
	number := func(controller, name string) (n uint64) {
		text, rerr := os.ReadFile(filepath.Join(g.root, g.hierarchy(controller), g.path, name))
		if rerr == nil {
			n, rerr = parseNumber([]byte(strings.TrimSpace(string(text))))
		}
		if rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, rerr)
		}
		return n
	}
	if !g.unified {
		d.CPUShares, d.CPUPeriod = number("cpu", "cpu.shares"), number("cpu", "cpu.cfs_period_us")
		if d.CPUQuota = number("cpu", "cpu.cfs_quota_us"); d.CPUQuota == NoLimit {
			d.CPUQuota = 0
		}
		d.MemoryReservation, d.SwapLimit = number("memory", "memory.soft_limit_in_bytes"), number("memory", "memory.memsw.limit_in_bytes")
		return err
	}
	d.CPUShares = sharesOf(number("cpu", "cpu.weight"))
	text, rerr := os.ReadFile(filepath.Join(g.root, g.path, "cpu.max"))
	if quota, period, ok := strings.Cut(strings.TrimSpace(string(text)), " "); rerr == nil && ok {
		d.CPUPeriod, _ = strconv.ParseUint(period, 10, 64)
		d.CPUQuota, _ = strconv.ParseUint(quota, 10, 64) // "max" is 0
	}
	d.MemoryReservation, d.SwapLimit = number("memory", "memory.min"), number("memory", "memory.swap.max")
	return err
}

// sharesOf is the shares that OCI runtimes turn into a weight.
func sharesOf(weight uint64) uint64 {
	if weight == 0 {
		return 0
	}
	return 2 + (weight-1)*262142/9999
}

// processes counts what may end while it is counted.
func (g *Group) processes(d *Detail) error {
	text, err := os.ReadFile(filepath.Join(g.root, g.hierarchy("memory"), g.path, "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("read cgroup %s: %w", g.path, errors.Join(unix.ENODEV, err))
	}
	for _, pid := range strings.Fields(string(text)) {
		d.Processes++
		dir := filepath.Join("/proc", pid, "fd")
		open, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		d.Descriptors += uint64(len(open))
		for _, fd := range open {
			if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && strings.HasPrefix(to, "socket:") {
				d.Sockets++
			}
		}
	}
	return nil
}
