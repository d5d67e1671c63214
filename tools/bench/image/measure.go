// Package image measures pulls: ours, through an agent that stands for the
// kubelet and its worker, beside those of skopeo and of containerd where they
// are installed, of the same images, from one registry on loopback, into new
// stores on one disk.
package image

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A pullCase is one pull. Those of a round happen one after the other in one store.
type pullCase struct {
	name string
	tag  string
	// warm pulls find our worker running, as one soon after another does. All
	// others pay for its start.
	warm bool
}

var cases = []pullCase{
	{name: "60 small layers, 7.5 MB", tag: "layers"},
	{name: "5 layers, 500 MB", tag: "big"},
	{name: "the same again", tag: "big"},
	{name: "the same again, at once", tag: "big", warm: true},
	{name: "4 of 5 layers present, 100 MB", tag: "shared"},
}

// key names one measurement.
type key struct {
	pull      string
	contender string
}

// Results are the samples of a run.
type Results struct {
	samples map[key][]sample
	// have are the contenders that took part, missing those that are not installed.
	have, missing []string
	load          string // of the machine when it began
}

// Child runs this program as one of the benchmark's processes, if the
// arguments say so.
func Child(args []string) (is bool, err error) {
	switch {
	case len(args) == 1 && args[0] == keeperArg:
		return true, keep()
	case len(args) > 3 && args[0] == agentArg:
		return true, serveAgent(args[1], args[2], args[3:])
	}
	return false, nil
}

// Measure pulls every image with every contender, all of them once in each
// round and in a new order each time. rkt is the path of that command.
func Measure(rounds int, rkt string, progress func(string)) (_ *Results, err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("images are unpacked as root: run it as root")
	}
	if rkt, err = filepath.Abs(rkt); err != nil {
		return nil, err
	}
	if _, err := os.Stat(rkt); err != nil {
		return nil, fmt.Errorf("the command rkt pulls images: build it: %w", err)
	}
	contenders, missing := installed(rkt)
	res := &Results{samples: map[key][]sample{}, missing: missing, load: load()}
	for _, c := range contenders {
		res.have = append(res.have, c.name())
	}
	progress("making images")
	k, err := startKeeper()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, k.close()) }()
	if err := enoughSpace(int64(rounds*len(contenders)) * storeSize); err != nil {
		return nil, err
	}
	for round := range rounds {
		rand.Shuffle(len(contenders), func(i, j int) { contenders[i], contenders[j] = contenders[j], contenders[i] })
		for _, c := range contenders {
			progress(fmt.Sprintf("round %d of %d: %s", round+1, rounds, c.name()))
			if err := res.round(c, k.host); err != nil {
				return nil, fmt.Errorf("%s: %w", c.name(), err)
			}
		}
	}
	return res, nil
}

// storeSize is what one store takes at most, about.
const storeSize = 1_500_000_000

func enoughSpace(bytes int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(scratch, &fs); err != nil {
		return fmt.Errorf("find free space in %s: %w", scratch, err)
	}
	if free := int64(fs.Bavail) * fs.Bsize; free < bytes {
		return fmt.Errorf("%s has %d GB free, this many rounds need %d GB", scratch, free/1e9, bytes/1e9)
	}
	return nil
}

// round runs all cases with one contender in a new store. The store stays until
// the end of all rounds: ext4 looks for an inode past all that were deleted in
// the last minute or more, so that removing one store would slow the next down.
func (r *Results) round(c contender, host string) (err error) {
	root, err := os.MkdirTemp(scratch, c.name()+"-")
	if err != nil {
		return err
	}
	run, err := os.MkdirTemp(runs, c.name()+"-")
	if err != nil {
		return err
	}
	n, err := c.open(root, run)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.close()) }()
	for _, p := range cases {
		s, err := measure(n, host+"/"+repo+":"+p.tag, p.warm)
		if err != nil {
			return fmt.Errorf("pull %s: %w", p.tag, err)
		}
		k := key{p.name, c.name()}
		r.samples[k] = append(r.samples[k], s)
	}
	return nil
}

// load is the machine's load average.
func load() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	var one, five string
	if _, err := fmt.Sscan(string(data), &one, &five); err != nil {
		return "unknown"
	}
	return one + " (1 min), " + five + " (5 min)"
}
