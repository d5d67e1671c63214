package network

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/utils"
	"github.com/containernetworking/cni/pkg/version"
)

// oldestVersion is what a configuration without a version has.
const oldestVersion = "0.1.0"

var errNotRead = errors.New("the CNI configuration has not been read yet")

// hostState is what the folders held when they were last read. It is replaced
// whole.
type hostState struct {
	conf    *conf    // nil without a network
	reason  error    // why pods cannot be attached; nil if they can
	invalid []string // the files passed over, with their errors
	plugins string   // what the answers to VERSION depend on; empty if asked in vain
}

// conf is the network in use. It never changes.
type conf struct {
	file string
	list *libcni.NetworkConfigList
}

// Status tells an operator about the node's network.
type Status struct {
	Network    string // empty if there is none
	File       string
	CNIVersion string
	Plugins    []string // in the order of ADD
	Reason     string   // why pods cannot be attached; empty if they can
	Invalid    []string // files passed over, each with its error
}

// Ready returns nil if pods can be attached, else the reason and what to do. It
// reads memory only.
func (n *CNI) Ready() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.host.reason
}

// Status reads memory only.
func (n *CNI) Status() Status {
	n.mu.Lock()
	host := n.host
	n.mu.Unlock()
	s := Status{Invalid: slices.Clone(host.invalid)}
	if host.reason != nil {
		s.Reason = host.reason.Error()
	}
	if host.conf == nil {
		return s
	}
	s.Network, s.File, s.CNIVersion = host.conf.list.Name, host.conf.file, host.conf.list.CNIVersion
	for _, plugin := range host.conf.list.Plugins {
		s.Plugins = append(s.Plugins, plugin.Network.Type)
	}
	return s
}

// readConf returns the network of the first valid file in the order of names, and
// what is wrong with those before it.
func readConf(dir string) (*conf, []string, error) {
	files, err := confFiles(dir)
	if err != nil {
		return nil, nil, err
	}
	var invalid []string
	for _, file := range files {
		list, err := readList(file)
		if err == nil {
			return &conf{file, list}, invalid, nil
		}
		invalid = append(invalid, fmt.Sprintf("%s: %v", filepath.Base(file), err))
	}
	return nil, invalid, fmt.Errorf("no valid CNI configuration in %s: %s", dir, strings.Join(invalid, "; "))
}

// confFiles never returns an empty list without an error.
func confFiles(dir string) ([]string, error) {
	const advice = "install a network plugin, or write a *.conflist there"
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("CNI configuration folder %s does not exist: %s", dir, advice)
	}
	files, err := libcni.ConfFiles(dir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return nil, fmt.Errorf("CNI configuration: %w", err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no CNI configuration in %s: %s", dir, advice)
	}
	slices.Sort(files)
	return files, nil
}

func readList(file string) (list *libcni.NetworkConfigList, err error) {
	if filepath.Ext(file) == ".conflist" {
		list, err = libcni.NetworkConfFromFile(file)
	} else {
		list, err = readSingle(file)
	}
	if err != nil {
		return nil, err
	}
	if err := utils.ValidateNetworkName(list.Name); err != nil {
		return nil, fmt.Errorf("name %q: %s", list.Name, err.Msg)
	}
	list.CNIVersion = cmp.Or(list.CNIVersion, oldestVersion)
	newer, err := version.GreaterThan(list.CNIVersion, version.Current())
	if err != nil {
		return nil, fmt.Errorf("cniVersion %q: %w", list.CNIVersion, err)
	}
	if newer {
		return nil, fmt.Errorf("cniVersion %q is newer than %s, the newest known", list.CNIVersion, version.Current())
	}
	return list, nil
}

// readSingle reads the old form, one plugin without a list, as a list of one.
func readSingle(file string) (*libcni.NetworkConfigList, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	plugin, err := libcni.NetworkPluginConfFromBytes(data)
	if err != nil {
		return nil, err
	}
	data, err = json.Marshal(map[string]any{
		"name":       plugin.Network.Name,
		"cniVersion": cmp.Or(plugin.Network.CNIVersion, oldestVersion),
		"plugins":    []json.RawMessage{data},
	})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(data)
}

// executables names each plugin of the network and its IPAM plugin, once.
func (c *conf) executables() []string {
	var names []string
	for _, plugin := range c.list.Plugins {
		for _, name := range []string{plugin.Network.Type, plugin.Network.IPAM.Type} {
			if name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

func (c *conf) findPlugins(dirs []string) error {
	for _, name := range c.executables() {
		if _, err := (&plugins{}).FindInPath(name, dirs); err != nil {
			return fmt.Errorf("network %q (%s): %w", c.list.Name, c.file, err)
		}
	}
	return nil
}

// checkVersions asks each plugin whether it speaks the configuration's version.
func (c *conf) checkVersions(ctx context.Context, dirs []string) error {
	for _, plugin := range c.list.Plugins {
		name := plugin.Network.Type
		if err := checkVersion(ctx, name, c.list.CNIVersion, dirs); err != nil {
			return fmt.Errorf("network %q (%s): plugin %q: VERSION: %w", c.list.Name, c.file, name, err)
		}
	}
	return nil
}

func checkVersion(ctx context.Context, name, wanted string, dirs []string) error {
	runner := &plugins{}
	path, err := runner.FindInPath(name, dirs)
	if err != nil {
		return err
	}
	info, err := invoke.GetVersionInfo(ctx, path, runner)
	if err != nil {
		return err
	}
	if known := info.SupportedVersions(); !slices.Contains(known, wanted) {
		return fmt.Errorf("it does not speak cniVersion %q, only %s: %w",
			wanted, strings.Join(known, ", "), errdefs.ErrFailedPrecondition)
	}
	return nil
}

// fingerprint changes when the answers to VERSION may.
func (c *conf) fingerprint(dirs []string) string {
	var b strings.Builder
	b.WriteString(c.file + " " + c.list.CNIVersion)
	for _, name := range c.executables() {
		path, err := (&plugins{}).FindInPath(name, dirs)
		if err != nil {
			continue
		}
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(&b, "\n%s %d %d", path, info.Size(), info.ModTime().UnixNano())
		}
	}
	return b.String()
}
