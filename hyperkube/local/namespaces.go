package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// A cluster's network and mounts are in the namespaces in which it was started:
// several clusters run side by side in network namespaces of their own. What is
// left of one must be removed in the same.

func (n node) namespacesFile() string { return filepath.Join(n.dir, "namespaces") }

// noteNamespaces records the namespaces of this process.
func (n node) noteNamespaces() error {
	net, mnt, err := namespacesOf("self")
	if err != nil {
		return err
	}
	return os.WriteFile(n.namespacesFile(), []byte(net+" "+mnt+"\n"), 0o600)
}

func namespacesOf(pid string) (net, mnt string, err error) {
	net, err = os.Readlink("/proc/" + pid + "/ns/net")
	if err != nil {
		return "", "", err
	}
	mnt, err = os.Readlink("/proc/" + pid + "/ns/mnt")
	return net, mnt, err
}

// errGone is returned by enter if nothing is left of the cluster's namespaces.
var errGone = errors.New("the namespaces of the cluster are gone")

// otherNamespaces gives the folder below /proc of a process in the namespaces that
// the cluster was started in, or "" if this process is in them, or errGone.
func (n node) otherNamespaces() (proc string, err error) {
	b, err := os.ReadFile(n.namespacesFile())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	net, mnt, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
	ourNet, ourMnt, err := namespacesOf("self")
	if err != nil || ourNet == net && ourMnt == mnt {
		return "", err
	}
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return "", err
	}
	for _, p := range processes {
		if theirNet, theirMnt, err := namespacesOf(filepath.Base(p)); err == nil && theirNet == net && theirMnt == mnt {
			return p, nil
		}
	}
	return "", errGone
}

// enter makes this process one in the namespaces of the cluster: it starts again
// in them, with the same arguments. It returns only if there is nothing to enter.
func (n node) enter() error {
	proc, err := n.otherNamespaces()
	if errors.Is(err, errGone) || err == nil && proc == "" {
		return nil // what was in namespaces that are gone is gone with them
	}
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the new program gets the namespaces of this thread
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("enter the namespaces of the cluster: %w", err)
	}
	for _, ns := range []struct {
		name string
		kind int
	}{{"net", unix.CLONE_NEWNET}, {"mnt", unix.CLONE_NEWNS}} {
		f, err := os.Open(filepath.Join(proc, "ns", ns.name))
		if err != nil {
			return fmt.Errorf("enter the namespaces of the cluster: %w", err)
		}
		if err := unix.Setns(int(f.Fd()), ns.kind); err != nil {
			return fmt.Errorf("enter the %s namespace of the cluster: %w", ns.name, err)
		}
	}
	// By descriptor: the file's path may not exist in the other mount namespace.
	path := fmt.Sprintf("/proc/self/fd/%d", self.Fd())
	return fmt.Errorf("start again in the namespaces of the cluster: %w", unix.Exec(path, os.Args, os.Environ()))
}
