// Package local runs a node on this machine for trying things out: hyperkube
// local-up and local-down.
//
// Local-up starts the kubelet as its child, watches it, and stays as long as it
// lives. All data is in one folder; the lock of a file there says whether the
// node runs, and the kernel drops it whatever end local-up has.
package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// DefaultDir holds the node that `make up` starts.
const DefaultDir = "/var/lib/rktshim-local"

// cgroupName is the cgroup below which the node's kubelet makes its own, so that
// local-down can tell them from those of another kubelet.
const cgroupName = "rktshim-local"

// node is a node's folder and the files in it.
type node struct{ dir string }

func (n node) lockFile() string   { return filepath.Join(n.dir, "lock") }
func (n node) kubeletLog() string { return filepath.Join(n.dir, "log", "kubelet.log") }
func (n node) upLog() string      { return filepath.Join(n.dir, "log", "local-up.log") }
func (n node) config() string     { return filepath.Join(n.dir, "kubelet.yaml") }
func (n node) rktDir() string     { return filepath.Join(n.dir, "rkt") }
func (n node) criSocket() string  { return filepath.Join(n.dir, "cri.sock") }

// errRunning is returned by lock while the node runs.
var errRunning = errors.New("the node runs")

// lock makes this process the one that runs the node, or says errRunning. The
// file holds the pid of the one that does.
func (n node) lock() (*os.File, error) {
	f, err := os.OpenFile(n.lockFile(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errRunning
		}
		return nil, fmt.Errorf("lock %s: %w", n.lockFile(), err)
	}
	return f, nil
}

// pid reads whose lock it is.
func (n node) pid() (int, error) {
	b, err := os.ReadFile(n.lockFile())
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("%s holds no process id: %w", n.lockFile(), err)
	}
	return pid, nil
}

// dirFlag adds --dir, and says what is wrong with its value.
func dirFlag(cmd *cobra.Command) func() (node, error) {
	dir := cmd.Flags().String("dir", DefaultDir, "folder of the node's data and logs")
	return func() (node, error) {
		if !filepath.IsAbs(*dir) || filepath.Clean(*dir) == "/" {
			return node{}, fmt.Errorf("--dir=%s: must be an absolute path other than /", *dir)
		}
		if os.Geteuid() != 0 {
			return node{}, errors.New("a node needs root: run this as root")
		}
		return node{filepath.Clean(*dir)}, nil
	}
}
