// Package local runs a node on this machine for trying things out: hyperkube
// local-up and local-down.
//
// Local-up starts the kubelet as its child, watches it, and stays as long as it
// lives. All data is in one folder; the lock of a file there says whether the
// node runs, and the kernel drops it whatever end local-up has.
package local

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// DefaultDir holds the node that `make up` starts.
const DefaultDir = "/var/lib/rktshim-local"

// node is a node's folder and the files in it.
type node struct{ dir string }

// marker is the file that makes a folder a node's: only a folder that has it is
// ever removed.
func (n node) marker() string     { return filepath.Join(n.dir, ".rktshim-local-node") }
func (n node) kubeletPid() string { return filepath.Join(n.dir, "kubelet.pid") }
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

// cgroup names the cgroup below which the node's kubelet makes its own, so that
// local-down can tell them from those of other kubelets and other nodes.
func (n node) cgroup() string {
	if n.dir == DefaultDir {
		return "rktshim-local"
	}
	sum := sha256.Sum256([]byte(n.dir))
	return "rktshim-local-" + hex.EncodeToString(sum[:6])
}

// claim makes the folder the node's. It refuses one that holds something else,
// because local-down is going to remove it.
func (n node) claim() error {
	entries, err := os.ReadDir(n.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) > 0 {
		if err := n.check(); err != nil {
			return fmt.Errorf("%w: choose an empty folder, or one that does not exist", err)
		}
		return nil
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(n.marker(), []byte("This folder belongs to hyperkube local-up; local-down removes it.\n"), 0o600)
}

// check says whether the folder is a node's.
func (n node) check() error {
	if _, err := os.Lstat(n.marker()); err != nil {
		return fmt.Errorf("%s is not the folder of a node: it has no %s", n.dir, filepath.Base(n.marker()))
	}
	return nil
}

// dirFlag adds --dir, and says what is wrong with its value. The path is resolved:
// what is removed must be what was made.
func dirFlag(cmd *cobra.Command) func() (node, error) {
	dir := cmd.Flags().String("dir", DefaultDir, "folder of the node's data and logs")
	return func() (node, error) {
		if !filepath.IsAbs(*dir) || filepath.Clean(*dir) == "/" {
			return node{}, fmt.Errorf("--dir=%s: must be an absolute path other than /", *dir)
		}
		if strings.ContainsAny(*dir, ":,") {
			return node{}, fmt.Errorf("--dir=%s: must not contain a colon or a comma: overlayfs takes them for separators", *dir)
		}
		if os.Geteuid() != 0 {
			return node{}, errors.New("a node needs root: run this as root")
		}
		real, err := resolve(filepath.Clean(*dir))
		if err != nil {
			return node{}, fmt.Errorf("--dir=%s: %w", *dir, err)
		}
		return node{real}, nil
	}
}

// resolve follows the symbolic links in as much of the path as exists.
func resolve(path string) (string, error) {
	real, err := filepath.EvalSymlinks(path)
	if !errors.Is(err, fs.ErrNotExist) || path == "/" {
		return real, err
	}
	if _, err := os.Lstat(path); err == nil {
		return "", fmt.Errorf("%s is a symbolic link to nothing", path)
	}
	parent, err := resolve(filepath.Dir(path))
	return filepath.Join(parent, filepath.Base(path)), err
}
