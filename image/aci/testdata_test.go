package aci

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var mtime = time.Unix(1_400_000_000, 0)

// full is a manifest with every field that is carried over.
const full = `{
  "acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/reduce-worker",
  "labels": [
    {"name": "version", "value": "1.0.0+git"}, {"name": "os", "value": "linux"},
    {"name": "arch", "value": "armv7l"}, {"name": "channel", "value": "beta"}],
  "app": {
    "exec": ["/usr/bin/reduce-worker", "--quiet"],
    "user": "100", "group": "300", "supplementaryGIDs": [400, 500],
    "workingDirectory": "/opt/work",
    "environment": [{"name": "REDUCE_WORKER_DEBUG", "value": "a=b"}],
    "isolators": [{"name": "resource/cpu", "value": {"request": "250", "limit": "500"}}],
    "mountPoints": [{"name": "work", "path": "/var/lib/work/", "readOnly": false}],
    "ports": [
      {"name": "health", "port": 4000, "protocol": "tcp", "socketActivated": true},
      {"name": "rpc", "port": 5000, "protocol": "udp", "count": 3}],
    "userAnnotations": {"owner": "me"}, "userLabels": {"tier": "2"}
  },
  "annotations": [
    {"name": "authors", "value": "Carly Container <carly@example.com>"},
    {"name": "created", "value": "2014-10-27T19:32:27.67021798Z"},
    {"name": "homepage", "value": "https://example.com"}]
}`

// minimal is the least that is valid, extended by the test.
func minimal(t testing.TB, extra map[string]any) string {
	t.Helper()
	m := map[string]any{"acKind": "ImageManifest", "acVersion": "0.8.11", "name": "example.com/app"}
	for k, v := range extra {
		m[k] = v
	}
	raw, err := json.Marshal(m)
	require.NoError(t, err)
	return string(raw)
}

type entry struct {
	tar.Header
	body string
}

func file(name, body string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(body)), ModTime: mtime}, body}
}

func dir(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: mtime}, ""}
}

func link(kind byte, name, target string) entry {
	return entry{tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o777, ModTime: mtime}, ""}
}

func pack(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		require.NoError(t, w.WriteHeader(&e.Header))
		_, err := w.Write([]byte(e.body))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func write(t testing.TB, raw []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.aci")
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	return path
}

func openACI(t *testing.T, entries ...entry) *Image {
	t.Helper()
	img, err := Open(t.Context(), write(t, pack(t, entries...)), DefaultLimits)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, img.Close()) })
	return img
}

// layer returns the headers and the contents of the image's layer.
func layer(t *testing.T, img *Image) (headers map[string]*tar.Header, bodies map[string]string, names []string) {
	t.Helper()
	r, err := img.Layer(t.Context())
	require.NoError(t, err)
	defer r.Close()
	headers, bodies = map[string]*tar.Header{}, map[string]string{}
	for in := tar.NewReader(r); ; {
		h, err := in.Next()
		if err == io.EOF {
			return headers, bodies, names
		}
		require.NoError(t, err)
		body, err := io.ReadAll(in)
		require.NoError(t, err)
		headers[h.Name], bodies[h.Name], names = h, string(body), append(names, h.Name)
	}
}
