package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// runEnv names the run of the tests to all processes that they start.
const runEnv = "RKTSHIM_E2E_RUN"

// made are the folders that this run of the tests made and must remove.
var made struct {
	sync.Mutex
	dirs []string
}

// noteMade has the check at the end look for a folder.
func noteMade(dir string) {
	made.Lock()
	defer made.Unlock()
	made.dirs = append(made.dirs, dir)
}

// leftOnMachine lists what a run of the tests, once over, has left on the machine:
// processes, mounts, cgroups and folders. What ends by itself is waited for.
func leftOnMachine() (left []string) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		left = append(leftProcesses(), leftFiles()...)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// leftProcesses are those that have the run's name or live in one of its cgroups. A
// zombie waits for its parent and is none.
func leftProcesses() (left []string) {
	self := strconv.Itoa(os.Getpid())
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		environ, _ := os.ReadFile(dir + "/environ") // nothing, if it has ended
		groups, _ := os.ReadFile(dir + "/cgroup")
		named := strings.Contains("\x00"+string(environ), "\x00"+runEnv+"="+self+"\x00")
		if (named || strings.Contains(string(groups), "/"+cgroupPrefix+self+"-")) && alive(pid) {
			argv, _ := os.ReadFile(dir + "/cmdline")
			left = append(left, fmt.Sprintf("process %d: %s", pid, strings.ReplaceAll(string(argv), "\x00", " ")))
		}
	}
	return left
}

// leftFiles are folders, mounts and cgroups.
func leftFiles() (left []string) {
	made.Lock()
	defer made.Unlock()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return []string{err.Error()}
	}
	for _, dir := range made.dirs {
		if _, err := os.Lstat(dir); err == nil {
			left = append(left, "folder "+dir)
		}
		if strings.Contains(string(mounts), " "+dir) {
			left = append(left, "mount at or below "+dir)
		}
	}
	for _, h := range hierarchies() {
		groups, _ := filepath.Glob(filepath.Join(h, cgroupPrefix+strconv.Itoa(os.Getpid())+"-*"))
		for _, group := range groups {
			left = append(left, "cgroup "+group)
		}
	}
	return left
}
