package transport

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

var pathNames = []string{direct, memory, sameUnix, twoUnix}

// ratio is the quotient of two paths' medians.
func (r Results) ratio(w string, callers int, a, b string) float64 {
	return float64(r[key{w, callers, a}].percentile(0.5)) / float64(r[key{w, callers, b}].percentile(0.5))
}

// Summary is the table that README.md shows.
func (r Results) Summary(machine string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "![medians of each call over each way](docs/bench/transport.svg)\n\n")
	fmt.Fprintf(&b, "Median of one call, one caller; the last two columns are quotients of medians.\n\n")
	fmt.Fprintf(&b, "| call | %s | %s | %s | %s | memory ÷ one process | memory ÷ two processes |\n|---|---|---|---|---|---|---|\n", direct, memory, sameUnix, twoUnix)
	for _, w := range workloads {
		fmt.Fprintf(&b, "| %s |", w.name)
		for _, p := range pathNames {
			fmt.Fprintf(&b, " %s |", short(r[key{w.name, 1, p}].percentile(0.5)))
		}
		fmt.Fprintf(&b, " %.2f | %.2f |\n", r.ratio(w.name, 1, memory, sameUnix), r.ratio(w.name, 1, memory, twoUnix))
	}
	fmt.Fprintf(&b, "\n%s. p99, 8 callers, CPU and allocations: [docs/bench/transport.md](docs/bench/transport.md).\n", machine)
	return b.String()
}

// Page is all that was measured.
func (r Results) Page(machine string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# The transport in figures\n\nWritten by `make bench` on %s.\n\n", machine)
	fmt.Fprintf(&b, "One server type and one client type over every way; all measurements take turns in each\nround, in a new order each time. CPU and allocations are of client and server together.\nThe direct call has no client and no copy: it is the floor, not an alternative.\n\n![medians](transport.svg)\n")
	for _, callers := range concurrencies {
		plural := "s"
		if callers == 1 {
			plural = ""
		}
		fmt.Fprintf(&b, "\n## %d caller%s\n\n| call | way | p50 | p99 | CPU per call | allocations per call | calls measured |\n|---|---|---|---|---|---|---|\n", callers, plural)
		for _, w := range workloads {
			for _, p := range pathNames {
				s := r[key{w.name, callers, p}]
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %.0f | %d |\n", w.name, p, short(s.percentile(0.5)), short(s.percentile(0.99)), short(s.cpuPerCall()), s.allocsPerCall(), len(s.latencies))
			}
		}
	}
	return b.String()
}

// short writes a duration with three digits, in microseconds or milliseconds.
func short(d time.Duration) string {
	us := float64(d) / float64(time.Microsecond)
	switch {
	case us < 10:
		return fmt.Sprintf("%.2f µs", us)
	case us < 1000:
		return fmt.Sprintf("%.0f µs", us)
	}
	return fmt.Sprintf("%.1f ms", us/1000)
}

// What a run must show: the medians of small calls in memory, as parts of those
// over sockets, and no size that is slower.
const (
	goalSame = 0.75
	goalTwo  = 0.20
	notSlow  = 1.05 // the noise of a median of big lists, which are bound by their encoding
)

// Goals says which goals this run has missed.
func (r Results) Goals() error {
	var errs []error
	for _, w := range workloads {
		same, two := r.ratio(w.name, 1, memory, sameUnix), r.ratio(w.name, 1, memory, twoUnix)
		if w.small && same > goalSame {
			errs = append(errs, fmt.Errorf("%s: memory takes %.2f of the socket in one process, more than %.2f", w.name, same, goalSame))
		}
		if w.small && two > goalTwo {
			errs = append(errs, fmt.Errorf("%s: memory takes %.2f of the socket to another process, more than %.2f", w.name, two, goalTwo))
		}
		for _, callers := range concurrencies {
			for _, p := range []string{sameUnix, twoUnix} {
				if q := r.ratio(w.name, callers, memory, p); q > notSlow {
					errs = append(errs, fmt.Errorf("%s, %d callers: memory takes %.2f of the %s", w.name, callers, q, p))
				}
			}
		}
	}
	return errors.Join(errs...)
}
