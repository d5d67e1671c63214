// Package preflight looks whether a machine can run a cluster of local-up: the
// command hyperkube preflight, and what local-up does first. It changes nothing:
// what can only be tried is tried in a network namespace that is thrown away.
package preflight

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/rktnetes/rktshim/rktshim"
)

// Status is what a check found.
type Status int

// A Warning does not stop local-up; a Missing does.
const (
	OK Status = iota
	Warning
	Missing
)

func (s Status) String() string { return [...]string{"ok", "warning", "missing"}[s] }

// Result is a row of the table.
type Result struct {
	Name   string
	Status Status
	Found  string // what is there, or what is not
	Remedy string // what to do about it, unless it is OK
}

// Port is where a component of the cluster is going to listen.
type Port struct{ Host, Port, For string }

// Config says what the machine is going to run.
type Config struct {
	Dir      string // the cluster's folder
	NodeIP   string // empty: none was found
	Remote   bool   // another runtime's pods: its own programs are its business
	Endpoint string // where that runtime listens
	Stage1   string // as in RKT_STAGE1_IMAGE; empty: the default
	RktPath  string // as in RKT_PATH; empty: none
	Again    bool   // the folder has a cluster, whose traces are no conflict
	Ports    []Port
}

// stage1 is the isolation that pods get.
func (c *Config) stage1() string {
	if c.Stage1 == "" {
		return rktshim.DefaultConfig().Stage1
	}
	return c.Stage1
}

// check gives its row. Name is filled in for it.
type check struct {
	name string
	run  func(context.Context, *Config) Result
}

// table are all checks, in the order in which they are shown. Some only make sense
// for our own runtime.
func table(c *Config) []check {
	all := []check{
		{"user", root}, {"kernel namespaces", namespaces}, {"kernel overlayfs", overlay}, {"kernel seccomp", seccomp},
		{"kernel pidfd", pidfd}, {"kernel log", kmsg}, {"cgroups", cgroups}, {"iptables", iptablesWork}, {"links", vethWorks},
	}
	if c.Remote {
		all = append(all, check{"runtime", endpoint})
	} else {
		all = append(all, check{"CNI plugins", cniPlugins}, check{"OCI runtime", ociRuntime}, check{"stage1", stage1}, check{"rkt", rktPath})
	}
	return append(all, check{"sysctls", sysctlsWritable}, check{"disk", disk}, check{"memory", memory},
		check{"address", address}, check{"ports", portsFree}, check{"other kubelets", otherNodes})
}

func ok(found string, args ...any) Result { return Result{Found: fmt.Sprintf(found, args...)} }

func missing(remedy, found string, args ...any) Result {
	return Result{Status: Missing, Found: fmt.Sprintf(found, args...), Remedy: remedy}
}

func warning(remedy, found string, args ...any) Result {
	return Result{Status: Warning, Found: fmt.Sprintf(found, args...), Remedy: remedy}
}

// Run runs all checks.
func Run(ctx context.Context, c Config) []Result {
	var results []Result
	for _, check := range table(&c) {
		r := check.run(ctx, &c)
		r.Name = check.name
		results = append(results, r)
	}
	return results
}

// Print writes the table, and below each row that is not ok its remedy.
func Print(w io.Writer, results []Result) {
	for _, r := range results {
		fmt.Fprintf(w, "%-8s %-18s %s\n", r.Status, r.Name, r.Found)
		if r.Status != OK {
			fmt.Fprintf(w, "%-8s %-18s remedy: %s\n", "", "", strings.ReplaceAll(r.Remedy, "\n", "\n"+strings.Repeat(" ", 28)))
		}
	}
}
