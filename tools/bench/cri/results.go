package cri

import (
	"math"
	"slices"
	"time"
)

// Names of figures that are no calls.
const (
	idleCPU        = "idle CPU, cores"
	agentRSS       = "agent RSS"
	agentPSS       = "agent PSS"
	agentPrivate   = "agent private"
	agentGain      = "agent gain"
	helperRSS      = "helpers RSS"
	helperPSS      = "helpers PSS"
	helperPrivate  = "helpers private"
	helperCount    = "helpers"
	filterNone     = "crun create, no profile"
	filterCompiled = "crun create, compiling RuntimeDefault"
	filterHanded   = "crun create, RuntimeDefault handed as a program"
)

var perSecond = map[string]string{"start": "started per second", "remove": "removed per second"}

// withSeccomp marks calls for pods with the profile RuntimeDefault.
const withSeccomp = ", seccomp RuntimeDefault"

// Results are all figures of a run: seconds, bytes, or what their name says.
type Results struct {
	Have    []string                        // contenders
	Figures map[string]map[string][]float64 // by contender, then by figure
	Alive   int                             // pods alive for the rows that say so
	Load    string                          // of the machine when it began
	Version map[string]string               // of the programs
}

func newResults() *Results {
	return &Results{Figures: map[string]map[string][]float64{}, Load: load(), Version: versions()}
}

func (r *Results) add(contender, figure string, v float64) {
	if r.Figures[contender] == nil {
		r.Figures[contender] = map[string][]float64{}
	}
	r.Figures[contender][figure] = append(r.Figures[contender][figure], v)
}

func (r *Results) addCalls(contender, suffix string, o *outcome) {
	for call, times := range o.Calls {
		for _, t := range times {
			r.add(contender, call+suffix, t.Seconds())
		}
	}
}

// Sums of calls of one pod.
const (
	podStart   = "pod start"
	podRemoval = "pod removal"
)

func (r *Results) addCycle(contender, network string, seccomp bool, o *outcome) {
	suffix := ", " + network
	if seccomp {
		suffix += withSeccomp
	}
	r.addCalls(contender, suffix, o)
	for name, calls := range map[string][]string{
		podStart:   {"RunPodSandbox", "CreateContainer", "StartContainer"},
		podRemoval: {"StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox"},
	} {
		var sum time.Duration
		for _, call := range calls {
			sum += o.Calls[call][0]
		}
		r.add(contender, name+suffix, sum.Seconds())
	}
}

// of gives the figures of the given names together, sorted.
func (r *Results) of(contender string, names ...string) (all []float64) {
	for _, name := range names {
		all = append(all, r.Figures[contender][name]...)
	}
	slices.Sort(all)
	return all
}

// percentile is the nearest rank; of nothing, it is NaN.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return math.NaN()
	}
	rank := int(math.Ceil(p * float64(len(sorted))))
	return sorted[min(len(sorted), max(1, rank))-1]
}

func (r *Results) median(contender string, names ...string) float64 {
	return percentile(r.of(contender, names...), 0.5)
}
