// Bench measures rktshim and writes what it found, with the machine and the date,
// into README.md and docs/bench/. `make bench` runs it.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rktnetes/rktshim/tools/bench/report"
	"github.com/rktnetes/rktshim/tools/bench/transport"
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == transport.ServeArg {
		exitOn(transport.Serve(os.Args[2]))
		return
	}
	readme := flag.String("readme", "", "file that shows the results, between markers <!-- bench:NAME -->")
	out := flag.String("out", "", "folder for the full tables and the plots")
	rounds := flag.Int("rounds", 30, "how often each measurement is repeated, in turn with the others")
	trials := flag.Bool("trials", false, "compare gRPC settings instead, and print the result")
	flag.Parse()
	if *trials {
		exitOn(transport.Trials(os.Stdout, *rounds))
		return
	}
	if *readme == "" || *out == "" {
		exitOn(fmt.Errorf("give -readme and -out; -h explains them"))
	}
	start := time.Now()
	res, err := transport.Measure(*rounds, func(what string) { fmt.Fprintf(os.Stderr, "%6.1f s  %s\n", time.Since(start).Seconds(), what) })
	exitOn(err)
	exitOn(os.MkdirAll(*out, 0o755))
	head := report.Machine(time.Now())
	exitOn(os.WriteFile(filepath.Join(*out, "transport.md"), []byte(res.Page(head)), 0o644))
	exitOn(res.Plot(filepath.Join(*out, "transport.svg")))
	exitOn(report.Insert(*readme, "transport", res.Summary(head)))
	fmt.Println(res.Summary(head))
	exitOn(res.Goals())
}

func exitOn(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}
