package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func testDeployment(t *testing.T, n namespace) {
	n.apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: IMAGE, command: [sleep, "1000000"], env: [{name: VERSION, value: "1"}]}
`)
	timeout := "--timeout=" + clusterPatience.String()
	n.kubectl(t, "rollout", "status", "deployment/web", timeout)
	n.kubectl(t, "scale", "deployment/web", "--replicas=30")
	n.kubectl(t, "rollout", "status", "deployment/web", timeout)
	ips := strings.Fields(n.kubectl(t, "get", "pods", "--field-selector=status.phase=Running", "--output=jsonpath={.items[*].status.podIP}"))
	require.Len(t, ips, 30)
	seen := map[string]bool{}
	for _, ip := range ips {
		require.False(t, seen[ip], "two pods have %s", ip)
		seen[ip] = true
	}
	n.kubectl(t, "scale", "deployment/web", "--replicas=1")
	n.eventually(t, "1", "get", "deployment/web", "--output=jsonpath={.status.replicas}")
	n.eventually(t, "pod", "get", "pods", "--output=jsonpath={range .items[*]}pod{end}")

	old := n.kubectl(t, "get", "pods", "--output=jsonpath={.items[0].metadata.name}")
	n.kubectl(t, "set", "env", "deployment/web", "VERSION=2")
	n.kubectl(t, "rollout", "status", "deployment/web", timeout)
	n.eventually(t, "2", "get", "pods", "--output=jsonpath={.items[*].spec.containers[0].env[0].value}")
	require.NotEqual(t, old, n.kubectl(t, "get", "pods", "--output=jsonpath={.items[0].metadata.name}"))
	n.kubectl(t, "rollout", "undo", "deployment/web")
	n.kubectl(t, "rollout", "status", "deployment/web", timeout)
	n.eventually(t, "1", "get", "pods", "--output=jsonpath={.items[*].spec.containers[0].env[0].value}")
}

func testJobs(t *testing.T, n namespace) {
	n.apply(t, `
apiVersion: batch/v1
kind: Job
metadata: {name: counted}
spec:
  completions: 3
  parallelism: 2
  completionMode: Indexed
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: IMAGE, command: [sh, -c, "echo index $JOB_COMPLETION_INDEX"]}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: hopeless}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: IMAGE, command: [sh, -c, "exit 3"]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: minutely}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: Never
          containers: [{name: main, image: IMAGE, command: [echo, it is time]}]
`)
	n.wait(t, "job/counted", "condition=Complete")
	logs := n.kubectl(t, "logs", "--selector=job-name=counted", "--tail=-1")
	for _, line := range []string{"index 0", "index 1", "index 2"} {
		require.Contains(t, logs, line)
	}
	n.wait(t, "job/hopeless", "condition=Failed")
	require.Equal(t, "3", n.kubectl(t, "get", "pods", "--selector=job-name=hopeless", "--output=jsonpath={.items[*].status.containerStatuses[0].state.terminated.exitCode}"))
	n.eventually(t, "1", "get", "jobs", "--output=jsonpath={.items[?(@.metadata.ownerReferences[0].name==\"minutely\")].status.succeeded}")
	n.kubectl(t, "delete", "cronjob/minutely")
}

func testDaemonSet(t *testing.T, n namespace) {
	n.apply(t, `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostNetwork: true
      terminationGracePeriodSeconds: 1
      containers: [{name: agent, image: IMAGE, command: [sleep, "1000000"]}]
`)
	n.kubectl(t, "rollout", "status", "daemonset/agent", "--timeout="+clusterPatience.String())
	require.Equal(t, n.node+" "+nodeAddress, n.kubectl(t, "get", "pods", "--output=jsonpath={.items[*].spec.nodeName} {.items[*].status.podIP}"))
}

func testStatefulSet(t *testing.T, n namespace) {
	host := shortDir(t)
	n.apply(t, strings.ReplaceAll(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  serviceName: db
  replicas: 2
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: db
        image: IMAGE
        command: [sh, -c, "echo start >>/data/$(hostname); exec sleep 1000000"]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, hostPath: {path: HOST, type: Directory}}]
`, "HOST", host))
	n.kubectl(t, "rollout", "status", "statefulset/db", "--timeout="+clusterPatience.String())
	before := n.kubectl(t, "get", "pod/db-0", "--output=jsonpath={.metadata.uid}")

	n.kubectl(t, "delete", "pod/db-0")
	n.kubectl(t, "rollout", "status", "statefulset/db", "--timeout="+clusterPatience.String())
	n.wait(t, "pod/db-0", "condition=Ready")

	require.NotEqual(t, before, n.kubectl(t, "get", "pod/db-0", "--output=jsonpath={.metadata.uid}"))
	for name, lines := range map[string]string{"db-0": "start\nstart\n", "db-1": "start\n"} {
		b, err := os.ReadFile(filepath.Join(host, name))
		require.NoError(t, err)
		require.Equal(t, lines, string(b), name)
	}
}

func testService(t *testing.T, n namespace) {
	n.apply(t, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: IMAGE
        command: [sh, -c, "mkdir /www; hostname >/www/index.html; exec httpd -f -p 8080 -h /www"]
        readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`)
	n.kubectl(t, "rollout", "status", "deployment/web", "--timeout="+clusterPatience.String())
	address := strings.Fields(n.kubectl(t, "get", "service/web", "--output=jsonpath={.spec.clusterIP} {.spec.ports[0].nodePort}"))
	pods := strings.Fields(n.kubectl(t, "get", "pods", "--output=jsonpath={.items[*].metadata.name}"))
	require.Len(t, pods, 2)
	answered := map[string]bool{}
	for len(answered) < 2 { // kube-proxy chooses at random
		answered[n.page(t, "http://"+address[0]+"/")] = true
	}
	require.Contains(t, answered, pods[0])
	require.Contains(t, answered, pods[1])
	require.Contains(t, pods, n.page(t, "http://"+nodeAddress+":"+address[1]+"/"))
	// From a pod: to the other, and to itself, which is what chance does in a few turns.
	answered = map[string]bool{}
	for len(answered) < 2 {
		answered[n.kubectl(t, "exec", pods[0], "--", "wget", "-q", "-O-", "http://"+address[0]+"/")] = true
	}
	require.Contains(t, answered, pods[0])
	require.Contains(t, answered, pods[1])
}
