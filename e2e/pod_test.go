package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const webPod = `
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: web
    image: ` + registryAddr + `/busybox:1
    command: ["/bin/busybox", "sh", "-c", "mkdir /www; echo a page > /www/index.html; exec /bin/busybox httpd -f -p 80 -h /www"]
    ports: [{containerPort: 80, hostPort: 8081}]
    livenessProbe: {exec: {command: ["/bin/busybox", "true"]}, periodSeconds: 1}
    readinessProbe: {httpGet: {port: 80, path: /}, periodSeconds: 1}
`

// A pod of the real kubelet: pulled, started, probed, reachable; it does not
// notice that its kubelet is killed and that another takes over; it ends with its
// manifest and leaves nothing.
func TestPodOutlivesItsKubelet(t *testing.T) {
	for _, stage1 := range []string{"lean", "nspawn"} {
		t.Run(stage1, func(t *testing.T) {
			t.Parallel()
			n := newPodNode(t, stage1)
			first := n.kubelet()
			n.apply("web", webPod)
			before := n.waitPod("web", running)
			require.True(t, strings.HasPrefix(before.Status.PodIP, podSubnet+"."), before.Status.PodIP)
			for _, url := range []string{"http://" + before.Status.PodIP + "/", "http://" + nodeAddress + ":8081/"} {
				status, body, err := n.get(t.Context(), url)
				require.NoError(t, err, url)
				require.Equal(t, http.StatusOK, status)
				require.Equal(t, "a page\n", body)
			}

			require.NoError(t, first.Process.Kill())
			first.Wait()
			_, body, err := n.get(t.Context(), "http://"+before.Status.PodIP+"/")
			require.NoError(t, err, "the pod died with its kubelet")
			require.Equal(t, "a page\n", body)
			n.kubelet()
			after := n.waitPod("web", running)
			require.Equal(t, before.Status.ContainerStatuses, after.Status.ContainerStatuses)
			require.Equal(t, before.Status.PodIP, after.Status.PodIP)

			n.withdraw("web")
			n.waitNothingLeft()
		})
	}
}
