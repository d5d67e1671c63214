// Package thread runs code on threads that are thrown away, for what a thread
// cannot undo: joining namespaces and cgroups.
package thread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run runs f on a thread that dies afterwards and returns f's error. It is never
// the main thread: that cannot die before the process, and what it has joined
// counts as the process's own. Nothing that f forks may have a parent death signal.
func Run(f func() error) error {
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			err := Run(f) // on another thread, because this one is held
			runtime.UnlockOSThread()
			errs <- err
			return
		}
		errs <- f() // never unlocked: the thread ends with the goroutine
	}()
	return <-errs
}
