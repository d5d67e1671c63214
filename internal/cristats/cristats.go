// Package cristats puts what a cgroup uses into CRI's messages, for containers and
// sandboxes alike.
package cristats

import (
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/cgroupstat"
)

// CPU has a rate only where one is known: the kubelet then takes its own.
func CPU(u *cgroupstat.Usage, cores float64, known bool) *runtimeapi.CpuUsage {
	c := &runtimeapi.CpuUsage{
		Timestamp:            u.Time.UnixNano(),
		UsageCoreNanoSeconds: value(uint64(u.CPU)),
		Psi:                  psi(u.CPUPressure),
	}
	if known {
		c.UsageNanoCores = value(uint64(cores * float64(time.Second)))
	}
	return c
}

// Memory has available bytes only where there is a limit.
func Memory(u *cgroupstat.Usage) *runtimeapi.MemoryUsage {
	m := &runtimeapi.MemoryUsage{
		Timestamp:       u.Time.UnixNano(),
		WorkingSetBytes: value(u.Memory.WorkingSet),
		UsageBytes:      value(u.Memory.Usage),
		RssBytes:        value(u.Memory.RSS),
		PageFaults:      value(u.Memory.PageFaults),
		MajorPageFaults: value(u.Memory.MajorPageFaults),
		Psi:             psi(u.MemoryPressure),
	}
	if limit := u.Memory.Limit; limit != cgroupstat.NoLimit {
		m.AvailableBytes = value(limit - min(u.Memory.WorkingSet, limit))
	}
	return m
}

// Swap is nil where the kernel does not count it. It has available bytes only
// where there is a limit.
func Swap(u *cgroupstat.Usage) *runtimeapi.SwapUsage {
	if u.Swap == nil {
		return nil
	}
	s := &runtimeapi.SwapUsage{Timestamp: u.Time.UnixNano(), SwapUsageBytes: value(u.Swap.Usage)}
	if limit := u.Swap.Limit; limit != cgroupstat.NoLimit {
		s.SwapAvailableBytes = value(limit - min(u.Swap.Usage, limit))
	}
	return s
}

// IO is nil where the kernel does not count stalls: it is all that CRI knows of IO.
func IO(u *cgroupstat.Usage) *runtimeapi.IoUsage {
	if u.IOPressure == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: u.Time.UnixNano(), Psi: psi(u.IOPressure)}
}

func psi(p *cgroupstat.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	return &runtimeapi.PsiStats{Full: stall(&p.Full), Some: stall(&p.Some)}
}

// stall: CRI wants nanoseconds of what the kernel counts in microseconds.
func stall(s *cgroupstat.Stall) *runtimeapi.PsiData {
	return &runtimeapi.PsiData{Total: s.TotalMicros * 1000, Avg10: s.Avg10, Avg60: s.Avg60, Avg300: s.Avg300}
}

func value(n uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: n} }
