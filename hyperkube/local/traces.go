package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/rundir"
)

// kubeletDir is a folder that every kubelet makes for its device plugins,
// whatever its --root-dir.
const kubeletDir = "/var/lib/kubelet"

// madeKubeletDir is there if the machine had no kubeletDir before the node.
func (n node) madeKubeletDir() string { return filepath.Join(n.dir, "made-var-lib-kubelet") }

// noteKubeletDir remembers whether kubeletDir is going to be the node's doing.
func (n node) noteKubeletDir() error {
	_, err := os.Stat(kubeletDir)
	if errors.Is(err, fs.ErrNotExist) {
		return os.WriteFile(n.madeKubeletDir(), nil, 0o600)
	}
	return err
}

// removeTraces removes all that the node has left on the machine, its folder
// last, and gives a line for each thing.
func (n node) removeTraces() (removed []string, err error) {
	cgroups, err := removeCgroups(n.cgroup())
	if err != nil {
		return nil, fmt.Errorf("remove the cgroup %s: %w", n.cgroup(), err)
	}
	if len(cgroups) > 0 {
		removed = append(removed, fmt.Sprintf("the cgroup %s in %d hierarchies", n.cgroup(), len(cgroups)))
	}
	run, err := rundir.Of(n.rktDir())
	if err != nil {
		return removed, err
	}
	for _, dir := range []string{run, n.dir} {
		mounts, err := unmountBelow(dir)
		removed = append(removed, mounts...)
		if err != nil {
			return removed, err
		}
	}
	if _, err := os.Stat(run); err == nil {
		if err := os.RemoveAll(run); err != nil {
			return removed, err
		}
		removed = append(removed, run)
	}
	if _, err := os.Stat(n.madeKubeletDir()); err == nil && onlyDevicePlugins() {
		if err := os.RemoveAll(kubeletDir); err != nil {
			return removed, err
		}
		removed = append(removed, kubeletDir)
	}
	return n.removeFolder(removed)
}

// onlyDevicePlugins says whether kubeletDir holds no more than any kubelet puts
// there: not a node that was installed since.
func onlyDevicePlugins() bool {
	entries, err := os.ReadDir(kubeletDir)
	return err == nil && (len(entries) == 0 || len(entries) == 1 && entries[0].Name() == "device-plugins")
}

// removeFolder removes the node's folder, the marker last, so that a removal that
// failed can be repeated.
func (n node) removeFolder(removed []string) ([]string, error) {
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return removed, err
	}
	for _, e := range entries {
		if path := filepath.Join(n.dir, e.Name()); path != n.marker() {
			if err := os.RemoveAll(path); err != nil {
				return removed, err
			}
		}
	}
	if err := os.Remove(n.marker()); err != nil {
		return removed, err
	}
	if err := os.Remove(n.dir); errors.Is(err, unix.EBUSY) {
		return append(removed, "all in "+n.dir+", which is a mount point and stays"), nil
	} else if err != nil {
		return removed, err
	}
	return append(removed, n.dir), nil
}

// unmountBelow unmounts what is mounted below dir, the last mount first.
func unmountBelow(dir string) (unmounted []string, err error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(m.Mountpoint, dir+"/"), false
	})
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	for i := len(mounts) - 1; i >= 0; i-- {
		at := mounts[i].Mountpoint
		if err := unix.Unmount(at, unix.UMOUNT_NOFOLLOW); err != nil {
			return unmounted, fmt.Errorf("unmount %s: %w", at, err)
		}
		unmounted = append(unmounted, "the mount "+at)
	}
	return unmounted, nil
}
