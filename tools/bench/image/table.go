package image

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// of collects one figure of all samples of a measurement, sorted.
func (r *Results) of(pull, contender string, figure func(sample) float64) []float64 {
	var all []float64
	for _, s := range r.samples[key{pull, contender}] {
		all = append(all, figure(s))
	}
	slices.Sort(all)
	return all
}

// median of an even number of values is the mean of the middle two.
func median(sorted []float64) float64 {
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

func took(s sample) float64       { return s.took.Seconds() }
func onDisk(s sample) float64     { return s.onDisk.Seconds() }
func cpu(s sample) float64        { return s.cpu.Seconds() }
func agentPeak(s sample) float64  { return float64(s.agent) }
func othersPeak(s sample) float64 { return float64(s.others) }
func writes(s sample) float64     { return float64(s.written) }

// ratio is the quotient of ours and another's medians.
func (r *Results) ratio(pull, other string, figure func(sample) float64) float64 {
	return median(r.of(pull, ours{}.name(), figure)) / median(r.of(pull, other, figure))
}

// others are the contenders but ours.
func (r *Results) others() []string {
	return slices.DeleteFunc(slices.Clone(r.have), func(name string) bool { return name == ours{}.name() })
}

// head writes a table's first two lines.
func head(b *strings.Builder, columns ...string) {
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
}

// Summary is the table that README.md shows.
func (r *Results) Summary(machine string) string {
	var b strings.Builder
	b.WriteString("Median time of one pull from a registry on loopback; the last columns are quotients of medians.\n\n")
	columns := append([]string{"pull"}, r.have...)
	for _, other := range r.others() {
		columns = append(columns, "rktshim ÷ "+other)
	}
	head(&b, columns...)
	for _, p := range cases {
		fmt.Fprintf(&b, "| %s |", p.name)
		for _, c := range r.have {
			fmt.Fprintf(&b, " %s |", seconds(median(r.of(p.name, c, took))))
		}
		for _, other := range r.others() {
			fmt.Fprintf(&b, " %.2f |", r.ratio(p.name, other, took))
		}
		b.WriteString("\n")
	}
	big := cases[1].name
	fmt.Fprintf(&b, "\nThe 500 MB, medians; \"agent\" is the process that serves CRI, above its memory before the pull.\n\n")
	head(&b, append([]string{""}, r.have...)...)
	for _, line := range []struct {
		name   string
		figure func(sample) float64
		write  func(float64) string
	}{
		{"time until all is on the disk", onDisk, seconds},
		{"CPU time", cpu, seconds},
		{"peak memory of the agent", agentPeak, megabytes},
		{"peak memory of all other processes", othersPeak, megabytes},
		{"bytes written", writes, megabytes},
	} {
		fmt.Fprintf(&b, "| %s |", line.name)
		for _, c := range r.have {
			if c == (skopeo{}).name() && line.name == "peak memory of the agent" {
				b.WriteString(" – |")
				continue
			}
			fmt.Fprintf(&b, " %s |", line.write(median(r.of(big, c, line.figure))))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%s. Every pull, each with its range: [docs/bench/image.md](docs/bench/image.md).\n", machine)
	return b.String()
}

// Page is all that was measured.
func (r *Results) Page(machine string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Pulling images in figures\n\nWritten by `make bench` on %s; load average when it began: %s.\n\n", machine, r.load)
	b.WriteString(method)
	for _, other := range r.others() {
		fmt.Fprintf(&b, "\n%s: %s.", other, version(other))
	}
	for _, name := range r.missing {
		fmt.Fprintf(&b, "\n%s is not installed.", name)
	}
	b.WriteString("\n")
	for _, p := range cases {
		fmt.Fprintf(&b, "\n## %s\n\n", p.name)
		head(&b, "contender", "time (least–most)", "until on the disk", "CPU time", "agent's memory", "other processes' memory", "bytes written", "pulls")
		for _, c := range r.have {
			t := r.of(p.name, c, took)
			fmt.Fprintf(&b, "| %s | %s (%s–%s) | %s | %s | %s | %s | %s | %d |\n", c, seconds(median(t)), seconds(t[0]), seconds(t[len(t)-1]),
				seconds(median(r.of(p.name, c, onDisk))), seconds(median(r.of(p.name, c, cpu))), megabytes(median(r.of(p.name, c, agentPeak))),
				megabytes(median(r.of(p.name, c, othersPeak))), megabytes(median(r.of(p.name, c, writes))), len(t))
		}
		for _, other := range r.others() {
			fmt.Fprintf(&b, "\nrktshim ÷ %s: time %.2f, until on the disk %.2f, CPU time %.2f.", other,
				r.ratio(p.name, other, took), r.ratio(p.name, other, onDisk), r.ratio(p.name, other, cpu))
		}
		b.WriteString("\n")
	}
	return b.String()
}

const method = `The images are made anew by each run, always the same ones: files of 4 KiB to 10 MiB, small
ones as frequent as in images, half of them compressible, in layers of tar and gzip. The
registry is a process of its own on loopback and serves from the page cache. In each round
every contender, in a new order, gets a new store on the same disk and pulls all images into
it, one after the other; before each pull the disk is synced. The stores stay until the end:
ext4 is slow to make files for a while after as many have been deleted. What is in /run on a
node is on a tmpfs.

* rktshim: an agent with the image service as the kubelet has it, and its worker, which each
  pull but the one "at once" has to start, as after 10 idle seconds on a node. It answers when the image is on the disk; the others answer
  before, but for containerd's copies of the blobs.
* skopeo: ` + "`skopeo copy`" + ` into containers-storage with overlay.
* containerd: a daemon with a configuration and folders of its own and the overlayfs
  snapshotter; PullImage of its CRI service over its socket.

Time is until the pull answers; "until on the disk" adds what syncfs(2) then takes. Memory is
resident: of the agent (rktshim's, containerd) the peak above what it had before the pull
(VmHWM), of all other processes the peak of their sum, looked at every 10 ms. Bytes written
are what the processes gave the kernel to write, less what they deleted before it was written
(write_bytes and cancelled_write_bytes of /proc/PID/io); skopeo and containerd store each blob
before they unpack it. CPU time of processes that stay is counted in steps of 10 ms. The others are what the distribution ships, built with the compiler that
is named below: a newer one would make them faster. Figures are medians, ratios are quotients of medians.
`

func seconds(s float64) string {
	if d := time.Duration(s * float64(time.Second)); d < time.Second {
		return fmt.Sprintf("%d ms", d.Milliseconds())
	}
	return fmt.Sprintf("%.2f s", s)
}

func megabytes(n float64) string { return fmt.Sprintf("%.1f MB", n/1e6) }

// What a run must show.
const (
	goalRatio = 1.0  // ours to the faster of the others
	goalAgent = 40e6 // bytes of the agent above idle, in every pull
)

// Goals says which goals this run has missed.
func (r *Results) Goals() error {
	var errs []error
	for _, p := range cases {
		for _, other := range r.others() {
			if q := r.ratio(p.name, other, took); q > goalRatio {
				errs = append(errs, fmt.Errorf("pull of %s: rktshim takes %.2f of the time of %s", p.name, q, other))
			}
		}
		peaks := r.of(p.name, ours{}.name(), agentPeak)
		if most := peaks[len(peaks)-1]; most > goalAgent {
			errs = append(errs, fmt.Errorf("pull of %s: the agent's memory grows by %s, more than %s", p.name, megabytes(most), megabytes(goalAgent)))
		}
	}
	return errors.Join(errs...)
}
