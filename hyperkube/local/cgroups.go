package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

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

// killPatience is how long the processes of a killed cgroup may take to end.
const killPatience = 10 * time.Second

// emptyCgroups kills every process in a cgroup and below, and waits until they
// have ended. Pods outlive their kubelet, so a node that goes down has to end
// them.
func emptyCgroups(ctx context.Context, name string) (killed int, err error) {
	all, err := hierarchies()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, killPatience, fmt.Errorf("processes in the cgroup %s do not end", name))
	defer cancel()
	seen := map[int]bool{}
	for {
		pids, err := processesIn(all, name)
		if err != nil || len(pids) == 0 {
			return len(seen), err
		}
		for _, pid := range pids {
			seen[pid] = true
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return len(seen), fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return len(seen), context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// processesIn lists the processes of a cgroup and of all below it.
func processesIn(hierarchies []string, name string) (pids []int, err error) {
	for _, h := range hierarchies {
		err := filepath.WalkDir(filepath.Join(h, name), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || err == nil && !d.IsDir() {
				return nil
			}
			if err != nil {
				return err
			}
			b, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil // it has just gone
			}
			for _, field := range strings.Fields(string(b)) {
				if pid, perr := strconv.Atoi(field); perr == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return pids, nil
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
