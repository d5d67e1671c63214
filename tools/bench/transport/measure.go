// Package transport measures the ways from a kubelet to its runtime: in memory,
// over a unix socket within one process, over one to another process, which is
// how every other runtime is reached, and a plain Go call as the floor.
package transport

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"
)

// batchTime is how long one round of one measurement lasts, about.
const batchTime = 60 * time.Millisecond

// minCalls is how many calls a batch has at least, whatever they take.
const minCalls = 16

// concurrencies are the numbers of callers that are measured.
var concurrencies = []int{1, 8}

// key names one measurement.
type key struct {
	workload string
	callers  int
	path     string
}

// sample is what the rounds of one measurement have given.
type sample struct {
	latencies []time.Duration
	cpu       time.Duration
	mallocs   uint64
}

func (s *sample) percentile(p float64) time.Duration {
	return s.latencies[min(len(s.latencies)-1, int(p*float64(len(s.latencies))))]
}

func (s *sample) cpuPerCall() time.Duration { return s.cpu / time.Duration(len(s.latencies)) }
func (s *sample) allocsPerCall() float64    { return float64(s.mallocs) / float64(len(s.latencies)) }

// Results are the samples of a run.
type Results map[key]*sample

// Measure runs every workload over every path, all of them once in each round and
// in a new order each time, so that what disturbs the machine disturbs all alike.
func Measure(rounds int, progress func(string)) (Results, error) {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	paths, err := openPaths(dir)
	if err != nil {
		return nil, err
	}
	defer closeAll(paths)
	progress("calibrating")
	plan, err := calibrate(paths)
	if err != nil {
		return nil, err
	}
	results := Results{}
	for round := range rounds {
		progress(fmt.Sprintf("round %d of %d", round+1, rounds))
		rand.Shuffle(len(plan), func(i, j int) { plan[i], plan[j] = plan[j], plan[i] })
		for _, b := range plan {
			if err := b.run(results); err != nil {
				return nil, fmt.Errorf("%s over %s: %w", b.workload.name, b.path.name, err)
			}
		}
	}
	for _, s := range results {
		slices.Sort(s.latencies)
	}
	return results, nil
}

// batch is one round of one measurement.
type batch struct {
	workload workload
	path     *path
	callers  int
	calls    int // of each caller
}

// calibrate warms every path up and finds how many calls fill a batch.
func calibrate(paths []*path) (plan []batch, err error) {
	for _, w := range workloads {
		for _, p := range paths {
			const warm = 30
			var start time.Time
			for i := range 2 * warm {
				if i == warm {
					start = time.Now()
				}
				if err := w.call(context.Background(), p); err != nil {
					return nil, fmt.Errorf("%s over %s: %w", w.name, p.name, err)
				}
			}
			each := max(time.Since(start)/warm, time.Microsecond/5)
			for _, n := range concurrencies {
				plan = append(plan, batch{w, p, n, max(minCalls/n, int(batchTime/each)/n)})
			}
		}
	}
	return plan, nil
}

func (b batch) run(results Results) error {
	k := key{b.workload.name, b.callers, b.path.name}
	if results[k] == nil {
		results[k] = &sample{}
	}
	s := results[k]
	before, err := b.path.usage()
	if err != nil {
		return err
	}
	latencies := make([][]time.Duration, b.callers)
	errs := make([]error, b.callers)
	var wg sync.WaitGroup
	for c := range b.callers {
		latencies[c] = make([]time.Duration, 0, b.calls)
		wg.Go(func() {
			for range b.calls {
				start := time.Now()
				if errs[c] = b.workload.call(context.Background(), b.path); errs[c] != nil {
					return
				}
				latencies[c] = append(latencies[c], time.Since(start))
			}
		})
	}
	wg.Wait()
	after, err := b.path.usage()
	if err != nil {
		return err
	}
	for c := range b.callers {
		if errs[c] != nil {
			return errs[c]
		}
		s.latencies = append(s.latencies, latencies[c]...)
	}
	s.cpu += after.cpu - before.cpu
	s.mallocs += after.mallocs - before.mallocs
	return nil
}
