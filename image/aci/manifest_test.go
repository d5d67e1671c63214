package aci

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func TestFaultsNameTheirField(t *testing.T) {
	app := func(fields map[string]any) map[string]any {
		a := map[string]any{"exec": []string{"/x"}, "user": "0", "group": "0"}
		for k, v := range fields {
			a[k] = v
		}
		return map[string]any{"app": a}
	}
	list := func(v ...map[string]any) []map[string]any { return v }
	type obj = map[string]any
	for _, c := range []struct {
		want  string
		extra map[string]any
	}{
		{`acKind: "PodManifest"`, obj{"acKind": "PodManifest"}},
		{`acVersion: "1"`, obj{"acVersion": "1"}},
		{`name: "Upper"`, obj{"name": "Upper"}},
		{`name: ""`, obj{"name": ""}},
		{`name: want string, got JSON number`, obj{"name": 5}},
		{`labels[0].name: "A" is no`, obj{"labels": list(obj{"name": "A", "value": "x"})}},
		{`labels[1].name: "a" is given twice`, obj{"labels": list(obj{"name": "a"}, obj{"name": "a"})}},
		{`labels[0].name: "name" is reserved`, obj{"labels": list(obj{"name": "name"})}},
		{`labels: os is "freebsd"`, obj{"labels": list(obj{"name": "os", "value": "freebsd"})}},
		{`labels: arch "z80"`, obj{"labels": list(obj{"name": "arch", "value": "z80"})}},
		{`annotations[0].name: "B"`, obj{"annotations": list(obj{"name": "B"})}},
		{`dependencies: the image is layered on example.com/base, (no imageName);`,
			obj{"dependencies": list(obj{"imageName": "example.com/base"}, obj{"imageID": "sha512-0"})}},
		{`pathWhitelist[0]: "bin"`, obj{"pathWhitelist": []string{"bin"}}},
		{`pathWhitelist[0]: "/a/../b"`, obj{"pathWhitelist": []string{"/a/../b"}}},
		{`app.user: it is missing`, app(obj{"user": ""})},
		{`app.user: "a:b"`, app(obj{"user": "a:b"})},
		{`app.user: "/a/./b"`, app(obj{"user": "/a/./b"})},
		{`app.group: it is missing`, app(obj{"group": ""})},
		{`app.exec[0]: it is empty`, app(obj{"exec": []string{""}})},
		{`app.exec[1]: it has a NUL byte`, app(obj{"exec": []string{"a", "b\x00"}})},
		{`app.exec: want []string, got JSON string`, app(obj{"exec": "/bin/sh"})},
		{`app.supplementaryGIDs: want uint32, got JSON number -1`, app(obj{"supplementaryGIDs": []int{-1}})},
		{`app.workingDirectory: "rel"`, app(obj{"workingDirectory": "rel"})},
		{`app.eventHandlers[0]: a "pre-start" handler`, app(obj{"eventHandlers": list(obj{"name": "pre-start"})})},
		{`app.environment[0].name: "A=B"`, app(obj{"environment": list(obj{"name": "A=B"})})},
		{`app.environment[0].value: it has a NUL byte`, app(obj{"environment": list(obj{"name": "A", "value": "\x00"})})},
		{`app.environment[1].name: "A" is given twice`, app(obj{"environment": list(obj{"name": "A"}, obj{"name": "A"})})},
		{`app.ports[0].name: "A"`, app(obj{"ports": list(obj{"name": "A", "protocol": "tcp", "port": 1})})},
		{`app.ports[0].protocol: "icmp"`, app(obj{"ports": list(obj{"name": "a", "protocol": "icmp", "port": 1})})},
		{`app.ports[0].port: 0 is not between`, app(obj{"ports": list(obj{"name": "a", "protocol": "tcp"})})},
		{`app.ports[0].count: 3 ports from 65534 on`, app(obj{"ports": list(obj{"name": "a", "protocol": "tcp", "port": 65534, "count": 3})})},
		{`app.ports[1].name: "a" is given twice`, app(obj{"ports": list(obj{"name": "a", "protocol": "tcp", "port": 1}, obj{"name": "a", "protocol": "tcp", "port": 2})})},
		{`app.ports[1].count: more than 65535 ports in all`, app(obj{"ports": list(
			obj{"name": "a", "protocol": "tcp", "port": 1, "count": 65535}, obj{"name": "b", "protocol": "udp", "port": 1})})},
		{`app.mountPoints[0].name: ""`, app(obj{"mountPoints": list(obj{"path": "/x"})})},
		{`app.mountPoints[0].path: "x"`, app(obj{"mountPoints": list(obj{"name": "a", "path": "x"})})},
		{`app.mountPoints[1].name: "a" is given twice`, app(obj{"mountPoints": list(obj{"name": "a", "path": "/x"}, obj{"name": "a", "path": "/y"})})},
		{`app.isolators[0].name: "X"`, app(obj{"isolators": list(obj{"name": "X", "value": 1})})},
		{`app.isolators[0].value: it is missing`, app(obj{"isolators": list(obj{"name": "x"})})},
	} {
		t.Run(c.want, func(t *testing.T) {
			_, err := ParseManifest([]byte(minimal(t, c.extra)))
			require.ErrorContains(t, err, c.want)
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
		})
	}
}

func TestAllFaultsAreReportedAtOnce(t *testing.T) {
	_, err := ParseManifest([]byte(`{"acKind":"x","acVersion":"y","name":"Z"}`))
	for _, field := range []string{"acKind", "acVersion", "name"} {
		require.ErrorContains(t, err, field+": ")
	}
}

// rkt ignored them, so images that have some are about.
func TestUnknownFieldsAreIgnored(t *testing.T) {
	type obj = map[string]any
	plain := obj{"app": obj{"exec": []string{"/x"}, "user": "0", "group": "0"}}
	strange := obj{"flavour": []int{1}, "app": obj{"exec": []string{"/x"}, "user": "0", "group": "0", "colour": obj{"exec": "red"}}}

	want, err := ParseManifest([]byte(minimal(t, plain)))
	require.NoError(t, err)
	got, err := ParseManifest([]byte(minimal(t, strange)))
	require.NoError(t, err)

	require.Equal(t, want, got)
}

func TestWhatIsNotOneJSONObjectIsRefused(t *testing.T) {
	for want, raw := range map[string]string{
		"it is empty":                        "  ",
		"unexpected EOF":                     `{"name":`,
		"not valid UTF-8":                    "{\"name\":\"\xff\"}",
		"there is more after the JSON":       minimal(t, nil) + "{}",
		"cannot unmarshal array into Go val": `[]`,
	} {
		_, err := ParseManifest([]byte(raw))
		require.ErrorContains(t, err, want)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
}

func TestNameAndVersionBecomeAReference(t *testing.T) {
	for _, c := range []struct{ name, version, want, err string }{
		{"example.com/app", "1.2", "example.com/app:1.2", ""},
		{"example.com/app", "", "example.com/app:latest", ""},
		{"example.com/a/b", "1.0.0+git", "example.com/a/b:1.0.0_git", ""},
		{"busybox", "1", "docker.io/library/busybox:1", ""},
		{"example.com/a~b", "1", "", "name: "},
		{"example.com/app", "a b", "", `labels: version "a b"`},
	} {
		m := &Manifest{Name: c.name}
		if c.version != "" {
			m.Labels = []NameValue{{"version", c.version}}
		}
		got, err := m.Reference()
		if c.err != "" {
			require.ErrorContains(t, err, c.err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, c.want, got.String())
	}
}

func FuzzManifest(f *testing.F) {
	f.Add([]byte(full))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"acKind":"ImageManifest","acVersion":"0.8.11","name":"a~b","labels":[{"name":"version","value":" "}]}`))
	f.Add([]byte(`{"acKind":"ImageManifest","acVersion":"0.8.11","name":"a","app":{"user":"/","group":"/x","exec":[],"ports":[{"name":"a","port":65535,"count":18446744073709551615,"protocol":"udp"}]}}`))
	f.Add([]byte(`{"acKind":"ImageManifest","acVersion":"0.8.11","name":"a","app":{"user":"0","group":"0","isolators":[{"name":"x","value":[{"a":null}]}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := ParseManifest(raw)
		if err != nil {
			require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
			return
		}
		config := m.config("0:0", "sha256:"+"00")
		out, err := json.Marshal(config)
		require.NoError(t, err)
		require.NotEmpty(t, config.OS)
		require.NotEmpty(t, config.Architecture)
		require.LessOrEqual(t, len(config.Config.ExposedPorts), maxPorts)
		for v := range config.Config.Volumes {
			require.True(t, strings.HasPrefix(v, "/"))
		}
		require.True(t, json.Valid(out))
		if name, err := m.Reference(); err == nil {
			require.NotContains(t, name.String(), "@")
		}
	})
}
