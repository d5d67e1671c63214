package network

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const inside = "RKT_NETWORK_TEST_INSIDE"

// TestMain runs the tests in network, mount and PID namespaces of their own: the
// host's bridges, rules and leases stay as they are, and the end of the tests,
// also by kill -9, is the end of all that they have made.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		if os.Getenv(helperName) != "" {
			os.Exit(beHelper())
		}
		if err := furnish(); err != nil {
			fmt.Fprintln(os.Stderr, "furnish test namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "network: tests need root, to make network namespaces")
		os.Exit(1)
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(1, exit.ExitCode()))
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// furnish gives the test process its own /proc and /run (the lock of iptables, and
// temporary files), and a loopback interface.
func furnish() error {
	mounts := []error{
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("proc", "/proc", "proc", 0, ""),
		unix.Mount("tmpfs", "/run", "tmpfs", 0, ""),
		os.Setenv("TMPDIR", "/run"),
		os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0),
		loopbackUp(),
	}
	return errors.Join(mounts...)
}
