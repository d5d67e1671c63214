package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/coreos/go-systemd/v22/dbus"
	"github.com/coreos/go-systemd/v22/util"
)

// podSlice is where a kubelet keeps all pods if systemd is the init: a slice of
// its own would need a unit file, so the cluster takes the usual one.
const podSlice = "kubepods.slice"

// madePodSlice is there if podSlice is the cluster's.
func (n node) madePodSlice() string { return filepath.Join(n.dir, "made-kubepods-slice") }

// homePods makes the cgroup below which the kubelet keeps pods, and gives its name
// for the kubelet's configuration, empty for the kubelet's own default.
func (n node) homePods() (cgroupRoot string, err error) {
	if !util.IsRunningSystemd() {
		if err := makeCgroups(n.cgroup()); err != nil {
			return "", fmt.Errorf("make the cgroup %s: %w", n.cgroup(), err)
		}
		return "/" + n.cgroup(), nil
	}
	if _, err := os.Stat(n.madePodSlice()); err == nil {
		return "", nil
	}
	all, err := hierarchies()
	if err != nil {
		return "", err
	}
	for _, h := range all {
		if _, err := os.Stat(filepath.Join(h, podSlice)); !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("this machine has pods of another kubelet (%s): local-up would mix its own with them", filepath.Join(h, podSlice))
		}
	}
	return "", os.WriteFile(n.madePodSlice(), nil, 0o600)
}

// endPods ends what the cluster's pods have left running and removes their cgroups.
func (n node) endPods(ctx context.Context) (removed []string, err error) {
	name := n.cgroup()
	if _, err := os.Stat(n.madePodSlice()); err == nil {
		name = podSlice
		if err := stopSlice(ctx); err != nil {
			return nil, err
		}
	}
	killed, err := emptyCgroups(ctx, name)
	if killed > 0 {
		removed = append(removed, fmt.Sprintf("%d processes of pods", killed))
	}
	if err != nil {
		return removed, err
	}
	cgroups, err := removeCgroups(name)
	if err != nil {
		return removed, fmt.Errorf("remove the cgroup %s: %w", name, err)
	}
	if len(cgroups) > 0 {
		removed = append(removed, fmt.Sprintf("the cgroup %s in %d hierarchies", name, len(cgroups)))
	}
	return removed, nil
}

// stopSlice has systemd end all units in podSlice. One that is not loaded is no
// error.
func stopSlice(ctx context.Context) error {
	conn, err := dbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("connect to systemd: %w", err)
	}
	defer conn.Close()
	units, err := conn.ListUnitsByNamesContext(ctx, []string{podSlice})
	if err != nil {
		return fmt.Errorf("ask systemd for %s: %w", podSlice, err)
	}
	if len(units) == 0 || units[0].ActiveState != "active" {
		return nil
	}
	done := make(chan string, 1)
	if _, err := conn.StopUnitContext(ctx, podSlice, "replace", done); err != nil {
		return fmt.Errorf("stop %s: %w", podSlice, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("stop %s: systemd says %q", podSlice, result)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
