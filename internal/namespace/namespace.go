// Package namespace makes Linux namespaces and works inside them, by threads that
// are thrown away afterwards, so that the calling process stays where it is.
package namespace

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/thread"
)

// New makes one namespace of each kind, named as below /proc/<pid>/ns, runs setup
// inside all of them, and returns them open, in the order of kinds. The caller
// closes them; a namespace lives as long as it is open or something is in it. PID
// and mount namespaces cannot be made so.
func New(kinds []string, setup func() error) ([]*os.File, error) {
	flags := 0
	for _, k := range kinds {
		flag, ok := unshareFlags[k]
		if !ok {
			return nil, fmt.Errorf("make namespace: kind %q", k)
		}
		flags |= flag
	}
	var files []*os.File
	err := thread.Run(func() error {
		if flags != 0 {
			if err := unix.Unshare(flags); err != nil {
				return fmt.Errorf("make namespaces %v: %w", kinds, err)
			}
		}
		for _, k := range kinds {
			f, err := os.Open("/proc/thread-self/ns/" + k)
			if err != nil {
				return err
			}
			files = append(files, f)
		}
		return setup()
	})
	if err != nil {
		Close(files...)
		return nil, err
	}
	return files, nil
}

var unshareFlags = map[string]int{"net": unix.CLONE_NEWNET, "ipc": unix.CLONE_NEWIPC, "uts": unix.CLONE_NEWUTS}

// In runs f on a thread that has joined the given namespaces; nil ones are left
// out. Mount and user namespaces cannot be joined so.
func In(files []*os.File, f func() error) error {
	return thread.Run(func() error {
		for _, file := range files {
			if file == nil {
				continue
			}
			if err := unix.Setns(int(file.Fd()), 0); err != nil {
				return fmt.Errorf("join namespace %s: %w", file.Name(), err)
			}
		}
		return f()
	})
}

// Open opens the namespace file at path and checks that it is one of the wanted
// type, a CLONE_NEW… flag.
func Open(path string, flag int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	got, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && got != flag {
		err = errors.New("it is of another kind")
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open namespace %s: %w", path, err)
	}
	return f, nil
}

// Close closes namespaces; nil ones are left out.
func Close(files ...*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}
