package local

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// hierarchies are the mount points of this machine's cgroups: one on v2, one for
// each controller on v1.
func hierarchies() ([]string, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupMount, &st); err != nil {
		return nil, &fs.PathError{Op: "statfs", Path: cgroupMount, Err: err}
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return []string{cgroupMount}, nil
	}
	entries, err := os.ReadDir(cgroupMount)
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, e := range entries { // symlinks name a hierarchy a second time
		dir := filepath.Join(cgroupMount, e.Name())
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil && e.IsDir() {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// makeCgroups makes a cgroup below the root of every hierarchy. It is idempotent.
func makeCgroups(name string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := os.MkdirAll(filepath.Join(h, name), 0o755); err != nil {
			return err
		}
		if filepath.Base(h) != "cpuset" {
			continue
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} { // empty in a new v1 cpuset: no process could enter
			v, err := os.ReadFile(filepath.Join(h, f))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(h, name, f), v, 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroups removes a cgroup, with all below it, from every hierarchy and
// gives the ones that were there.
func removeCgroups(name string) (removed []string, err error) {
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var errs []error
	for _, h := range all {
		var below []string
		top := filepath.Join(h, name)
		walk := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				below = append(below, path)
			}
			return err
		})
		if errors.Is(walk, fs.ErrNotExist) {
			continue
		}
		errs = append(errs, walk)
		for i := len(below) - 1; i >= 0; i-- {
			errs = append(errs, unix.Rmdir(below[i]))
		}
		removed = append(removed, top)
	}
	return removed, errors.Join(errs...)
}
