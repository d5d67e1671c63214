package e2e

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// KEP-5825: the kubelet falls back to plain lists, for good, when a stream is not
// there. The transport's log tells what it called.
func TestKubeletListsByStreams(t *testing.T) {
	t.Parallel()
	n := newPodNode(t, "lean", "featureGates: {CRIListStreaming: true}")
	n.args = append(n.args, "--vmodule=log=5")
	n.kubelet()
	n.apply("web", webPod)
	n.waitPod("web", running)
	n.withdraw("web")
	n.waitNothingLeft() // by then it has listed images too

	calls := map[string]int{}
	for _, call := range regexp.MustCompile(`"CRI call" .*method="(\w+)".*`).FindAllStringSubmatch(n.output.String(), -1) {
		calls[call[1]]++
		require.NotContains(t, call[0], `method="Stream\w+".* err=`)
	}
	for _, streamed := range []string{"StreamPodSandboxes", "StreamContainers", "StreamImages"} {
		require.Positive(t, calls[streamed], "%s is not called: %v", streamed, calls)
	}
	for _, plain := range []string{"ListPodSandbox", "ListContainers", "ListImages"} {
		require.Zero(t, calls[plain], "%s is called: %v", plain, calls)
	}
}
