package e2e

import (
	"archive/tar"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/internal/registrytest"
)

// clusterPatience is how long anything in a cluster may take. It is only spent on
// what fails.
const clusterPatience = 3 * time.Minute

// cluster is a cluster of local-up on a machine of its own, with a registry.
type cluster struct {
	*localMachine
	node string
}

// Everything that users do to a cluster, on one that hyperkube local-up made.
func TestCluster(t *testing.T) {
	c := newCluster(t)
	t.Run("beside each other", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T, namespace){
			"a Deployment is scaled and rolled":             testDeployment,
			"a Job and a CronJob run to their ends":         testJobs,
			"a DaemonSet has a pod on the node":             testDaemonSet,
			"a StatefulSet keeps names and data":            testStatefulSet,
			"volumes follow their sources":                  testVolumes,
			"init containers and sidecars":                  testInitAndSidecar,
			"probes and hooks":                              testProbes,
			"an ephemeral container debugs a pod":           testEphemeral,
			"a Service by cluster IP and node port":         testService,
			"limits and their resize in place":              testResize,
			"exec, attach, cp and port-forward":             testSessions,
			"logs are followed across rotation":             testLogs,
			"the node's summary tells what pods use":        testSummary,
			"a service account's token is taken by the API": testToken,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t, c.namespace(t))
			})
		}
	})
	t.Run("pods run on while the cluster is restarted", func(t *testing.T) { testRestart(t, c) })
	t.Run("the node is drained", func(t *testing.T) { testDrain(t, c) })
	t.Run("a full disk evicts", func(t *testing.T) { testEviction(t, c) })
}

// newCluster starts a cluster whose folder is on a small disk of its own.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{localMachine: newLocalMachine(t, "cluster"), node: "node"}
	disk := filepath.Join(shortDir(t), "disk")
	require.NoError(t, os.WriteFile(disk, nil, 0o600))
	require.NoError(t, os.Truncate(disk, 4<<30))
	require.NoError(t, os.Mkdir(c.dir, 0o755))
	for _, argv := range [][]string{{"mkfs.ext4", "-q", "-E", "lazy_itable_init=1,nodiscard", disk}, {"mount", "-o", "loop", disk, c.dir}, {"rmdir", c.dir + "/lost+found"}} {
		out, err := c.command(t, argv...).CombinedOutput()
		require.NoError(t, err, "%v: %s", argv, out)
	}
	registry := registrytest.New(t)
	c.serve(t, registryAddr, registry.Server.Config.Handler)
	registry.Push("busybox", "1", registrytest.Image{Layers: []registrytest.Layer{{Tar: busyboxTree}}})
	c.up(t, "--demo=false", "--node-name="+c.node)
	return c
}

// busyboxTree is busybox with the names under which kubectl cp and scripts look for
// its parts.
func busyboxTree(w *tar.Writer) error {
	if err := addFile(w, "/bin/busybox"); err != nil {
		return err
	}
	for _, name := range []string{"sh", "tar", "cat", "sleep", "wget", "seq", "echo", "test", "true", "false", "mkdir", "hostname", "httpd", "kill", "ls", "touch", "head", "md5sum"} {
		if err := w.WriteHeader(&tar.Header{Name: "bin/" + name, Linkname: "busybox", Typeflag: tar.TypeSymlink}); err != nil {
			return err
		}
	}
	return w.WriteHeader(&tar.Header{Name: "tmp/", Mode: 0o1777, Typeflag: tar.TypeDir})
}

// namespace is a namespace of one test, in the cluster.
type namespace struct {
	*cluster
	name string
}

func (c *cluster) namespace(t *testing.T) namespace {
	t.Helper()
	base := t.Name()[strings.LastIndex(t.Name(), "/")+1:]
	n := namespace{c, strings.ToLower(strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}, base), "-"))}
	n.name = strings.ReplaceAll(strings.ReplaceAll(n.name, "--", "-"), "--", "-")
	n.cluster.kubectl(t, "create", "namespace", n.name)
	require.Eventually(t, func() bool { // else pods are refused
		return n.command(t, binary(t, "hyperkube"), "kubectl", "-n", n.name, "get", "serviceaccount", "default").Run() == nil
	}, clusterPatience, 100*time.Millisecond)
	return n
}

func (n namespace) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return n.cluster.kubectl(t, append([]string{"--namespace=" + n.name}, args...)...)
}

// apply makes objects. IMAGE stands for the image that all tests use.
func (n namespace) apply(t *testing.T, manifest string) {
	t.Helper()
	cmd := n.command(t, binary(t, "hyperkube"), "kubectl", "--namespace="+n.name, "apply", "--filename=-")
	cmd.Stdin = strings.NewReader(strings.ReplaceAll(manifest, "IMAGE", registryAddr+"/busybox:1"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

// wait waits for a condition of kubectl wait.
func (n namespace) wait(t *testing.T, what, condition string) {
	t.Helper()
	cmd := n.command(t, binary(t, "hyperkube"), "kubectl", "--namespace="+n.name, "wait", what, "--for="+condition, "--timeout="+clusterPatience.String())
	if out, err := cmd.CombinedOutput(); err != nil {
		seen, _ := n.command(t, binary(t, "hyperkube"), "kubectl", "--namespace="+n.name, "describe", what).CombinedOutput()
		require.NoError(t, err, "%s\n%s", out, seen)
	}
}

// eventually asks kubectl until it says something.
func (n namespace) eventually(t *testing.T, says string, args ...string) {
	t.Helper()
	var last string
	for deadline := time.Now().Add(clusterPatience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		cmd := n.command(t, append([]string{binary(t, "hyperkube"), "kubectl", "--namespace=" + n.name}, args...)...)
		out, err := cmd.CombinedOutput()
		if last = strings.TrimSpace(string(out)); err == nil && last == says {
			return
		}
	}
	seen, _ := n.command(t, binary(t, "hyperkube"), "kubectl", "--namespace="+n.name, "describe", "pods").CombinedOutput()
	require.Equal(t, says, last, "kubectl %v\n%s", args, seen)
}

// page gets a page on the machine, as a user of the node would, until it is there.
func (n namespace) page(t *testing.T, url string) (body string) {
	t.Helper()
	var err error
	for deadline := time.Now().Add(clusterPatience); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		var status int
		status, body, err = n.get(ctx, url)
		cancel()
		if err == nil && status == 200 {
			return strings.TrimSpace(body)
		}
	}
	require.NoError(t, err, url)
	require.FailNow(t, "not status 200", "%s: %s", url, body)
	return ""
}
