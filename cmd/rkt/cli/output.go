package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// output is a file that gets its name when it is complete. Until then it has
// none, so that nothing is left of it if the process is killed; but on a
// filesystem without such files (NFS) it has a temporary one.
type output struct {
	*os.File
	path string
	temp string // its temporary name, empty if it has none
}

// newOutput opens a file for path, on the same filesystem.
func newOutput(path string) (*output, error) {
	dir := filepath.Dir(path)
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
	switch {
	case err == nil:
		return &output{File: os.NewFile(uintptr(fd), path), path: path}, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR), errors.Is(err, unix.EINVAL):
		return namedOutput(path)
	}
	return nil, &os.PathError{Op: "create a file in", Path: dir, Err: err}
}

func namedOutput(path string) (*output, error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".rkt-export-")
	if err != nil {
		return nil, err
	}
	if err := file.Chmod(0o644); err != nil {
		return nil, errors.Join(err, os.Remove(file.Name()), file.Close())
	}
	return &output{File: file, path: path, temp: file.Name()}, nil
}

// commit gives the file its name, once what it holds is on the disk. A file that
// has the name by then is replaced or, without overwrite, an error.
func (o *output) commit(overwrite bool) error {
	if err := o.Sync(); err != nil {
		return err
	}
	if o.temp == "" {
		err := o.link(o.path)
		if !overwrite || !errors.Is(err, os.ErrExist) {
			return err
		}
		// Only rename replaces, and it wants a name.
		temp := filepath.Join(filepath.Dir(o.path), fmt.Sprintf(".rkt-export-%d", os.Getpid()))
		if err := o.link(temp); err != nil {
			return err
		}
		o.temp = temp
	}
	if err := o.rename(overwrite); err != nil {
		return err
	}
	o.temp = ""
	return nil
}

func (o *output) rename(overwrite bool) error {
	if !overwrite {
		err := unix.Renameat2(unix.AT_FDCWD, o.temp, unix.AT_FDCWD, o.path, unix.RENAME_NOREPLACE)
		if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
			return os.NewSyscallError("rename "+o.temp+" to "+o.path, err)
		}
		if _, err := os.Lstat(o.path); err == nil { // the filesystem cannot do both at once
			return &os.PathError{Op: "create", Path: o.path, Err: os.ErrExist}
		}
	}
	return os.Rename(o.temp, o.path)
}

// link gives the file a further name. It fails with os.ErrExist if that is taken.
func (o *output) link(name string) error {
	err := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", o.Fd()), unix.AT_FDCWD, name, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.PathError{Op: "create", Path: name, Err: err}
	}
	return nil
}

// Close closes the file and removes its temporary name.
func (o *output) Close() error {
	err := o.File.Close()
	if o.temp != "" {
		err = errors.Join(err, os.Remove(o.temp))
	}
	return err
}
