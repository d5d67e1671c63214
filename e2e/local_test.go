package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What `make up` and `make down` do, in namespaces of the test's own: the steps
// are one shell, as the node goes on in the background between them.
func TestNodeComesUpAndGoesDownWithoutATrace(t *testing.T) {
	hyperkube, dir := binary(t, "hyperkube"), filepath.Join(shortDir(t), "node")
	t.Cleanup(func() { exec.Command(hyperkube, "local-down", "--dir="+dir).Run() })
	script := strings.NewReplacer("HK", hyperkube, "DIR", dir).Replace(`
		set -eu
		HK local-up --dir=DIR
		curl -sS --fail http://127.0.0.1:10248/healthz && echo " is its health"
		HK local-up --dir=DIR && echo "a second one was not refused"
	`)
	k := isolated(t, "/bin/bash", "-c", script)
	require.Equal(t, 1, k.exitCode(t))
	out := k.output.String()
	require.Regexp(t, `(?s)configure the kubelet in \S+ +\d+\.\d\d s\nstart the kubelet .* s\nwait until it is healthy .* s\n`, out)
	require.Contains(t, out, "ok is its health")
	require.Contains(t, out, "a node runs in "+dir+" already; hyperkube local-down --dir="+dir+" stops it")

	// The node is in namespaces of its own now, but its lock and its cgroup are not.
	down, err := exec.Command(hyperkube, "local-down", "--dir="+dir).CombinedOutput()

	require.NoError(t, err, "%s", down)
	require.Contains(t, string(down), "stopped the node (process ")
	require.Contains(t, string(down), "removed the cgroup rktshim-local in ")
	require.Contains(t, string(down), "removed "+dir+"\n")
	require.NoDirExists(t, dir)
	for _, h := range hierarchies() {
		require.NoDirExists(t, filepath.Join(h, "rktshim-local"))
	}

	again, err := exec.Command(hyperkube, "local-down", "--dir="+dir).CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, "nothing to stop: there is no "+dir+"\n", string(again))
}

func TestDownRefusesAFolderThatIsNoNode(t *testing.T) {
	dir := t.TempDir()
	precious := filepath.Join(dir, "precious")
	require.NoError(t, os.WriteFile(precious, nil, 0o600))

	out, err := exec.Command(binary(t, "hyperkube"), "local-down", "--dir="+dir).CombinedOutput()

	require.Error(t, err)
	require.Contains(t, string(out), dir+" is not the folder of a node")
	require.FileExists(t, precious)
}

func TestBadFolderIsRefused(t *testing.T) {
	for _, c := range []struct{ args, says string }{
		{"--dir=relative", "--dir=relative: must be an absolute path other than /"},
		{"--dir=/", "--dir=/: must be an absolute path other than /"},
		{"--dir=/proc/version/x", "mkdir /proc/version: not a directory"},
		{"stray", `unknown command "stray" for "local-up"`},
	} {
		out, err := exec.Command(binary(t, "hyperkube"), "local-up", c.args).CombinedOutput()
		require.Error(t, err)
		require.Contains(t, string(out), c.says)
	}
}
