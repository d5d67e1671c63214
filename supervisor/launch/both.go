package launch

import (
	"context"
	"slices"
	"strings"
)

// both serves a host whose init is systemd. How a pod was launched is told by its
// cgroup parent alone, which is in its record: pods of one cgroup driver go on, and
// can be ended, under an engine of the other.
type both struct {
	systemd  Launcher
	detached Launcher
}

// of picks by the form of the parent: an absolute path that ends in no slice is a
// group of the cgroupfs driver, which systemd does not know.
func (b both) of(parent string) Launcher {
	if strings.HasPrefix(parent, "/") && !strings.HasSuffix(parent, ".slice") {
		return b.detached
	}
	return b.systemd
}

// Cgroup implements Launcher.
func (b both) Cgroup(parent, pod string) (string, error) { return b.of(parent).Cgroup(parent, pod) }

// Launch implements Launcher.
func (b both) Launch(ctx context.Context, spec Spec) error {
	return b.of(spec.Parent).Launch(ctx, spec)
}

// Kill implements Launcher.
func (b both) Kill(ctx context.Context, parent, pod string) error {
	return b.of(parent).Kill(ctx, parent, pod)
}

// List implements Launcher.
func (b both) List(ctx context.Context, dir string, parents []string) ([]string, error) {
	groups := slices.DeleteFunc(slices.Clone(parents), func(p string) bool { return b.of(p) != b.detached })
	pods, err := b.detached.List(ctx, dir, groups)
	if err != nil || len(groups) == len(parents) {
		return pods, err
	}
	units, err := b.systemd.List(ctx, dir, parents)
	return append(pods, units...), err
}

// Find implements Launcher.
func (b both) Find(ctx context.Context, pod string) ([]string, error) {
	groups, err := b.detached.Find(ctx, pod)
	if err != nil {
		return nil, err
	}
	units, err := b.systemd.Find(ctx, pod)
	return append(groups, units...), err
}
