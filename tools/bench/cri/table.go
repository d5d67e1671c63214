package cri

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/rktnetes/rktshim/tools/bench/streaming"
)

// row is one line of the table of medians.
type row struct {
	name    string
	figures []string // whose samples are taken together
	write   func(float64) string
	goal    map[string]float64 // times the peer's, by flavor; none: no goal
	atLeast bool               // the goal is a least, not a most
	peer    string             // another figure of the peer, if not the same
	zero    bool               // the goal is nothing
}

// both sets the same goal for both flavors.
func both(g float64) map[string]float64 { return map[string]float64{nspawn: g, lean: g} }

func call(name, network string) string { return name + ", " + network }

// anyNetwork is a call that does not depend on the pod's network.
func anyNetwork(name string) []string {
	return []string{call(name, hostNetwork), call(name, bridgeNetwork)}
}

var rows = []row{
	{name: "RunPodSandbox, bridge CNI", figures: []string{call("RunPodSandbox", bridgeNetwork)}, goal: both(0.38)},
	{name: "RunPodSandbox, host network", figures: []string{call("RunPodSandbox", hostNetwork)}, goal: both(0.16)},
	{name: "CreateContainer", figures: anyNetwork("CreateContainer"), goal: both(1)},
	{name: "StartContainer", figures: anyNetwork("StartContainer"), goal: both(0.11)},
	{name: "pod start, bridge CNI (Run + Create + Start)", figures: []string{call(podStart, bridgeNetwork)}, goal: both(0.31)},
	{name: "pod start, host network", figures: []string{call(podStart, hostNetwork)}, goal: both(0.18)},
	{name: "pod start, host network, container with seccomp RuntimeDefault", figures: []string{call(podStart, hostNetwork) + withSeccomp}},
	{name: "ExecSync of true", figures: anyNetwork("ExecSync"), goal: both(0.21)},
	{name: "StopContainer, timeout 0", figures: anyNetwork("StopContainer"), goal: both(0.4)},
	{name: "RemoveContainer", figures: anyNetwork("RemoveContainer")},
	{name: "StopPodSandbox, bridge CNI", figures: []string{call("StopPodSandbox", bridgeNetwork)}},
	{name: "StopPodSandbox, host network", figures: []string{call("StopPodSandbox", hostNetwork)}},
	{name: "RemovePodSandbox, bridge CNI", figures: []string{call("RemovePodSandbox", bridgeNetwork)}},
	{name: "pod removal, bridge CNI (4 calls)", figures: []string{call(podRemoval, bridgeNetwork)}, goal: both(0.45)},
	{name: "pod removal, host network", figures: []string{call(podRemoval, hostNetwork)}, goal: both(0.35)},
	{name: "pods started per second, 10 workers, bridge CNI", figures: []string{perSecond["start"]}, goal: both(3), atLeast: true, write: plain},
	{name: "pods removed per second, 10 workers, bridge CNI", figures: []string{perSecond["remove"]}, goal: both(3), atLeast: true, write: plain},
	{name: "exec, output of the process, MB/s", figures: []string{streaming.ExecOut}, goal: both(1), atLeast: true, write: plain},
	{name: "exec, input of the process, MB/s", figures: []string{streaming.ExecIn}, goal: both(1), atLeast: true, write: plain},
	{name: "exec, a byte there and back", figures: []string{streaming.ExecEcho}, goal: both(1)},
	{name: "port-forward, from the pod, MB/s", figures: []string{streaming.ForwardOut}, goal: both(1), atLeast: true, write: plain},
	{name: "port-forward, to the pod, MB/s", figures: []string{streaming.ForwardIn}, goal: both(1), atLeast: true, write: plain},
	{name: "port-forward, a byte there and back", figures: []string{streaming.ForwardEcho}, goal: both(1)},
	{name: "ListPodSandbox, N pods", figures: []string{"ListPodSandbox"}, goal: both(0.6)},
	{name: "ListContainers, N pods", figures: []string{"ListContainers"}, goal: both(0.6)},
	{name: "PodSandboxStatus, N pods", figures: []string{"PodSandboxStatus"}},
	{name: "ContainerStatus, N pods", figures: []string{"ContainerStatus"}},
	{name: "ListContainerStats, N pods", figures: []string{"ListContainerStats"}, goal: both(0.07)},
	{name: "ListPodSandboxStats, N pods", figures: []string{"ListPodSandboxStats"}},
	{name: "idle CPU with N pods, agent and helpers", figures: []string{idleCPU}, goal: both(0), zero: true, write: cores},
	{name: "runtime's own memory, N pods", figures: []string{agentGain}, peer: agentRSS, goal: both(0.3), write: megabytes},
	{name: "helper memory per pod, PSS", figures: []string{helperPSS}, goal: map[string]float64{nspawn: 0.37, lean: 0.18}, write: megabytes},
	{name: "helper memory per pod, private", figures: []string{helperPrivate}, write: megabytes},
}

// nothing is the most CPU time that counts as none: the clock of an idle Go
// program's own housekeeping, which two minutes without work end.
const nothing = 0.001 // cores

// slack is by how much lean may be slower than nspawn in medians that noise moves.
const slack = 1.10

func (x row) format(v float64) string {
	switch {
	case math.IsNaN(v):
		return "–"
	case x.write != nil:
		return x.write(v)
	}
	return short(v)
}

// title is a row's name with the number of pods alive in it.
func (r *Results) title(x row) string {
	return strings.Replace(x.name, "N pods", fmt.Sprintf("%d pods", r.Alive), 1)
}

// ratio is a flavor's median as a part of the peer's.
func (r *Results) ratio(x row, flavor string) float64 {
	peer := x.figures
	if x.peer != "" {
		peer = []string{x.peer}
	}
	return r.median(flavor, x.figures...) / r.median(containerd, peer...)
}

// verdict says whether a goal was reached: "ok", or what it misses; empty without
// a goal or a figure.
func (r *Results) verdict(x row, flavor string) string {
	goal, ok := x.goal[flavor]
	q := r.ratio(x, flavor)
	switch {
	case !ok || math.IsNaN(r.median(flavor, x.figures...)) || !x.zero && math.IsNaN(q):
		return ""
	case x.zero && r.median(flavor, x.figures...) <= nothing, !x.zero && x.atLeast && q >= goal, !x.zero && !x.atLeast && q <= goal:
		return "ok"
	}
	return "missed"
}

// goalText is how a goal is written.
func (x row) goalText(flavor string) string {
	goal, ok := x.goal[flavor]
	switch {
	case !ok:
		return ""
	case x.zero:
		return "0"
	case x.atLeast:
		return fmt.Sprintf("≥ %.2f", goal)
	}
	return fmt.Sprintf("≤ %.2f", goal)
}

func (r *Results) peerOf(x row) float64 {
	if x.peer != "" {
		return r.median(containerd, x.peer)
	}
	return r.median(containerd, x.figures...)
}

// Summary is the table that README.md shows.
func (r *Results) Summary(machine string) string {
	var b strings.Builder
	b.WriteString("Medians; goals are parts of what containerd + runc take in the same run.\n\n")
	b.WriteString("| | nspawn | lean | containerd + runc | nspawn ÷ containerd | goal | | lean ÷ containerd | goal | |\n|---|---|---|---|---|---|---|---|---|---|\n")
	for _, x := range rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |", r.title(x), x.format(r.median(nspawn, x.figures...)), x.format(r.median(lean, x.figures...)), x.format(r.peerOf(x)))
		for _, flavor := range []string{nspawn, lean} {
			q := "–"
			if v := r.ratio(x, flavor); !math.IsNaN(v) {
				q = fmt.Sprintf("%.2f", v)
			}
			fmt.Fprintf(&b, " %s | %s | %s |", q, x.goalText(flavor), r.verdict(x, flavor))
		}
		b.WriteString("\n")
	}
	if none, compiled, handed := r.median("", filterNone), r.median("", filterCompiled), r.median("", filterHanded); !math.IsNaN(none) {
		fmt.Fprintf(&b, "\nSeccomp: crun's create takes %s without a profile, %s when it compiles RuntimeDefault, %s when it is handed the program, as here from the second container on.\n",
			short(none), short(compiled), short(handed))
	}
	fmt.Fprintf(&b, "\n%s; load average when it began: %s. p90, p99, calls by socket and memory: [docs/bench/cri.md](docs/bench/cri.md).\n", machine, r.Load)
	return b.String()
}

// Page is all that was measured.
func (r *Results) Page(machine string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Pods in figures\n\nWritten by `make bench` on %s; load average when it began: %s.\n\n%s\n", machine, r.Load, method)
	for _, program := range programs {
		fmt.Fprintf(&b, "* %s: %s\n", program, r.Version[program])
	}
	b.WriteString("\n" + r.Summary(machine))
	b.WriteString("\n## Each contender\n")
	for _, x := range rows {
		fmt.Fprintf(&b, "\n### %s\n\n| | p50 | p90 | p99 | samples |\n|---|---|---|---|---|\n", r.title(x))
		for _, c := range r.Have {
			all := r.of(c, x.figures...)
			if c == containerd && x.peer != "" {
				all = r.of(c, x.peer)
			}
			if len(all) > 0 {
				fmt.Fprintf(&b, "| %s | %s | %s | %s | %d |\n", c, x.format(percentile(all, 0.5)), x.format(percentile(all, 0.9)), x.format(percentile(all, 0.99)), len(all))
			}
		}
	}
	fmt.Fprintf(&b, "\n## Memory with %d pods\n\n", r.Alive)
	b.WriteString("| | agent RSS | agent PSS | agent private | helper processes per pod | their RSS | their PSS | their private |\n|---|---|---|---|---|---|---|---|\n")
	for _, c := range r.Have {
		if math.IsNaN(r.median(c, agentRSS)) {
			continue
		}
		fmt.Fprintf(&b, "| %s |", c)
		for _, f := range []string{agentRSS, agentPSS, agentPrivate, helperCount, helperRSS, helperPSS, helperPrivate} {
			write := megabytes
			if f == helperCount {
				write = plain
			}
			fmt.Fprintf(&b, " %s |", write(r.median(c, f)))
		}
		b.WriteString("\n")
	}
	return b.String()
}

const method = `All contenders run at the same time in one set of namespaces: the network, the CNI
configuration (bridge with masquerade, portmap), the plugins, the image (busybox) and the
disk are the same. nspawn and lean are rktshim in a process of its own, called in memory, as
the kubelet does; "by socket" is the first of these over its unix socket; containerd is the
distribution's with a configuration, folders, a socket and a cgroup of its own, and a pause
program of one page. Sandboxes have the seccomp profile RuntimeDefault, as the kubelet asks
for; containers have none unless the row says so. Pods run one after the other, each
contender and kind in turn in a new order each round; the first round is not counted. Bursts
are of 50 pods by 10 workers on the bridge. Sessions go by client-go's SPDY from the
conductor to the runtime's streaming server, for rktshim by socket, too: 128 MB each way, and
300 times a byte there and back, of which the median is one sample. With pods alive: lists are called in turn;
memory is of /proc/PID/smaps_rollup; helpers are all processes that are neither the agent nor
an app, here of one contender at a time; idle CPU is that of agent and helpers over 10 s. The
runtime's own memory is, for rktshim, what the process has above what it had before the
runtime was started in it, and for containerd, the daemon's. Where the machine has
controllers in both cgroup versions, the arena hides the second from all, as crun refuses such
hosts.
`

var programs = []string{"containerd", "runc", "crun", "systemd-nspawn"}

// versions are what programs say of themselves, in a line each.
func versions() map[string]string {
	all := map[string]string{}
	for _, program := range programs {
		path, err := exec.LookPath(program)
		if err != nil {
			all[program] = "not installed"
			continue
		}
		out, _ := exec.Command(path, "--version").Output()
		line, _, _ := strings.Cut(string(out), "\n")
		if info, err := buildinfo.ReadFile(path); err == nil {
			line += ", built with " + info.GoVersion
		}
		all[program] = line
	}
	return all
}

func load() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}

// short writes seconds with two or three digits, in microseconds or milliseconds.
func short(s float64) string {
	switch ms := s * float64(time.Second/time.Millisecond); {
	case ms < 0.1:
		return fmt.Sprintf("%.0f µs", ms*1000)
	case ms < 1:
		return fmt.Sprintf("%.2f ms", ms)
	case ms < 100:
		return fmt.Sprintf("%.1f ms", ms)
	default:
		return fmt.Sprintf("%.0f ms", ms)
	}
}

func megabytes(n float64) string { return fmt.Sprintf("%.2f MB", n/1e6) }
func plain(n float64) string     { return fmt.Sprintf("%.1f", n) }
func cores(n float64) string     { return fmt.Sprintf("%.4f core", n) }

// Goals says which goals this run has missed, and where lean is slower than nspawn.
func (r *Results) Goals() error {
	var errs []error
	for _, x := range rows {
		for _, flavor := range []string{nspawn, lean} {
			if r.verdict(x, flavor) == "missed" {
				errs = append(errs, fmt.Errorf("%s, %s: %s, %.2f of containerd's, goal %s", x.name, flavor, x.format(r.median(flavor, x.figures...)), r.ratio(x, flavor), x.goalText(flavor)))
			}
		}
		l, n := r.median(lean, x.figures...), r.median(nspawn, x.figures...)
		if x.atLeast {
			l, n = n, l
		}
		if !x.zero && l > n*slack {
			errs = append(errs, fmt.Errorf("%s: lean is worse than nspawn: %s and %s", x.name, x.format(r.median(lean, x.figures...)), x.format(r.median(nspawn, x.figures...))))
		}
	}
	return errors.Join(errs...)
}
