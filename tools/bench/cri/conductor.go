package cri

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/rktnetes/rktshim/internal/cgroup"
)

const cniPlugins = "/usr/lib/cni"

// cniConf is the network of all contenders.
const cniConf = `{"cniVersion":"1.0.0","name":"bench","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":true,"hairpinMode":true,
  "ipam":{"type":"host-local","routes":[{"dst":"0.0.0.0/0"}],"ranges":[[{"subnet":"10.89.0.0/16"}]]}},
 {"type":"portmap","capabilities":{"portMappings":true}}]}
`

// The contenders, in the order of the tables.
const (
	nspawn       = "nspawn"
	lean         = "lean"
	nspawnSocket = "nspawn by socket"
	containerd   = "containerd + runc"
)

// contender is one way to run pods.
type contender struct {
	name   string
	do     func(job) (*outcome, error)
	socket string // where it serves CRI, too
	agent  int    // the process that serves CRI
	parent string
	empty  memory // of the agent, before it has a runtime
}

// bench is a run under way.
type bench struct {
	plan
	all     []*contender
	results *Results
	out     *json.Encoder
}

// conductor is the main of the process that starts the contenders and measures.
func conductor(told string) error {
	b := &bench{out: json.NewEncoder(os.Stdout), results: newResults()}
	if err := json.Unmarshal([]byte(told), &b.plan); err != nil {
		return err
	}
	b.results.Alive = b.Alive
	err := b.run()
	if err != nil {
		b.showLogs()
		return err
	}
	return b.out.Encode(message{Results: b.results})
}

func (b *bench) progress(format string, args ...any) {
	b.out.Encode(message{Progress: fmt.Sprintf(format, args...)}) //nolint:errcheck // who does not read it has gone
}

func (b *bench) run() error {
	if err := serveRegistry(); err != nil {
		return err
	}
	conf := filepath.Join(scratch, "cni")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(conf, "10-bench.conflist"), []byte(cniConf), 0o644); err != nil {
		return err
	}
	if err := b.open(conf); err != nil {
		return err
	}
	for _, step := range []func() error{b.filters, b.oneByOne, b.sessions, b.bursts, b.alive} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// open starts the contenders and has each pull the image.
func (b *bench) open(cniConf string) error {
	for _, flavor := range []string{nspawn, lean} {
		c, err := b.openAgent(flavor, cniConf)
		if err != nil {
			return fmt.Errorf("start rktshim with %s: %w", flavor, err)
		}
		b.all = append(b.all, c)
	}
	socket, err := overSocket(b.socketOf(nspawn))
	if err != nil {
		return err
	}
	b.all = append(b.all, &contender{name: nspawnSocket, do: socket, agent: b.all[0].agent, parent: b.all[0].parent})
	if b.Containerd {
		c, err := startContainerd(cniConf)
		if err != nil {
			return fmt.Errorf("start containerd: %w", err)
		}
		b.all = append(b.all, c)
	}
	for _, c := range b.all {
		b.results.Have = append(b.results.Have, c.name)
		if c.name == nspawnSocket {
			continue
		}
		b.progress("pulling the image with %s", c.name)
		if err := cgroup.Make(c.parent); err != nil {
			return err
		}
		if _, err := c.do(job{Op: "pull"}); err != nil {
			return fmt.Errorf("%s: pull: %w", c.name, err)
		}
	}
	return nil
}

func (b *bench) socketOf(flavor string) string { return filepath.Join("/run", flavor, "cri.sock") }

func (b *bench) openAgent(flavor, cniConf string) (*contender, error) {
	a, err := startAgent(agentConfig{
		Dir: filepath.Join(scratch, flavor), Run: filepath.Join("/run", flavor), Flavor: flavor,
		Socket: b.socketOf(flavor), Log: filepath.Join(scratch, flavor+".log"), CNIConf: cniConf, Binaries: b.Binaries,
	})
	if err != nil {
		return nil, err
	}
	c := &contender{name: flavor, do: a.do, socket: b.socketOf(flavor), agent: a.pid, parent: cgroups + "/" + flavor}
	c.empty = memoryOf(a.pid)
	_, err = a.do(job{})
	return c, err
}

// showLogs prints the ends of what the contenders have logged.
func (b *bench) showLogs() {
	filepath.WalkDir(scratch, func(path string, d fs.DirEntry, err error) error { //nolint:errcheck // what can be read is shown
		if err != nil || filepath.Ext(path) != ".log" || filepath.Dir(path) != scratch {
			return nil
		}
		text, err := os.ReadFile(path)
		if err == nil {
			fmt.Fprintf(os.Stderr, "== %s\n%s\n", path, text[max(0, len(text)-3000):])
		}
		return nil
	})
}

// job completes a job for a contender.
func (c *contender) job(j job) job {
	j.Parent, j.Dir = c.parent, scratch
	return j
}

// kinds are the pods that are measured one by one.
var kinds = []struct {
	network string
	seccomp bool
}{{hostNetwork, false}, {bridgeNetwork, false}, {hostNetwork, true}}

// execs is how many ExecSync each pod gets.
const execs = 2

// oneByOne takes pods through their lives, of every contender and kind in turn, in
// a new order each round. The first round only warms everything up.
func (b *bench) oneByOne() error {
	type turn struct {
		c *contender
		k int
	}
	var turns []turn
	for _, c := range b.all {
		for k := range kinds {
			turns = append(turns, turn{c, k})
		}
	}
	for round := range b.Rounds + 1 {
		b.progress("round %d of %d", round, b.Rounds)
		rand.Shuffle(len(turns), func(i, j int) { turns[i], turns[j] = turns[j], turns[i] })
		for _, t := range turns {
			kind := kinds[t.k]
			o, err := t.c.do(t.c.job(job{Op: "cycle", Network: kind.network, Seccomp: kind.seccomp, Repeat: execs}))
			if err != nil {
				return fmt.Errorf("%s, %s: %w", t.c.name, kind.network, err)
			}
			if round > 0 {
				b.results.addCycle(t.c.name, kind.network, kind.seccomp, o)
			}
		}
	}
	return nil
}

// sessions measures exec and port-forward. The client is in this process, whoever
// the runtime is; the first round only warms up.
func (b *bench) sessions() error {
	for round := range b.Sessions + 1 {
		for _, i := range rand.Perm(len(b.all)) {
			c := b.all[i]
			if c.socket == "" {
				continue
			}
			b.progress("sessions, round %d of %d: %s", round, b.Sessions, c.name)
			do, err := overSocket(c.socket)
			if err != nil {
				return err
			}
			o, err := do(c.job(job{Op: "sessions", Network: hostNetwork}))
			switch {
			case err == nil:
			case c.name == containerd && o != nil: // its stdin is cut short now and then
				b.progress("%s: left out: %v", c.name, err)
			default:
				return fmt.Errorf("%s: sessions: %w", c.name, err)
			}
			for name, v := range o.Sessions {
				if round > 0 {
					b.results.add(c.name, name, v)
				}
			}
		}
	}
	return nil
}

// bursts starts many pods at once, and removes them.
func (b *bench) bursts() error {
	for n := range b.Bursts {
		for _, i := range rand.Perm(len(b.all)) {
			c := b.all[i]
			b.progress("burst %d of %d: %s", n+1, b.Bursts, c.name)
			for _, op := range []string{"start", "remove"} {
				o, err := c.do(c.job(job{Op: op, Network: bridgeNetwork, Pods: b.Burst, Workers: b.Workers}))
				if err != nil {
					return fmt.Errorf("%s: %s %d pods: %w", c.name, op, b.Burst, err)
				}
				b.results.add(c.name, perSecond[op], float64(b.Burst)/o.Whole.Seconds())
			}
		}
	}
	return nil
}

// alive measures reads, memory and idleness with many pods, one contender after
// the other, as only then the helpers of one can be told from another's.
func (b *bench) alive() error {
	if b.Alive == 0 {
		return nil
	}
	for _, c := range b.all {
		b.progress("%d pods: %s", b.Alive, c.name)
		if err := b.aliveOf(c); err != nil {
			return fmt.Errorf("%s, %d pods alive: %w", c.name, b.Alive, err)
		}
	}
	return nil
}

func (b *bench) aliveOf(c *contender) error {
	if _, err := c.do(c.job(job{Op: "start", Network: bridgeNetwork, Pods: b.Alive, Workers: b.Workers})); err != nil {
		return err
	}
	if c.name != nspawnSocket {
		if err := b.weigh(c); err != nil {
			return err
		}
	}
	o, err := c.do(c.job(job{Op: "lists", Pods: b.Alive, Repeat: b.Lists}))
	if err != nil {
		return err
	}
	b.results.addCalls(c.name, "", o)
	_, err = c.do(c.job(job{Op: "remove", Workers: b.Workers}))
	return err
}

// weigh looks at memory and CPU time of a contender whose pods are idle.
func (b *bench) weigh(c *contender) error {
	own := []int{os.Getpid()}
	for _, other := range b.all {
		if other.agent != c.agent {
			own = append(own, other.agent)
		}
	}
	time.Sleep(b.Idle / 5) // what starting has left to do
	helpers, apps := helpersOf(c.agent, own)
	if apps != b.Alive {
		return fmt.Errorf("%d processes of apps found, want %d", apps, b.Alive)
	}
	if len(helpers) == 0 {
		return errors.New("no helper process found")
	}
	watched := append([]int{c.agent}, helpers...)
	before := cpuOf(watched)
	start := time.Now()
	time.Sleep(b.Idle)
	idle := (cpuOf(watched) - before).Seconds() / time.Since(start).Seconds()
	agent, sum := memoryOf(c.agent), memory{}
	for _, pid := range helpers {
		sum = sum.plus(memoryOf(pid))
	}
	pods := float64(b.Alive)
	for name, v := range map[string]float64{
		idleCPU: idle, agentRSS: agent.rss, agentPSS: agent.pss, agentPrivate: agent.private,
		agentGain: agent.rss - c.empty.rss, helperRSS: sum.rss / pods, helperPSS: sum.pss / pods, helperPrivate: sum.private / pods,
		helperCount: float64(len(helpers)) / pods,
	} {
		b.results.add(c.name, name, v)
	}
	return nil
}
