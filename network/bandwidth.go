package network

import (
	"fmt"
	"math"

	"github.com/containerd/errdefs"
)

type bandwidthLimits struct {
	IngressRate  uint64 `json:"ingressRate,omitempty"` // bits per second
	IngressBurst uint64 `json:"ingressBurst,omitempty"`
	EgressRate   uint64 `json:"egressRate,omitempty"`
	EgressBurst  uint64 `json:"egressBurst,omitempty"`
}

const (
	minRate, maxRate = 1e3, 1e15 // Kubernetes' bounds of the annotations

	// The plugin computes its queue's length in 32 bits: rates beyond this come
	// out tiny. No link is as fast.
	maxEnforcedRate = 1e12

	minBurst = 64 << 10 * 8 // one segment of the largest size that the kernel hands down
	maxBurst = math.MaxUint32
)

func (b Bandwidth) limits() (l bandwidthLimits, err error) {
	if l.IngressRate, l.IngressBurst, err = limit("ingress", b.Ingress); err != nil {
		return l, err
	}
	l.EgressRate, l.EgressBurst, err = limit("egress", b.Egress)
	return l, err
}

// limit gives the rate and the burst to enforce. The burst is what passes
// unlimited after a pause: a tenth of a second's worth. (Other runtimes allow
// 256 to 512 MB at any rate, so that short transfers are not limited at all,
// kubernetes/kubernetes#90838.)
func limit(direction string, rate uint64) (enforced, burst uint64, err error) {
	switch {
	case rate == 0:
		return 0, 0, nil
	case rate < minRate || rate > maxRate:
		return 0, 0, fmt.Errorf("%s bandwidth %d bit/s is not in 1k to 1P: %w", direction, rate, errdefs.ErrInvalidArgument)
	}
	return min(rate, maxEnforcedRate), min(max(rate/10, minBurst), maxBurst), nil
}
