package network

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

const (
	waitFor = 8 * time.Second // less than reread, so that only an event can help
	tick    = 5 * time.Millisecond
)

func TestConfigNamesWhatIsWrong(t *testing.T) {
	_, err := New(Config{ConfDir: "net.d", BinDirs: []string{"bin"}})
	for _, want := range []string{`CNI conf folder "net.d"`, `CNI run folder ""`, `CNI plugin folder "bin"`, "CNI timeout 0s"} {
		require.ErrorContains(t, err, want)
	}
	require.True(t, errdefs.IsInvalidArgument(err))
	_, err = New(Config{ConfDir: "/a", RunDir: "/b", Timeout: DefaultTimeout})
	require.ErrorContains(t, err, "no CNI plugin folder")
}

func TestReadySaysWhyNot(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  string
	}{
		"empty":          {nil, "no CNI configuration in DIR/net.d: install a network plugin, or write a *.conflist there"},
		"other files":    {map[string]string{"README": ""}, "no CNI configuration in DIR/net.d"},
		"no JSON":        {map[string]string{"1.conflist": "{"}, "no valid CNI configuration in DIR/net.d: 1.conflist: "},
		"no name":        {map[string]string{"1.conflist": `{"plugins": [{"type": "portmap"}]}`}, "1.conflist: "},
		"bad name":       {map[string]string{"1.conflist": `{"name": "../x", "plugins": [{"type": "portmap"}]}`}, `1.conflist: name "../x"`},
		"no plugins":     {map[string]string{"1.conflist": `{"name": "pods"}`}, "1.conflist: no plugin"},
		"no type":        {map[string]string{"1.conflist": conflist("1.0.0", `{}`)}, "missing 'type'"},
		"no type, old":   {map[string]string{"1.conf": `{"name": "pods"}`}, "1.conf: "},
		"version":        {map[string]string{"1.conflist": conflist("one", portmap)}, `1.conflist: cniVersion "one"`},
		"future version": {map[string]string{"1.conflist": conflist("2.0.0", portmap)}, `1.conflist: cniVersion "2.0.0" is newer than 1.1.0`},
		"no plugin":      {map[string]string{"1.conflist": conflist("1.0.0", `{"type": "calico"}`)}, `network "pods" (DIR/net.d/1.conflist): plugin "calico" not found in DIR/bin:/usr/lib/cni`},
		"no IPAM plugin": {map[string]string{"1.conflist": conflist("1.0.0", `{"type": "bridge", "ipam": {"type": "whereabouts"}}`)}, `plugin "whereabouts" not found in DIR/bin:/usr/lib/cni`},
		"old plugin":     {map[string]string{"1.conflist": conflist("1.1.0", portmap)}, `plugin "portmap": VERSION: it does not speak cniVersion "1.1.0", only 0.1.0`},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			require.ErrorContains(t, h.Ready(), "not been read yet")
			for name, content := range c.files {
				h.writeConf(name, content)
			}
			h.read(t.Context())
			want := strings.ReplaceAll(c.want, "DIR", h.dir)
			require.ErrorContains(t, h.Ready(), want)
			require.Contains(t, h.Status().Reason, want)
		})
	}
	h := newHost(t)
	require.NoError(t, os.Remove(h.config.ConfDir))
	h.read(t.Context())
	require.ErrorContains(t, h.Ready(), "CNI configuration folder "+h.config.ConfDir+" does not exist")

	var r records
	_, err := h.Attach(t.Context(), h.pod("a"), r.save)
	require.ErrorContains(t, err, "does not exist")
	require.True(t, errdefs.IsUnavailable(err))
	require.Empty(t, r.saved)
}

func TestFirstValidFileByNameIsUsedAndInvalidOnesAreNamed(t *testing.T) {
	h := newHost(t)
	h.writeConf("00-broken.conflist", "{")
	h.writeConf("10-single.conf", `{"name": "single", "type": "portmap", "capabilities": {"portMappings": true}}`)
	h.writeConf("20-list.conflist", conflist("1.0.0", portmap))
	h.writeConf("05-ignored.txt", "")
	h.read(t.Context())
	require.NoError(t, h.Ready())
	s := h.Status()
	require.Equal(t, "single", s.Network)
	require.Equal(t, filepath.Join(h.config.ConfDir, "10-single.conf"), s.File)
	require.Equal(t, "0.1.0", s.CNIVersion)
	require.Equal(t, []string{"portmap"}, s.Plugins)
	require.Len(t, s.Invalid, 1)
	require.Contains(t, s.Invalid[0], "00-broken.conflist: ")
}

func TestOldConfigurationsAttachToo(t *testing.T) {
	for _, version := range []string{"0.1.0", "0.2.0", "0.3.1", "0.4.0"} {
		h := newHost(t)
		h.writeConf("1.conflist", strings.Replace(conflist(version, h.bridge(true, "10.88.0.0/24"), portmap), version, version, 1))
		h.read(t.Context())
		require.NoError(t, h.Ready(), version)
		pod := h.pod("a")
		if version >= "0.3.0" { // portmap needs a result with interfaces
			pod.PortMappings = []PortMapping{{HostPort: 8080, ContainerPort: 80}}
		}
		result, record := h.attach(pod)
		require.Len(t, result.IPs, 1, version)
		serve(t, pod.NetNS, 80)
		require.NotEmpty(t, answer(t, hostNetNS, result.IPs[0].String()+":80"), version)
		h.detach(record)
		h.requireNothingLeft()
	}
}

func TestPluginsOutsideTheListAreUsed(t *testing.T) {
	h := newHost(t)
	require.NoError(t, os.MkdirAll(filepath.Join(h.config.ConfDir, "pods"), 0o755))
	h.writeConf("1.conflist", `{"cniVersion": "1.0.0", "name": "pods"}`)
	h.writeConf("pods/1.conf", h.bridge(true, "10.88.0.0/24"))
	h.read(t.Context())
	require.NoError(t, h.Ready())
	_, record := h.attach(h.pod("a"))
	require.NoError(t, os.RemoveAll(h.config.ConfDir))
	h.detach(record)
	h.requireNothingLeft()
}

func TestCheckFindsABrokenNetwork(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(false, "10.88.0.0/24"))
	pod := h.pod("a")
	var r records
	r.seen = func() {
		if len(r.saved) == 1 {
			require.ErrorIs(t, h.Check(t.Context(), r.saved[0]), errdefs.ErrFailedPrecondition)
		}
	}
	_, err := h.Attach(t.Context(), pod, r.save)
	require.NoError(t, err)
	require.NoError(t, h.Check(t.Context(), r.last()))
	require.NoError(t, os.RemoveAll(h.leases))
	require.ErrorContains(t, h.Check(t.Context(), r.last()), `check network of pod a: network "pods": plugin "bridge": CHECK`)
	h.detach(r.last())
}

func TestRecordsOfOtherVersionsAreRefused(t *testing.T) {
	h := newHost(t)
	newer := json.RawMessage(`{"version": 2}`)
	require.ErrorContains(t, h.Detach(t.Context(), newer), "network record has version 2, this program knows only 1")
	require.Error(t, h.Check(t.Context(), newer))
	_, err := ResultOf(newer)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, h.Detach(t.Context(), json.RawMessage(`{"ver`)), "read network record")
	require.NoError(t, h.Detach(t.Context(), nil), "nothing was ever attached")
}

func TestStatusOfThePluginsDecidesWhetherReady(t *testing.T) {
	h := newHost(t)
	h.plugin("moody", `
if [ $CNI_COMMAND = STATUS ] && ! [ -e `+h.dir+`/up ]; then
	echo '{"cniVersion": "1.1.0", "code": 50, "msg": "the daemon is down"}'
	exit 1
fi`)
	h.writeConf("1.conflist", conflist("1.1.0", `{"type": "moody"}`))
	h.read(t.Context())
	require.ErrorContains(t, h.Ready(), `plugin "moody": STATUS: the daemon is down`)
	require.NoError(t, os.WriteFile(filepath.Join(h.dir, "up"), nil, 0o600))
	h.read(t.Context())
	require.NoError(t, h.Ready())
}

func TestGCTellsThePluginsWhichPodsAreAttached(t *testing.T) {
	h := newHost(t)
	h.plugin("gc", `[ $CNI_COMMAND != GC ] || cat > `+h.dir+`/gc`)
	h.writeConf("1.conflist", conflist("1.1.0", `{"type": "gc"}`))
	h.read(t.Context())
	require.NoError(t, h.GC(t.Context(), []string{"a", "b"}))
	stdin, err := os.ReadFile(filepath.Join(h.dir, "gc"))
	require.NoError(t, err)
	list := `[{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth0"}]`
	require.JSONEq(t, `{"cniVersion": "1.1.0", "name": "pods", "type": "gc",
		"cni.dev/valid-attachments": `+list+`, "cni.dev/attachments": `+list+`}`, string(stdin))

	require.NoError(t, os.Remove(filepath.Join(h.dir, "gc")))
	h.writeConf("1.conflist", strings.Replace(conflist("1.1.0", `{"type": "gc"}`), "{", `{"disableGC": true, `, 1))
	h.read(t.Context())
	require.NoError(t, h.GC(t.Context(), nil))
	h.writeConf("1.conflist", conflist("1.0.0", `{"type": "gc"}`))
	h.read(t.Context())
	require.NoError(t, h.GC(t.Context(), nil))
	require.NoFileExists(t, filepath.Join(h.dir, "gc"), "networks that do not support it are not asked")

	h.plugin("gc", `[ $CNI_COMMAND != GC ] || { echo busy >&2; exit 1; }`)
	h.writeConf("1.conflist", conflist("1.1.0", `{"type": "gc"}`))
	h.read(t.Context())
	require.ErrorContains(t, h.GC(t.Context(), nil), `plugin "gc": GC: exit status 1: "busy"`)
}

func TestAnswersToVersionAreAskedForOnlyAfterAChange(t *testing.T) {
	h := newHost(t)
	h.plugin("counted", "")
	path := filepath.Join(h.script, "counted")
	script, err := os.ReadFile(path)
	require.NoError(t, err)
	counting := strings.Replace(string(script), "#!/bin/sh\n", "#!/bin/sh\necho $CNI_COMMAND >> "+h.dir+"/asked\n", 1)
	require.NoError(t, os.WriteFile(path, []byte(counting), 0o755))
	asked := func() int {
		data, err := os.ReadFile(filepath.Join(h.dir, "asked"))
		if errors.Is(err, os.ErrNotExist) {
			return 0
		}
		require.NoError(t, err)
		return strings.Count(string(data), "VERSION\n")
	}
	h.uses(`{"type": "counted"}`)
	h.read(t.Context())
	h.read(t.Context())
	require.Equal(t, 1, asked())
	require.NoError(t, os.WriteFile(path, []byte(counting+"\n"), 0o755)) // another binary
	h.read(t.Context())
	require.Equal(t, 2, asked())
}
