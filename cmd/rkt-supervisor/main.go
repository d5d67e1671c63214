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

	"github.com/rktnetes/rktshim/stage1/flavors"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/server"
)

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
	// One thread of work at a time is plenty, and each costs memory. Setting it also
	// keeps the runtime from looking at the CPU limit every second. Launchers set it
	// by the environment, which costs 100 KB less than the call.
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	debug.SetGCPercent(25) // collect from 1 MB on instead of 4
	unix.Umask(0o022)
	self, err := os.Executable()
	if err != nil {
		return err
	}
	listener, err := passedListener()
	if err != nil {
		return err
	}
	s, err := server.New(server.Config{
		PodDir:   podDir,
		RunDir:   runDir,
		Flavors:  flavors.All(),
		Init:     []string{self, "init"},
		Listener: listener,
		Log:      os.Stderr,
	})
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	return s.Run(ctx)
}

// passedListener returns stdin if it is a listening socket, and puts /dev/null in
// its place, so that no other file becomes descriptor 0.
func passedListener() (*os.File, error) {
	listening, err := unix.GetsockoptInt(0, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || listening == 0 {
		return nil, nil
	}
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("take over the socket: %w", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), 0, 0); err != nil {
		return nil, fmt.Errorf("take over the socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "supervisor socket"), nil
}

// beInit is pid 1 of a pod: it keeps the PID namespace alive until its stdin ends,
// which is when the supervisor lets go of it or dies; then the kernel ends all that
// is in the namespace. Orphans need no reaping where SIGCHLD is ignored. Signals
// from inside the pod do not reach a pid 1 that ignores them.
func beInit() {
	debug.SetGCPercent(-1)
	signal.Ignore()
	_, _ = unix.Write(1, []byte("1")) // tells whoever waits that the namespaces stand
	_ = unix.Close(1)
	var b [1]byte
	for {
		if n, err := unix.Read(0, b[:]); n == 0 || err != nil && err != unix.EINTR {
			return
		}
	}
}
