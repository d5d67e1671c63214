package network

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

// status asks each plugin whether it could serve an ADD now, where the network's
// version has the verb (CNI 1.1.0).
func (c *conf) status(ctx context.Context, dirs []string) error {
	return c.eachPlugin(ctx, "STATUS", nil, dirs)
}

// GC tells the network's plugins which pods are attached, so that they free what
// they hold for any other. No Attach may run meanwhile. It returns nil for
// networks that do not support it (before CNI 1.1.0, or disableGC).
func (n *CNI) GC(ctx context.Context, attached []string) error {
	conf, _, err := n.network()
	if err != nil {
		return fmt.Errorf("collect garbage of the network: %w", err)
	}
	if conf.list.DisableGC {
		return nil
	}
	valid := make([]types.GCAttachment, 0, len(attached))
	for _, pod := range attached {
		valid = append(valid, types.GCAttachment{ContainerID: pod, IfName: ifName})
	}
	ctx, cancel := context.WithTimeout(ctx, n.config.Timeout)
	defer cancel()
	return conf.eachPlugin(ctx, "GC", map[string]any{
		"cni.dev/valid-attachments": valid,
		"cni.dev/attachments":       valid, // the specification's first spelling
	}, n.config.BinDirs)
}

// eachPlugin runs one of the verbs of CNI 1.1.0 that concern no pod. It tries
// every plugin and returns all errors.
func (c *conf) eachPlugin(ctx context.Context, verb string, values map[string]any, dirs []string) error {
	if ok, err := version.GreaterThanOrEqualTo(c.list.CNIVersion, "1.1.0"); err != nil || !ok {
		return err
	}
	stdinOf := map[string]any{"name": c.list.Name, "cniVersion": c.list.CNIVersion}
	for key, value := range values {
		stdinOf[key] = value
	}
	var errs []error
	for _, plugin := range c.list.Plugins {
		if err := runForNode(ctx, verb, plugin, stdinOf, dirs); err != nil {
			errs = append(errs, fmt.Errorf("network %q (%s): plugin %q: %s: %w",
				c.list.Name, c.file, plugin.Network.Type, verb, err))
		}
	}
	return errors.Join(errs...)
}

func runForNode(ctx context.Context, verb string, plugin *libcni.PluginConfig, values map[string]any, dirs []string) error {
	runner := &plugins{}
	path, err := runner.FindInPath(plugin.Network.Type, dirs)
	if err != nil {
		return err
	}
	conf, err := libcni.InjectConf(plugin, values)
	if err != nil {
		return err
	}
	env := (&record{}).env(verb, "", pluginPath(dirs))
	return invoke.ExecPluginWithoutResult(ctx, path, conf.Bytes, environ(env), runner)
}
