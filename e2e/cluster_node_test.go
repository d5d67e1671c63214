package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const sleepers = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: sleepers}
spec:
  replicas: 3
  selector: {matchLabels: {app: sleepers}}
  template:
    metadata: {labels: {app: sleepers}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: main, image: IMAGE, command: [sleep, "1000000"]}]
`

// The kubelet and all that it talks to are ended and started: pods do not notice.
func testRestart(t *testing.T, c *cluster) {
	n := c.namespace(t)
	n.apply(t, sleepers)
	n.kubectl(t, "rollout", "status", "deployment/sleepers", "--timeout="+clusterPatience.String())
	running := func() (starts []string) {
		for _, line := range strings.Split(c.podStarts(t), "\n") {
			if strings.HasPrefix(line, "sleepers-") {
				starts = append(starts, line)
			}
		}
		return starts
	}
	before, local := running(), c.pid(t, "lock")
	require.Len(t, before, 3)
	require.NoError(t, syscall.Kill(local, syscall.SIGTERM))
	require.Eventually(t, func() bool { return !alive(local) }, clusterPatience, 50*time.Millisecond)

	c.up(t, "--demo=false")

	n.kubectl(t, "rollout", "status", "deployment/sleepers", "--timeout="+clusterPatience.String())
	require.Equal(t, before, running())
}

func testDrain(t *testing.T, c *cluster) {
	n := c.namespace(t)
	n.apply(t, sleepers)
	n.kubectl(t, "rollout", "status", "deployment/sleepers", "--timeout="+clusterPatience.String())

	n.kubectl(t, "drain", c.node, "--ignore-daemonsets", "--force", "--delete-emptydir-data", "--timeout="+clusterPatience.String())

	n.eventually(t, "Pending Pending Pending", "get", "pods", "--output=jsonpath={.items[*].status.phase}")
	n.kubectl(t, "uncordon", c.node)
	n.kubectl(t, "rollout", "status", "deployment/sleepers", "--timeout="+clusterPatience.String())
}

// The last one: the node stays tainted for five minutes.
func testEviction(t *testing.T, c *cluster) {
	n := c.namespace(t)
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: hoarder}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: IMAGE, command: [sh, -c, "head -c 50000000 /dev/zero >/tmp/hoard; exec sleep 1000000"]}]
`)
	n.wait(t, "pod/hoarder", "condition=Ready")

	free, err := c.command(t, "stat", "--file-system", "--format=%a %S", c.dir).Output()
	require.NoError(t, err)
	blocks := strings.Fields(string(free))
	out, err := c.command(t, "sh", "-c", "fallocate -l $(("+blocks[0]+" * "+blocks[1]+" - 900000000)) '"+c.dir+"/ballast'").CombinedOutput()
	require.NoError(t, err, "%s", out)

	n.eventually(t, "Evicted", "get", "pod/hoarder", "--output=jsonpath={.status.reason}")
	n.eventually(t, "True", "get", "node", c.node, `--output=jsonpath={.status.conditions[?(@.type=="DiskPressure")].status}`)
}
