package container

import (
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// resources translates limits. 0 and empty mean "not asked for".
func (n *Node) resources(field string, r *runtimeapi.LinuxContainerResources) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{CPU: cpu(r)}
	var err error
	if out.Memory, err = n.memory(field, r); err != nil {
		return nil, err
	}
	for _, h := range r.GetHugepageLimits() {
		if !n.Hugetlb {
			if h.GetLimit() == 0 {
				continue // the kubelet names every size that the CPU knows
			}
			return nil, fmt.Errorf("%s.hugepage_limits: this node has no hugetlb cgroup controller: %w", field, errdefs.ErrFailedPrecondition)
		}
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	if len(r.GetUnified()) > 0 {
		if !n.Unified {
			return nil, fmt.Errorf("%s.unified: this node has no cgroup v2: %w", field, errdefs.ErrFailedPrecondition)
		}
		out.Unified = r.GetUnified()
	}
	return out, nil
}

func cpu(r *runtimeapi.LinuxContainerResources) *specs.LinuxCPU {
	c := &specs.LinuxCPU{Cpus: r.GetCpusetCpus(), Mems: r.GetCpusetMems()}
	if v := r.GetCpuShares(); v > 0 {
		shares := uint64(v)
		c.Shares = &shares
	}
	if v := r.GetCpuQuota(); v != 0 { // -1: none
		c.Quota = &v
	}
	if v := r.GetCpuPeriod(); v > 0 {
		period := uint64(v)
		c.Period = &period
	}
	if *c == (specs.LinuxCPU{}) {
		return nil
	}
	return c
}

func (n *Node) memory(field string, r *runtimeapi.LinuxContainerResources) (*specs.LinuxMemory, error) {
	m := &specs.LinuxMemory{}
	if v := r.GetMemoryLimitInBytes(); v != 0 {
		m.Limit = &v
	}
	if v := r.GetMemorySwapLimitInBytes(); v != 0 {
		if v > 0 && v < r.GetMemoryLimitInBytes() {
			return nil, invalid(field+".memory_swap_limit_in_bytes", "%d is less than the limit of memory alone, %d", v, r.GetMemoryLimitInBytes())
		}
		// A kernel that does not count swap gives none beyond memory to limit: what
		// asks for no swap is met by leaving it out, what asks for some is not.
		if !n.Swap && v != r.GetMemoryLimitInBytes() {
			return nil, fmt.Errorf("%s.memory_swap_limit_in_bytes: this node does not account swap: %w", field, errdefs.ErrFailedPrecondition)
		}
		if n.Swap {
			m.Swap = &v
		}
	}
	if m.Limit == nil && m.Swap == nil {
		return nil, nil
	}
	return m, nil
}

// oomScore is what was asked for, or what is nearest to it where the node may not
// lower it so far: that must not fail a pod.
func (n *Node) oomScore(r *runtimeapi.LinuxContainerResources) (*int, error) {
	v := r.GetOomScoreAdj()
	if v < -1000 || v > 1000 {
		return nil, invalid("linux.resources.oom_score_adj", "%d is not in -1000 to 1000", v)
	}
	score := max(int(v), n.OOMScoreMin)
	return &score, nil
}

// merge takes over what an update names, and keeps the rest.
func merge(old, update *runtimeapi.LinuxContainerResources) *runtimeapi.LinuxContainerResources {
	out := &runtimeapi.LinuxContainerResources{
		CpuPeriod:              pick(update.GetCpuPeriod(), old.GetCpuPeriod()),
		CpuQuota:               pick(update.GetCpuQuota(), old.GetCpuQuota()),
		CpuShares:              pick(update.GetCpuShares(), old.GetCpuShares()),
		MemoryLimitInBytes:     pick(update.GetMemoryLimitInBytes(), old.GetMemoryLimitInBytes()),
		OomScoreAdj:            old.GetOomScoreAdj(), // of the process, not of its cgroup: it stays
		CpusetCpus:             pick(update.GetCpusetCpus(), old.GetCpusetCpus()),
		CpusetMems:             pick(update.GetCpusetMems(), old.GetCpusetMems()),
		HugepageLimits:         old.GetHugepageLimits(),
		Unified:                map[string]string{},
		MemorySwapLimitInBytes: pick(update.GetMemorySwapLimitInBytes(), old.GetMemorySwapLimitInBytes()),
	}
	if len(update.GetHugepageLimits()) > 0 {
		out.HugepageLimits = update.GetHugepageLimits()
	}
	for _, m := range []map[string]string{old.GetUnified(), update.GetUnified()} {
		for key, value := range m {
			out.Unified[key] = value
		}
	}
	return out
}

func pick[T comparable](first, second T) T {
	var none T
	if first != none {
		return first
	}
	return second
}
