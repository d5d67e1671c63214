package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/rundir"
)

// sharedDirs are folders that every kubelet makes, whatever its --root-dir: for its
// device plugins, and for links to the logs of containers. Inner ones come first.
var sharedDirs = []string{devicePlugins, kubeletDir, containerLinks}

const (
	kubeletDir     = "/var/lib/kubelet"
	devicePlugins  = kubeletDir + "/device-plugins"
	containerLinks = "/var/log/containers"
)

// madeFile is there if the machine did not have one of the sharedDirs before the
// cluster.
func (n node) madeFile(dir string) string {
	return filepath.Join(n.dir, "made"+strings.ReplaceAll(dir, "/", "-"))
}

// noteSharedDirs remembers which of the sharedDirs are going to be the cluster's
// doing.
func (n node) noteSharedDirs() error {
	for _, dir := range sharedDirs {
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			err = os.WriteFile(n.madeFile(dir), nil, 0o600)
			if err != nil {
				return err
			}
		} else if err != nil {
			return err
		}
	}
	return nil
}

// noter tells what was done to things.
type noter func(done string, things ...string)

// removeTraces removes all that the cluster has left on the machine, its folder
// last, and notes each thing.
func (n node) removeTraces(ctx context.Context, note noter) error {
	pods, err := n.endPods(ctx)
	note("removed", pods...)
	if err != nil {
		return err
	}
	run, err := rundir.Of(n.rktDir())
	if err != nil {
		return err
	}
	for _, dir := range []string{run, n.dir} {
		mounts, err := unmountBelow(dir)
		note("removed", mounts...)
		if err != nil {
			return err
		}
	}
	if _, err := os.Stat(run); err == nil {
		if err := os.RemoveAll(run); err != nil {
			return err
		}
		note("removed", run)
	}
	shared, err := n.removeSharedDirs()
	note("removed", shared...)
	if err != nil {
		return err
	}
	if err := n.removeNetwork(ctx, note); err != nil {
		return err
	}
	return n.removeFolder(note)
}

// removeNetwork removes the rules of this network namespace that are the cluster's,
// and sets sysctls back. Those of namespaces that are gone are gone.
func (n node) removeNetwork(ctx context.Context, note noter) error {
	if _, err := os.Stat(n.sysctlsFile()); errors.Is(err, fs.ErrNotExist) {
		return nil // it has never come so far
	}
	if _, err := n.otherNamespaces(); errors.Is(err, errGone) {
		return nil
	}
	chains, err := removeChains(ctx)
	note("removed", chains...)
	if err != nil {
		return err
	}
	restored, err := n.restoreSysctls()
	note("set back", restored...)
	return err
}

// removeSharedDirs removes what the kubelet has put into sharedDirs, and those that
// are there because of it.
func (n node) removeSharedDirs() (removed []string, err error) {
	links, err := filepath.Glob(containerLinks + "/*.log")
	if err != nil {
		return nil, err
	}
	for _, link := range links {
		if to, err := os.Readlink(link); err != nil || !strings.HasPrefix(to, n.dir+"/") {
			continue
		}
		if err := os.Remove(link); err != nil {
			return removed, err
		}
		removed = append(removed, link)
	}
	for _, dir := range sharedDirs {
		if _, err := os.Stat(n.madeFile(dir)); err != nil {
			continue
		}
		if dir == devicePlugins && !served(filepath.Join(dir, "kubelet.sock")) {
			if err := os.RemoveAll(dir); err != nil {
				return removed, err
			}
			removed = append(removed, dir)
		} else if os.Remove(dir) == nil { // another kubelet may use it by now
			removed = append(removed, dir)
		}
	}
	return removed, nil
}

// served says whether somebody listens on a socket.
func served(socket string) bool {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// removeFolder removes the cluster's folder, the marker last, so that a removal that
// failed can be repeated.
func (n node) removeFolder(note noter) error {
	entries, err := os.ReadDir(n.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if path := filepath.Join(n.dir, e.Name()); path != n.marker() {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(n.marker()); err != nil {
		return err
	}
	if err := os.Remove(n.dir); errors.Is(err, unix.EBUSY) {
		note("removed", "all in "+n.dir+", which is a mount point and stays")
		return nil
	} else if err != nil {
		return err
	}
	note("removed", n.dir)
	return nil
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
