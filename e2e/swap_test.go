package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// nextVersion is what anotherBuild says of itself.
const nextVersion = "9.9.9+g"

// anotherBuild gives hyperkube as another build would: of another version, with
// another supervisor inside. Both differ in a text, of the same length.
func anotherBuild(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(binary(t, "hyperkube"))
	require.NoError(t, err)
	supervisor, err := os.ReadFile(binary(t, "rkt-supervisor"))
	require.NoError(t, err)
	require.Equal(t, 1, bytes.Count(b, supervisor), "bin/ is of one build")
	b = bytes.Replace(b, supervisor, replaced(t, supervisor, "usage: rkt-supervisor ", "USAGE: rkt-supervisor "), 1)
	return replaced(t, b, "0.1.0+g", nextVersion)
}

func replaced(t *testing.T, b []byte, old, with string) []byte {
	t.Helper()
	require.Equal(t, 1, bytes.Count(b, []byte(old)), old)
	return bytes.Replace(b, []byte(old), []byte(with), 1)
}

// put puts a binary in another's place, as an upgrade does.
func put(t *testing.T, path string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path+".new", content, 0o755))
	require.NoError(t, os.Rename(path+".new", path))
}

// An upgrade of the node: the kubelet ends, its binary is replaced, and the next
// one takes over the pods as they are, with the supervisors that they have.
func TestPodsRunOnWhenTheBinaryIsReplaced(t *testing.T) {
	t.Parallel()
	n := newPodNode(t, "lean")
	n.hyperkube = filepath.Join(n.dir, "hyperkube")
	old, err := os.ReadFile(binary(t, "hyperkube"))
	require.NoError(t, err)
	put(t, n.hyperkube, old)
	k := n.kubelet()
	n.apply("web", webPod)
	before := n.waitPod("web", running)
	supervisorBefore := n.supervisorBinaries()
	require.Len(t, supervisorBefore, 1)

	require.NoError(t, k.Process.Signal(syscall.SIGTERM))
	k.Wait()
	put(t, n.hyperkube, anotherBuild(t))
	n.kubelet()
	after := n.waitPod("web", running)

	v, err := n.cri().Version(t.Context(), &runtimeapi.VersionRequest{})
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(v.RuntimeVersion, nextVersion), v.RuntimeVersion)
	require.Equal(t, before.Status.ContainerStatuses, after.Status.ContainerStatuses)
	require.Equal(t, before.Status.PodIP, after.Status.PodIP)
	require.Equal(t, supervisorBefore, n.supervisorBinaries())

	n.apply("sleep", sleepPod) // what starts now starts with the new one
	n.waitPod("sleep", running)
	all := n.supervisorBinaries()
	require.Len(t, all, 2)
	binaries := map[string]bool{}
	for pid, path := range all {
		binaries[path] = true
		if was, ok := supervisorBefore[pid]; ok {
			require.Equal(t, was, path)
		}
	}
	require.Len(t, binaries, 2)

	n.withdraw("web")
	n.withdraw("sleep")
	n.waitNothingLeft()
}

// supervisorBinaries are the files that the machine's supervisors run, by pid.
func (n *podNode) supervisorBinaries() map[int]string {
	n.t.Helper()
	found := map[int]string{}
	for _, pid := range n.supervisors() {
		path, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		require.NoError(n.t, err)
		found[pid] = path
	}
	return found
}
