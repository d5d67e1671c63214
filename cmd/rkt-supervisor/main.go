// Command rkt-supervisor is the one process of ours that every pod keeps: its
// supervisor, and in its second form the init of a shared PID namespace.
//
//	rkt-supervisor POD-FOLDER RUN-FOLDER    supervise; stdin may be the listening socket
//	rkt-supervisor init                     be pid 1 of a pod
//	rkt-supervisor version
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/stage1/fly"
	"github.com/rktnetes/rktshim/stage1/lean"
	"github.com/rktnetes/rktshim/stage1/nspawn"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/server"
)

// The main goroutine keeps the main thread, which lives as long as the process:
// what the isolator starts on it gets its parent death signal when the supervisor
// dies, and not when some thread does.
func init() { runtime.LockOSThread() }

func main() {
	switch {
	case len(os.Args) == 2 && os.Args[1] == "init":
		beInit()
	case len(os.Args) == 2 && os.Args[1] == "version":
		fmt.Printf("protocol %d to %d\n", supervisor.VersionMin, supervisor.VersionMax)
	case len(os.Args) == 3:
		if err := supervise(os.Args[1], os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "rkt-supervisor:", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "usage: rkt-supervisor POD-FOLDER RUN-FOLDER | init | version")
		os.Exit(64)
	}
}

func supervise(podDir, runDir string) error {
	// A small heap: collect at 1 MB instead of 4. Setting the number of threads of
	// work also keeps the runtime from looking at the CPU limit every second.
	debug.SetGCPercent(25)
	runtime.GOMAXPROCS(2)
	unix.Umask(0o022)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s, err := server.New(server.Config{
		PodDir: podDir,
		RunDir: runDir,
		Flavors: map[string]stage1.Isolator{
			"nspawn": nspawn.Isolator{},
			"lean":   lean.Isolator{},
			"fly":    fly.Isolator{},
		},
		Init:     []string{self, "init"},
		Listener: passedListener(),
		Log:      os.Stderr,
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	return s.Run(ctx)
}

// passedListener returns stdin if it is a listening socket.
func passedListener() *os.File {
	listening, err := unix.GetsockoptInt(0, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || listening == 0 {
		return nil
	}
	return os.Stdin
}

// beInit reaps orphans for ever, as pid 1 of a pod. The kernel keeps every signal
// from it that has no handler, except SIGKILL from outside, which ends the pod.
func beInit() {
	debug.SetGCPercent(-1)
	signal.Ignore()
	// Whoever started us holds the pod; without it the pod is over.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, "rkt-supervisor init:", err)
		os.Exit(1)
	}
	_, _ = unix.Write(1, []byte("1")) // tells whoever waits that the namespaces stand
	_ = unix.Close(1)
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	for {
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 && err != unix.EINTR {
				break
			}
		}
		<-chld
	}
}
