// Bench measures rktshim and writes what it found, with the machine and the date,
// into README.md and docs/bench/. `make bench` runs it.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.podman.io/storage/pkg/reexec"

	"github.com/rktnetes/rktshim/tools/bench/cri"
	"github.com/rktnetes/rktshim/tools/bench/image"
	"github.com/rktnetes/rktshim/tools/bench/report"
	"github.com/rktnetes/rktshim/tools/bench/transport"
)

// results are what a part gives.
type results interface {
	Summary(machine string) string
	Page(machine string) string
	Goals() error
}

// part is one part of the benchmark.
type part struct {
	name    string
	rounds  int // unless told otherwise
	measure func(rounds int, progress func(string)) (results, error)
}

func main() {
	if reexec.Init() { // the storage library runs this program for some of its work
		return
	}
	if len(os.Args) == 3 && os.Args[1] == transport.ServeArg {
		exitOn(transport.Serve(os.Args[2]))
		return
	}
	if is, err := image.Child(os.Args[1:]); is {
		exitOn(err)
		return
	}
	if is, err := cri.Child(os.Args[1:]); is {
		exitOn(err)
		return
	}
	exitOn(run())
}

func run() error {
	readme := flag.String("readme", "", "file that shows the results, between markers <!-- bench:NAME -->")
	out := flag.String("out", "", "folder for the full tables and the plots")
	rounds := flag.Int("rounds", 0, "how often each measurement is repeated, in turn with the others; 0: as each part needs")
	rkt := flag.String("rkt", "bin/rkt", "the command rkt, which pulls images")
	supervisor := flag.String("supervisor", "bin/rkt-supervisor", "the program that each pod has a process of")
	quick := flag.Bool("quick", false, "only see that the part cri works: few rounds, figures that mean nothing, nothing written")
	trials := flag.Bool("trials", false, "compare gRPC settings instead, and print the result")
	var bin cri.Binaries
	parts := []part{
		{"transport", 30, func(rounds int, progress func(string)) (results, error) { return transport.Measure(rounds, progress) }},
		{"image", 5, func(rounds int, progress func(string)) (results, error) {
			return image.Measure(rounds, *rkt, progress)
		}},
		{"cri", 30, func(rounds int, progress func(string)) (results, error) {
			return cri.Measure(cri.Full(rounds), bin, progress)
		}},
	}
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: bench [flags] [part...]\nparts, all unless some are named: %s\n", names(parts))
		flag.PrintDefaults()
	}
	flag.Parse()
	if *trials {
		return transport.Trials(os.Stdout, cmp.Or(*rounds, 30))
	}
	bin = cri.Binaries{Rkt: *rkt, Supervisor: *supervisor}
	if *quick {
		res, err := cri.Measure(cri.Quick(), bin, func(string) {})
		if err != nil {
			return err
		}
		fmt.Println(res.Page("a try"))
		return nil
	}
	if *readme == "" || *out == "" {
		return errors.New("give -readme and -out; -h explains them")
	}
	for _, arg := range flag.Args() {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == arg }) {
			return fmt.Errorf("part %q is not known: %s are", arg, names(parts))
		}
	}
	if err := os.MkdirAll(*out, 0o755); err != nil {
		return err
	}
	var missed []error
	for _, p := range parts {
		if flag.NArg() > 0 && !slices.Contains(flag.Args(), p.name) {
			continue
		}
		p.rounds = cmp.Or(*rounds, p.rounds)
		goals, err := p.run(*readme, *out)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		missed = append(missed, goals)
	}
	return errors.Join(missed...)
}

// run measures, and writes what it found. It gives the goals that were missed
// apart from what went wrong.
func (p part) run(readme, out string) (missed, err error) {
	start := time.Now()
	res, err := p.measure(p.rounds, func(what string) {
		fmt.Fprintf(os.Stderr, "%6.1f s  %s: %s\n", time.Since(start).Seconds(), p.name, what)
	})
	if err != nil {
		return nil, err
	}
	machine := report.Machine(time.Now())
	if err := os.WriteFile(filepath.Join(out, p.name+".md"), []byte(res.Page(machine)), 0o644); err != nil {
		return nil, err
	}
	if plotted, ok := res.(interface{ Plot(file string) error }); ok {
		if err := plotted.Plot(filepath.Join(out, p.name+".svg")); err != nil {
			return nil, err
		}
	}
	if err := report.Insert(readme, p.name, res.Summary(machine)); err != nil {
		return nil, err
	}
	fmt.Println(res.Summary(machine))
	return res.Goals(), nil
}

func names(parts []part) string {
	var all []string
	for _, p := range parts {
		all = append(all, p.name)
	}
	return strings.Join(all, ", ")
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
