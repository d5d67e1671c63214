package cri

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	arenaArg     = "cri-arena"
	conductorArg = "cri-conductor"
)

// covered are folders of the machine over which the arena has memory of its own.
var covered = []string{"/run", "/var/lib/cni", "/etc/containers"}

// arena is the main of the first process in the namespaces: it furnishes them,
// starts the conductor, and reaps whatever loses its parent.
func arena(told string) error {
	if err := furnish(); err != nil {
		return fmt.Errorf("furnish the arena: %w", err)
	}
	cmd := exec.Command("/proc/self/exe", conductorArg, told)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case pid == cmd.Process.Pid && status.ExitStatus() == 0:
			return nil
		case pid == cmd.Process.Pid:
			return fmt.Errorf("the conductor ended: exit %d, signal %v", status.ExitStatus(), status.Signal())
		}
	}
}

func furnish() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return err
	}
	for _, dir := range covered {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount a tmpfs over %s: %w", dir, err)
		}
	}
	if err := os.WriteFile("/etc/containers/registries.conf", []byte("[[registry]]\nlocation = \""+registryAddr+"\"\ninsecure = true\n"), 0o644); err != nil {
		return err
	}
	// crun refuses hosts that have controllers both in v1 and in the unified
	// hierarchy. Nobody in the arena sees the latter; what crun makes in its place goes
	// with the arena.
	const unified = "/sys/fs/cgroup/unified"
	if b, err := os.ReadFile(unified + "/cgroup.controllers"); err != nil || len(bytes.TrimSpace(b)) > 0 {
		if err := unix.Mount("tmpfs", unified, "tmpfs", 0, "mode=0755"); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("cover %s: %w", unified, err)
		}
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	return nil
}
