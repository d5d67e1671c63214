package pod

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/network"
)

// Garbage is what Collect has removed, or could not: things of pods and apps that
// no record names.
type Garbage struct {
	Groups     []string // pods that had a cgroup or unit
	RunFolders []string
	Namespaces []string // paths of pins
	Roots      []string // ids
}

// Collect removes what no record explains: cgroups and units with all that lives in
// them, run folders with what is mounted there, network namespaces, roots of apps.
// It may run at any time after Recover, beside all other calls. Records that cannot
// be read protect what they may name.
//
// It goes on past what cannot be removed, and returns all such errors.
func (e *Engine) Collect(ctx context.Context) (Garbage, error) {
	var g Garbage
	errs := []error{
		e.collectGroups(ctx, &g),
		e.collectFolders(ctx, &g),
		e.collectNamespaces(&g),
		e.collectRoots(ctx, &g),
	}
	e.counters.collected(&g)
	if len(g.Groups)+len(g.RunFolders)+len(g.Namespaces)+len(g.Roots) > 0 {
		klog.FromContext(ctx).Info("Garbage collected", "groups", g.Groups, "runFolders", g.RunFolders, "namespaces", g.Namespaces, "roots", g.Roots)
	}
	return g, errors.Join(errs...)
}

// explained says whether a record names the pod. It must be asked after the thing
// in question was seen: a launch enters the index before it makes anything.
func (e *Engine) explained(id ID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.pods[id] != nil || e.foreign[id]
}

func (e *Engine) collectGroups(ctx context.Context, g *Garbage) error {
	var errs []error
	for _, parent := range e.parents() {
		found, err := e.launcher.List(ctx, e.cfg.Dir, []string{parent})
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, id := range found {
			if e.explained(ID(id)) {
				continue
			}
			errs = append(errs, e.killGroup(ctx, parent, id, g))
		}
	}
	return errors.Join(errs...)
}

func (e *Engine) killGroup(ctx context.Context, parent, id string, g *Garbage) error {
	ctx, cancel := context.WithTimeout(ctx, killTime)
	defer cancel()
	if err := e.launcher.Kill(ctx, parent, id); err != nil {
		return err
	}
	g.Groups = append(g.Groups, id)
	return nil
}

// collectLost ends a pod of which no record is left to tell where its cgroup is, but
// whose run folder says that it was ours.
func (e *Engine) collectLost(ctx context.Context, id string, g *Garbage) error {
	parents, err := e.launcher.Find(ctx, id)
	if err != nil {
		return fmt.Errorf("find the cgroup of pod %s: %w", id, err)
	}
	var errs []error
	for _, parent := range parents {
		errs = append(errs, e.killGroup(ctx, parent, id, g))
	}
	return errors.Join(errs...)
}

// parents are all cgroup parents known of.
func (e *Engine) parents() []string {
	out := slices.Clone(e.cfg.CgroupParents)
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, p := range e.pods {
		out = append(out, p.rec.Spec.CgroupParent)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (e *Engine) collectFolders(ctx context.Context, g *Garbage) error {
	return each(e.cfg.RunDir, func(name string) error {
		if !isID(name) || e.explained(ID(name)) {
			return nil
		}
		if err := e.collectLost(ctx, name, g); err != nil {
			return err
		}
		dir := filepath.Join(e.cfg.RunDir, name)
		if err := removeTree(dir); err != nil {
			return err
		}
		g.RunFolders = append(g.RunFolders, dir)
		return nil
	})
}

func (e *Engine) collectNamespaces(g *Garbage) error {
	return each(e.cfg.NetNSDir, func(name string) error {
		id, ours := strings.CutPrefix(name, netnsPrefix)
		if !ours || !isID(id) || e.explained(ID(id)) {
			return nil
		}
		path := filepath.Join(e.cfg.NetNSDir, name)
		if err := network.RemoveNamespace(path); err != nil {
			return err
		}
		g.Namespaces = append(g.Namespaces, path)
		return nil
	})
}

func (e *Engine) collectRoots(ctx context.Context, g *Garbage) error {
	ids, err := e.roots.RootIDs(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range ids {
		if !isAppID(id) || e.explainsApp(AppID(id)) {
			continue
		}
		if err := e.roots.RemoveRoot(ctx, id); err != nil {
			errs = append(errs, err)
			continue
		}
		g.Roots = append(g.Roots, id)
	}
	return errors.Join(errs...)
}

// explainsApp says whether a record names the app, or may do so: the apps of a pod
// whose record cannot be read are not known.
func (e *Engine) explainsApp(id AppID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.apps[id] != nil {
		return true
	}
	for pod := range e.foreign {
		if _, err := os.Lstat(e.appDir(pod, id)); err == nil {
			return true
		}
	}
	return false
}

// each calls f with the name of each entry of a folder, and goes on past errors.
func each(dir string, f func(name string) error) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	var errs []error
	for _, entry := range entries {
		errs = append(errs, f(entry.Name()))
	}
	return errors.Join(errs...)
}

// isID says whether a name has the form of a pod's uuid.
func isID(s string) bool {
	return len(s) == 36 && strings.Count(s, "-") == 4 && strings.Trim(s, "0123456789abcdef-") == ""
}

// isAppID says whether a name has the form of an app's id.
func isAppID(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }
