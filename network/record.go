package network

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	recordVersion = 1

	// ifName is the pod's interface. Users' scripts know it by this name.
	ifName = "eth0"
)

// record is all that DEL and CHECK need, plugin binaries apart: of these it knows
// the folders, for a command that is not told the node's.
type record struct {
	Version      int               `json:"version"` // a newer one is refused
	Pod          string            `json:"pod"`
	NetNS        string            `json:"netns"`
	IfName       string            `json:"ifName"`
	Network      string            `json:"network"`
	CNIVersion   string            `json:"cniVersion"`
	DisableCheck bool              `json:"disableCheck,omitempty"`
	Plugins      []json.RawMessage `json:"plugins"`
	BinDirs      []string          `json:"binDirs,omitempty"` // where they were found
	Args         [][2]string       `json:"args,omitempty"`
	Capabilities capabilities      `json:"capabilities,omitempty"`
	Result       json.RawMessage   `json:"result,omitempty"` // of the last plugin, in CNIVersion; absent before ADD ends
}

func newRecord(conf *conf, pod Pod, caps capabilities, binDirs []string) *record {
	r := &record{
		Version:      recordVersion,
		Pod:          pod.ID,
		NetNS:        pod.NetNS,
		IfName:       ifName,
		Network:      conf.list.Name,
		CNIVersion:   conf.list.CNIVersion,
		DisableCheck: conf.list.DisableCheck,
		Args:         pod.args(),
		Capabilities: caps,
		BinDirs:      binDirs,
	}
	for _, plugin := range conf.list.Plugins {
		r.Plugins = append(r.Plugins, plugin.Bytes)
	}
	return r
}

func decodeRecord(data json.RawMessage) (*record, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("read network record: %w", err)
	}
	if r.Version != recordVersion {
		return nil, fmt.Errorf("network record has version %d, this program knows only %d: %w",
			r.Version, recordVersion, errdefs.ErrFailedPrecondition)
	}
	return &r, nil
}

func (r *record) encode() (json.RawMessage, error) {
	data, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode network record of pod %s: %w", r.Pod, err)
	}
	return data, nil
}

// speaks says whether the network's configuration has at least this version of
// the CNI specification.
func (r *record) speaks(least string) bool {
	ok, err := version.GreaterThanOrEqualTo(r.CNIVersion, least)
	return err == nil && ok
}

func (r *record) plugins() ([]*libcni.PluginConfig, error) {
	var out []*libcni.PluginConfig
	for _, data := range r.Plugins {
		plugin, err := libcni.NetworkPluginConfFromBytes(data)
		if err != nil {
			return nil, fmt.Errorf("network record of pod %s: %w", r.Pod, err)
		}
		out = append(out, plugin)
	}
	return out, nil
}

// stdin is the plugin's configuration as the specification wants it ("Deriving
// request configuration from plugin configuration").
func (r *record) stdin(plugin *libcni.PluginConfig, prevResult json.RawMessage) ([]byte, error) {
	values := map[string]any{"name": r.Network, "cniVersion": r.CNIVersion}
	if prevResult != nil {
		values["prevResult"] = prevResult
	}
	wanted := capabilities{}
	for name, declared := range plugin.Network.Capabilities {
		if value, ok := r.Capabilities[name]; ok && declared {
			wanted[name] = value
		}
	}
	if len(wanted) > 0 {
		values["runtimeConfig"] = wanted
	}
	conf, err := libcni.InjectConf(plugin, values)
	if err != nil {
		return nil, err
	}
	return conf.Bytes, nil
}

func (r *record) env(verb, netns, path string) []string {
	args := invoke.Args{
		Command:     verb,
		ContainerID: r.Pod,
		NetNS:       netns,
		PluginArgs:  r.Args,
		IfName:      r.IfName,
		Path:        path,
	}
	return args.AsEnv()
}

// resultIn renders a plugin's answer in the network's version.
func (r *record) resultIn(answer types.Result) (json.RawMessage, error) {
	converted, err := answer.GetAsVersion(r.CNIVersion)
	if err != nil {
		return nil, err
	}
	return json.Marshal(converted)
}
