package e2e

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// podKinds are the pods that TestKindsOfPods runs side by side on one machine.
var podKinds = map[string]string{
	"nginx": `
spec:
  terminationGracePeriodSeconds: 30
  containers:
  - name: nginx
    image: IMAGE/nginx:1
    ports: [{containerPort: 80, hostPort: 8080}]
    readinessProbe: {httpGet: {port: 80, path: /}, periodSeconds: 1}
`,
	"pair": `
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: server
    image: IMAGE/busybox:1
    command: [/bin/busybox, httpd, -f, -p, "127.0.0.1:8000", -h, /shared]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: client
    image: IMAGE/busybox:1
    command: [/bin/busybox, sh, -c, "echo across > /shared/page; until busybox wget -q -O - http://127.0.0.1:8000/page; do busybox sleep 0.2; done; busybox sleep 3600"]
    env: [{name: PATH, value: /bin}]
    volumeMounts: [{name: shared, mountPath: /shared}]
  volumes: [{name: shared, emptyDir: {}}]
`,
	"init": `
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - name: first
    image: IMAGE/busybox:1
    command: [/bin/busybox, sh, -c, "echo prepared > /shared/file"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: IMAGE/busybox:1
    command: [/bin/busybox, sh, -c, "/bin/busybox cat /shared/file; exec /bin/busybox sleep 3600"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  volumes: [{name: shared, emptyDir: {}}]
`,
	// Its first life ends by the probe, its second finds the file that the first left.
	"liveness": `
spec:
  terminationGracePeriodSeconds: 30
  containers:
  - name: main
    image: IMAGE/busybox:1
    command: [/bin/busybox, sh, -c, "trap 'exit 9' TERM; [ -e /shared/again ] && touch /shared/healthy; touch /shared/again; while :; do sleep 0.1; done"]
    env: [{name: PATH, value: /bin}]
    volumeMounts: [{name: shared, mountPath: /shared}]
    livenessProbe: {exec: {command: [/bin/busybox, test, -e, /shared/healthy]}, initialDelaySeconds: 1, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 30}
  volumes: [{name: shared, emptyDir: {}}]
`,
	"oom": `
spec:
  terminationGracePeriodSeconds: 1
  restartPolicy: Never
  containers:
  - name: main
    image: IMAGE/busybox:1
    command: [/bin/busybox, tail, /dev/zero]
    resources: {limits: {memory: 32Mi}}
`,
	"host": `
spec:
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  hostPID: true
  containers:
  - name: main
    image: IMAGE/busybox:1
    command: [/bin/busybox, sh, -c, "/bin/busybox cat /proc/TESTPID/comm; /bin/busybox ip -o -4 addr show e2e0; exec /bin/busybox sleep 3600"]
`,
	"fly": `
  annotations: {rkt.alpha.kubernetes.io/stage1-name-override: coreos.com/rkt/stage1-fly}
spec:
  terminationGracePeriodSeconds: 1
  hostNetwork: true
  hostPID: true
  containers:
  - name: main
    image: IMAGE/busybox:1
    securityContext: {privileged: true}
    command: [/bin/busybox, sh, -c, "/bin/busybox cat /proc/TESTPID/comm; /bin/busybox ls /; exec /bin/busybox sleep 3600"]
`,
	// It takes a second of its grace, to say good-bye.
	"polite": `
spec:
  terminationGracePeriodSeconds: 120
  containers:
  - name: main
    image: IMAGE/busybox:1
    command: [/bin/busybox, sh, -c, "trap 'sleep 1; echo good-bye > /out/polite; exit 0' TERM; echo ready; while :; do sleep 0.1; done"]
    env: [{name: PATH, value: /bin}]
    volumeMounts: [{name: out, mountPath: /out}]
  volumes: [{name: out, hostPath: {path: OUT}}]
`,
	// It does not listen, so it is killed after its grace.
	"stubborn": `
spec:
  terminationGracePeriodSeconds: 2
  containers:
  - name: main
    image: IMAGE/busybox:1
    command: [/bin/busybox, sh, -c, "trap 'echo asked > /out/stubborn' TERM; echo ready; while :; do sleep 0.1; done"]
    env: [{name: PATH, value: /bin}]
    volumeMounts: [{name: out, mountPath: /out}]
  volumes: [{name: out, hostPath: {path: OUT}}]
`,
}

// manifest completes a pod's text.
func manifest(name, text, out string) string {
	text = strings.NewReplacer("IMAGE", registryAddr, "TESTPID", strconv.Itoa(os.Getpid()), "OUT", out).Replace(text)
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata:\n  name: %s\n  namespace: default\n%s", name, strings.TrimPrefix(text, "\n"))
}

// What users run, on one machine: by the real kubelet, from a registry, with each
// isolation; and nothing is left of it in the end.
func TestKindsOfPods(t *testing.T) {
	for _, stage1 := range []string{"nspawn", "lean"} {
		t.Run(stage1, func(t *testing.T) {
			t.Parallel()
			n := newPodNode(t, stage1)
			n.registry.Push("nginx", "1", nginxImage())
			n.kubelet()
			out := shortDir(t)
			for name, text := range podKinds {
				n.apply(name, manifest(name, text, out))
			}

			n.requireNginx()
			n.requireSharing()
			n.requireRestart()
			n.requireOOMKill()
			n.requireHostsView()

			n.requireLog("polite", "main", "ready\n")
			n.requireLog("stubborn", "main", "ready\n")
			for name := range podKinds {
				n.withdraw(name)
			}
			n.waitNothingLeft()
			for name, said := range map[string]string{"polite": "good-bye\n", "stubborn": "asked\n"} {
				b, err := os.ReadFile(out + "/" + name)
				require.NoError(t, err, "%s was not given its grace", name)
				require.Equal(t, said, string(b))
			}
		})
	}
}

func (n *podNode) requireNginx() {
	n.t.Helper()
	p := n.waitPod("nginx", running)
	for _, url := range []string{"http://" + p.Status.PodIP + "/", "http://" + nodeAddress + ":8080/"} {
		status, body, err := n.get(n.t.Context(), url)
		require.NoError(n.t, err, url)
		require.Equal(n.t, http.StatusOK, status, url)
		require.Contains(n.t, body, "Welcome to nginx!", url)
	}
}

func (n *podNode) requireSharing() {
	n.t.Helper()
	n.waitPod("pair", running)
	n.requireLog("pair", "client", "across\n")
	p := n.waitPod("init", running)
	n.requireLog("init", "main", "prepared\n")
	first := p.Status.InitContainerStatuses[0].State.Terminated
	require.NotNil(n.t, first)
	require.Equal(n.t, "Completed", first.Reason)
}

func (n *podNode) requireRestart() {
	n.t.Helper()
	p := n.waitPod("liveness", func(p podState) bool {
		return running(p) && p.Status.ContainerStatuses[0].RestartCount > 0
	})
	require.Equal(n.t, 9, p.Status.ContainerStatuses[0].LastState.Terminated.ExitCode)
	require.Equal(n.t, 1, p.Status.ContainerStatuses[0].RestartCount, "the second one is healthy")
}

func (n *podNode) requireOOMKill() {
	n.t.Helper()
	p := n.waitPod("oom", func(p podState) bool { return p.Status.Phase == "Failed" })
	end := p.Status.ContainerStatuses[0].State.Terminated
	require.Equal(n.t, "OOMKilled", end.Reason)
	require.Equal(n.t, 137, end.ExitCode)
}

func (n *podNode) requireHostsView() {
	n.t.Helper()
	comm, err := os.ReadFile("/proc/self/comm")
	require.NoError(n.t, err)
	n.waitPod("host", running)
	n.requireLog("host", "main", string(comm), "inet "+nodeAddress+"/24")
	n.waitPod("fly", running)
	n.requireLog("fly", "main", string(comm), "bin\n")
}

// requireLog waits until a container's log has all texts.
func (n *podNode) requireLog(pod, container string, texts ...string) {
	n.t.Helper()
	log := ""
	n.waitPod(pod, func(p podState) bool {
		if !running(p) {
			return false
		}
		log = n.logOf(p, container, 0)
		for _, text := range texts {
			if !strings.Contains(log, text) {
				return false
			}
		}
		return true
	})
}
