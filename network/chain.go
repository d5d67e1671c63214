package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"

	"github.com/rktnetes/rktshim/internal/span"
)

// chain runs the plugins of one record, one after the other.
type chain struct {
	*record
	dirs    []string
	plugins []*libcni.PluginConfig
	exec    *plugins
	claim   *claim // for ADD and DEL
	observe func(verb string, took time.Duration, err error)
}

func (n *CNI) chain(r *record, c *claim) (*chain, error) {
	configs, err := r.plugins()
	if err != nil {
		return nil, err
	}
	ch := &chain{r, r.searched(n.config.BinDirs), configs, &plugins{}, c, n.config.Observe}
	if c != nil {
		ch.exec.lock = c.file
	}
	return ch, nil
}

// searched are the folders to look for plugins in: the node's, then those of the
// time of ADD.
func (r *record) searched(dirs []string) []string {
	out := slices.Clone(dirs)
	for _, dir := range r.BinDirs {
		if !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	return out
}

// add runs ADD from the first plugin to the last. The record's result is that of
// the last plugin that succeeded, also on an error.
func (c *chain) add(ctx context.Context) (err error) {
	defer c.observed("ADD", time.Now(), &err)
	c.Result = nil
	if err := c.claim.keep(nil); err != nil {
		return err
	}
	for _, plugin := range c.plugins {
		if err := c.addOne(ctx, plugin); err != nil {
			return fmt.Errorf("network %q: plugin %q: ADD: %w", c.Network, plugin.Network.Type, c.ended(ctx, err))
		}
	}
	return nil
}

func (c *chain) addOne(ctx context.Context, plugin *libcni.PluginConfig) (err error) {
	ctx, end := span.Start(ctx, "ADD by "+plugin.Network.Type)
	defer func() { end(err) }()
	path, stdin, err := c.prepare(plugin, c.Result)
	if err != nil {
		return err
	}
	answer, err := invoke.ExecPluginWithResult(ctx, path, stdin, environ(c.env("ADD", c.NetNS, c.path())), c.exec)
	if err != nil {
		return err
	}
	if c.Result, err = c.resultIn(answer); err != nil {
		return err
	}
	return c.claim.keep(c.Result)
}

// del runs DEL from the last plugin to the first and stops at the first that
// fails twice: a port must not lead to an address that was given back. It wants a
// namespace that exists, or none.
func (c *chain) del(ctx context.Context) (err error) {
	defer c.observed("DEL", time.Now(), &err)
	prevResult := c.Result
	if prevResult == nil {
		prevResult = c.claim.kept()
	}
	if !c.speaks("0.4.0") {
		prevResult = nil
	}
	netns := c.NetNS
	if !IsNamespace(netns) {
		netns = ""
	}
	for i := len(c.plugins) - 1; i >= 0; i-- {
		err := c.run(ctx, "DEL", netns, c.plugins[i], prevResult)
		if err != nil && ctx.Err() == nil {
			// A plugin killed in ADD may trip over what it has not made yet, but pass
			// when the rest is gone: bridge does, over its chain for masquerading.
			err = c.run(ctx, "DEL", netns, c.plugins[i], prevResult)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// check runs CHECK from the first plugin to the last.
func (c *chain) check(ctx context.Context) (err error) {
	defer c.observed("CHECK", time.Now(), &err)
	for _, plugin := range c.plugins {
		if err := c.run(ctx, "CHECK", c.NetNS, plugin, c.Result); err != nil {
			return err
		}
	}
	return nil
}

func (c *chain) run(ctx context.Context, verb, netns string, plugin *libcni.PluginConfig, prevResult json.RawMessage) (err error) {
	ctx, end := span.Start(ctx, verb+" by "+plugin.Network.Type)
	defer func() { end(err) }()
	path, stdin, err := c.prepare(plugin, prevResult)
	if err == nil {
		err = invoke.ExecPluginWithoutResult(ctx, path, stdin, environ(c.env(verb, netns, c.path())), c.exec)
	}
	if err != nil {
		return fmt.Errorf("network %q: plugin %q: %s: %w", c.Network, plugin.Network.Type, verb, c.ended(ctx, err))
	}
	return nil
}

func (c *chain) prepare(plugin *libcni.PluginConfig, prevResult json.RawMessage) (path string, stdin []byte, err error) {
	if path, err = c.exec.FindInPath(plugin.Network.Type, c.dirs); err != nil {
		return "", nil, err
	}
	stdin, err = c.stdin(plugin, prevResult)
	return path, stdin, err
}

// ended sees that nothing of a killed plugin runs on, not even what has left its
// process group, before another verb runs for the pod.
func (c *chain) ended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	if kerr := killPlugins(c.Pod); kerr != nil {
		return errors.Join(err, kerr)
	}
	return err
}

// observed tells who wants to know how a verb has ended.
func (c *chain) observed(verb string, start time.Time, err *error) {
	if c.observe != nil {
		c.observe(verb, time.Since(start), *err)
	}
}

func (c *chain) path() string { return pluginPath(c.dirs) }

// pluginPath is CNI_PATH, where plugins look for those that they delegate to.
func pluginPath(dirs []string) string { return strings.Join(dirs, string(os.PathListSeparator)) }

// environ hands a finished environment to libcni.
type environ []string

// AsEnv implements invoke.CNIArgs.
func (e environ) AsEnv() []string { return e }
