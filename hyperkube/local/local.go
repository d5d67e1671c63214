// Package local runs a one-node cluster on this machine: hyperkube local-up,
// local-down and preflight.
//
// Local-up starts etcd, the control plane, kube-proxy and a kubelet as its children,
// watches them, and stays as long as all live: it restarts none, because a component
// that dies is what whoever tries things out wants to see. Pods outlive it; the next
// local-up on the same folder continues with them. All data is in one folder; the
// lock of a file there says whether the cluster runs, and the kernel drops it
// whatever end local-up has.
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

// DefaultDir holds the cluster that `make up` starts.
const DefaultDir = "/var/lib/rktshim-local"

// DefaultKubeconfig is its administrator's.
const DefaultKubeconfig = DefaultDir + "/admin.kubeconfig"

// node is a cluster's folder, on its one node, and the files in it.
type node struct{ dir string }

// marker is the file that makes a folder a cluster's: only a folder that has it is
// ever removed.
func (n node) marker() string         { return filepath.Join(n.dir, ".rktshim-local-node") }
func (n node) pidDir() string         { return filepath.Join(n.dir, "pids") }
func (n node) lockFile() string       { return filepath.Join(n.dir, "lock") }
func (n node) log(name string) string { return filepath.Join(n.dir, "log", name+".log") }
func (n node) upLog() string          { return n.log("local-up") }
func (n node) config() string         { return filepath.Join(n.dir, "kubelet.yaml") }
func (n node) kubeletRoot() string    { return filepath.Join(n.dir, "kubelet") }
func (n node) volumePlugins() string  { return filepath.Join(n.dir, "volume-plugins") }
func (n node) rktDir() string         { return filepath.Join(n.dir, "rkt") }
func (n node) criSocket() string      { return filepath.Join(n.dir, "cri.sock") }

// errRunning is returned by lock while the cluster runs.
var errRunning = errors.New("the cluster runs")

// lock makes this process the one that runs the cluster, or says errRunning. The
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

// cgroup names the cgroup below which the cluster's kubelet makes its own, so that
// local-down can tell them from those of other kubelets and other clusters.
func (n node) cgroup() string {
	if n.dir == DefaultDir {
		return "rktshim-local"
	}
	sum := sha256.Sum256([]byte(n.dir))
	return "rktshim-local-" + hex.EncodeToString(sum[:6])
}

// claim makes the folder a cluster's. It refuses one that holds something else,
// because local-down is going to remove it. Folders without files are nothing:
// containerd makes those that its configuration names.
func (n node) claim() error {
	files, err := hasFiles(n.dir)
	if err != nil {
		return err
	}
	if files {
		if err := n.isCluster(); err != nil {
			return fmt.Errorf("%w: choose an empty folder, or one that does not exist", err)
		}
		return nil
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(n.marker(), []byte("This folder belongs to hyperkube local-up; local-down removes it.\n"), 0o600)
}

// hasFiles says whether there is anything but folders in dir, which need not exist.
func hasFiles(dir string) (bool, error) {
	var found bool
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			found, err = true, fs.SkipAll
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return found, err
}

// isCluster says whether the folder is a cluster's.
func (n node) isCluster() error {
	if _, err := os.Lstat(n.marker()); err != nil {
		return fmt.Errorf("%s is not the folder of a cluster: it has no %s", n.dir, filepath.Base(n.marker()))
	}
	return nil
}

// dirFlag adds --dir, and says what is wrong with its value. The path is resolved:
// what is removed must be what was made.
func dirFlag(cmd *cobra.Command) func() (node, error) {
	dir := cmd.Flags().String("dir", DefaultDir, "folder of the cluster's data and logs")
	return func() (node, error) {
		if !filepath.IsAbs(*dir) || filepath.Clean(*dir) == "/" {
			return node{}, fmt.Errorf("--dir=%s: must be an absolute path other than /", *dir)
		}
		if strings.ContainsAny(*dir, ":,") {
			return node{}, fmt.Errorf("--dir=%s: must not contain a colon or a comma: overlayfs takes them for separators", *dir)
		}
		if os.Geteuid() != 0 {
			return node{}, errors.New("a cluster needs root: run this as root")
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
