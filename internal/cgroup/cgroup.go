// Package cgroup makes, fills, kills and removes the cgroups of a pod, on cgroup
// v1, hybrid and v2 hosts, by plain file access: it is linked into the resident
// supervisor. Limits are the OCI runtime's and the kubelet's business.
//
// A group is named by its path from the root of every hierarchy, as in
// /kubepods/pod1/k8s_1: on v1 it is one folder in each hierarchy, on v2 a single
// one. "The host" below is how /sys/fs/cgroup looks to the calling process.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// root is where the hierarchies are mounted, by convention of every init system.
const root = "/sys/fs/cgroup"

// Unified says whether the host has cgroup v2 only. The first answer is kept.
var Unified = sync.OnceValue(func() bool {
	var st unix.Statfs_t
	return unix.Statfs(root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
})

// hierarchies returns the folders at which hierarchies are mounted, as they were at
// the first call.
var hierarchies = sync.OnceValues(func() ([]string, error) {
	if Unified() {
		return []string{root}, nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("list cgroup hierarchies: %w", err)
	}
	var dirs []string
	for _, e := range entries {
		dir := filepath.Join(root, e.Name())
		if e.IsDir() && isCgroup(dir) { // links like cpu > cpu,cpuacct are no folders
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
})

// isCgroup says whether a folder is a cgroup. Where a hierarchy is not mounted any
// more, others may have left files that look like groups, with the numbers of
// processes that are long gone: nobody must be killed by these.
func isCgroup(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && (st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// Make makes the group in every hierarchy; one that is there already is taken as
// it is. Cpuset groups on v1 that have none get their parent's cpus and nodes, without
// which nothing could join them: also those that another is just making, or that a
// killed one has left so.
func Make(path string) error {
	hs, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range hs {
		if err := makeIn(h, path); err != nil {
			return fmt.Errorf("make cgroup %s: %w", path, err)
		}
	}
	return nil
}

func makeIn(hierarchy, path string) error {
	dir := filepath.Join(hierarchy, path)
	if dir == hierarchy || exists(dir) && hasCPUs(dir) {
		return nil
	}
	if err := makeIn(hierarchy, filepath.Dir(filepath.Clean("/"+path))); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return inheritCPUs(dir)
}

var cpusetFiles = []string{"cpuset.cpus", "cpuset.mems"}

// hasCPUs says whether processes can join a group, as far as cpusets go. A group that
// has cpus has parents that do.
func hasCPUs(dir string) bool {
	if Unified() {
		return true
	}
	for _, name := range cpusetFiles {
		if own, err := os.ReadFile(filepath.Join(dir, name)); err == nil && strings.TrimSpace(string(own)) == "" {
			return false
		}
	}
	return true
}

// inheritCPUs does nothing outside a v1 cpuset hierarchy.
func inheritCPUs(dir string) error {
	for _, name := range cpusetFiles {
		own, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || Unified() || strings.TrimSpace(string(own)) != "" {
			continue
		}
		above, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), above, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Dirs returns the group's folders that exist.
func Dirs(path string) []string {
	hs, err := hierarchies()
	if err != nil {
		return nil
	}
	var dirs []string
	for _, h := range hs {
		if dir := filepath.Join(h, path); exists(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// Join moves a process, with all its threads, into the group in every hierarchy
// in which the group exists.
func Join(path string, pid int) error {
	for _, dir := range Dirs(path) {
		err := writeFile(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid))
		if err != nil {
			return fmt.Errorf("move process %d into cgroup %s: %w", pid, path, err)
		}
	}
	return nil
}

func writeFile(path, text string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// Procs returns the processes in the group and below it, in all hierarchies, each
// once, as pids of the caller's PID namespace, without the caller itself, of which a
// thread may be there to fork (OnThreadIn). A group that does not exist is empty.
func Procs(path string) []int {
	seen := map[int]bool{os.Getpid(): true}
	var pids []int
	for _, dir := range Dirs(path) {
		walk(dir, func(d string) {
			if !isCgroup(d) {
				return
			}
			for _, pid := range readPIDs(filepath.Join(d, "cgroup.procs")) {
				if !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
		})
	}
	return pids
}

// walk calls f with every group folder below dir, children first. The folders may
// change meanwhile.
func walk(dir string, f func(dir string)) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			walk(filepath.Join(dir, e.Name()), f)
		}
	}
	f(dir)
}

func readPIDs(path string) (pids []int) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	for _, s := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(s); err == nil && pid > 0 { // 0: outside our PID namespace
			pids = append(pids, pid)
		}
	}
	return pids
}

// Remove removes the group and all groups below it, which must be empty. One that
// does not exist is no error. A group whose last process is just exiting is busy
// for a moment: Remove tries again until ctx is done.
func Remove(ctx context.Context, path string) error {
	if filepath.Clean("/"+path) == "/" {
		return fmt.Errorf("remove cgroup %q: refusing the root", path)
	}
	pause := time.Millisecond
	for {
		var last error
		for _, dir := range Dirs(path) {
			walk(dir, func(d string) {
				if err := unix.Rmdir(d); err != nil && !errors.Is(err, unix.ENOENT) {
					last = fmt.Errorf("remove cgroup %s: %w", d, err)
				}
			})
		}
		if last == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return last
		case <-time.After(pause):
			pause = min(2*pause, 50*time.Millisecond)
		}
	}
}

// OOMKills returns how many processes of the group itself the kernel has killed
// for want of memory. A group that does not exist has none.
func OOMKills(path string) int64 {
	file, field := filepath.Join(root, "memory", path, "memory.oom_control"), "oom_kill"
	if Unified() {
		file = filepath.Join(root, path, "memory.events")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == field {
			n, _ := strconv.ParseInt(f[1], 10, 64)
			return n
		}
	}
	return 0
}

// Of returns the calling process's group in the hierarchy that names units: v2,
// or name=systemd, or the first there is.
func Of(pid int) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", err
	}
	var path string
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		switch {
		case f[1] == "name=systemd", f[0] == "0" && Unified():
			return f[2], nil
		case path == "":
			path = f[2]
		}
	}
	return path, nil
}

// Controller returns the name of the v1 hierarchy that dir, one of Dirs(path),
// lies in: that of its mount, as "freezer" or "cpu,cpuacct"; empty on v2.
func Controller(dir, path string) string {
	h := strings.TrimSuffix(dir, strings.TrimSuffix(filepath.Clean("/"+path), "/"))
	if h == root {
		return ""
	}
	return filepath.Base(h)
}

// Find returns the paths of all groups of that name, wherever they are.
func Find(name string) (paths []string) {
	hs, err := hierarchies()
	if err != nil {
		return nil
	}
	seen := map[string]bool{}
	for _, h := range hs {
		walk(h, func(dir string) {
			path := strings.TrimPrefix(dir, h)
			if filepath.Base(dir) == name && !seen[path] {
				seen[path] = true
				paths = append(paths, path)
			}
		})
	}
	return paths
}

// Children returns the names of the groups right below, in any hierarchy.
func Children(path string) (names []string) {
	seen := map[string]bool{}
	for _, dir := range Dirs(path) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.IsDir() && !seen[e.Name()] {
				seen[e.Name()] = true
				names = append(names, e.Name())
			}
		}
	}
	return names
}

// Contains says whether the calling process is in the group, in every hierarchy in
// which the group exists.
func Contains(path string) bool {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return false
	}
	in := 0
	for line := range strings.Lines(string(text)) {
		if f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3); len(f) == 3 && f[2] == filepath.Clean("/"+path) {
			in++
		}
	}
	return in > 0 && in == len(Dirs(path))
}
