package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func testVolumes(t *testing.T, n namespace) {
	n.kubectl(t, "create", "configmap", "settings", "--from-literal=color=red")
	n.kubectl(t, "create", "secret", "generic", "password", "--from-literal=word=open")
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: reader, labels: {mood: good}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "1000000"]
    env:
    - {name: COLOR, valueFrom: {configMapKeyRef: {name: settings, key: color}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    volumeMounts:
    - {name: config, mountPath: /config}
    - {name: secret, mountPath: /secret, readOnly: true}
    - {name: all, mountPath: /all}
    - {name: scratch, mountPath: /scratch}
    - {name: config, mountPath: /one, subPath: color}
  volumes:
  - {name: config, configMap: {name: settings}}
  - {name: secret, secret: {secretName: password, defaultMode: 0400}}
  - name: all
    projected:
      sources:
      - {configMap: {name: settings, items: [{key: color, path: c}]}}
      - {secret: {name: password, items: [{key: word, path: s}]}}
      - {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: scratch, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
`)
	n.wait(t, "pod/reader", "condition=Ready")
	read := []string{"exec", "reader", "--", "sh", "-c", "cat /config/color /secret/word /all/c /all/s /all/labels /one; echo; echo $COLOR $POD"}
	n.eventually(t, "redopenredopenmood=\"good\"red\nred reader", read...)
	require.Equal(t, "refused", n.kubectl(t, "exec", "reader", "--", "sh", "-c", "echo x 2>/dev/null >/secret/word || echo refused"))

	n.kubectl(t, "create", "configmap", "settings-new", "--from-literal=color=blue")
	n.kubectl(t, "patch", "configmap/settings", `--patch={"data":{"color":"blue"}}`)
	n.kubectl(t, "patch", "secret/password", `--patch={"stringData":{"word":"shut"}}`)
	n.kubectl(t, "label", "--overwrite", "pod/reader", "mood=bad") // has the kubelet look at once

	n.eventually(t, "blueshutblueshutmood=\"bad\"red\nred reader", read...)
}

func testInitAndSidecar(t *testing.T, n namespace) {
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: staged}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 5
  volumes: [{name: shared, emptyDir: {}}]
  initContainers:
  - name: first
    image: IMAGE
    command: [sh, -c, "echo first >/shared/log"]
    volumeMounts: [{name: shared, mountPath: /shared}]
  - name: sidecar
    image: IMAGE
    restartPolicy: Always
    command: [sh, -c, "trap 'exit 0' TERM; echo sidecar >>/shared/log; touch /shared/up; while true; do sleep 1; done"]
    startupProbe: {exec: {command: [test, -e, /shared/up]}, periodSeconds: 1, failureThreshold: 120}
    volumeMounts: [{name: shared, mountPath: /shared}]
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "echo main >>/shared/log; cat /shared/log"]
    volumeMounts: [{name: shared, mountPath: /shared}]
`)
	n.wait(t, "pod/staged", "jsonpath={.status.phase}=Succeeded")
	require.Equal(t, "first\nsidecar\nmain", n.kubectl(t, "logs", "staged", "--container=main"))
	require.Equal(t, "Completed Completed", n.kubectl(t, "get", "pod/staged", "--output=jsonpath={.status.initContainerStatuses[*].state.terminated.reason}"))
}

func testProbes(t *testing.T, n namespace) {
	host := shortDir(t)
	n.apply(t, strings.ReplaceAll(`
apiVersion: v1
kind: Pod
metadata: {name: sick}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "1000000"]
    livenessProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 1}
---
apiVersion: v1
kind: Pod
metadata: {name: well}
spec:
  terminationGracePeriodSeconds: 30
  volumes: [{name: host, hostPath: {path: HOST}}]
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "mkdir /www; echo ok >/www/health; exec httpd -f -p 8080 -h /www"]
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 120}
    livenessProbe: {httpGet: {port: 8080, path: /health}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {exec: {command: [test, -e, /host/ready]}, periodSeconds: 1}
    volumeMounts: [{name: host, mountPath: /host}]
    lifecycle:
      postStart: {exec: {command: [touch, /host/started]}}
      preStop: {exec: {command: [sh, -c, "echo stopping >/host/stopped"]}}
`, "HOST", host))
	started := "--output=jsonpath={.status.containerStatuses[0].started} {.status.containerStatuses[0].ready}"
	n.eventually(t, "true false", "get", "pod/well", started)
	require.FileExists(t, filepath.Join(host, "started"))
	require.NoError(t, os.WriteFile(filepath.Join(host, "ready"), nil, 0o644))
	n.wait(t, "pod/well", "condition=Ready")
	require.NoError(t, os.Remove(filepath.Join(host, "ready")))
	n.wait(t, "pod/well", "condition=Ready=false")

	n.kubectl(t, "delete", "pod/well")

	b, err := os.ReadFile(filepath.Join(host, "stopped"))
	require.NoError(t, err)
	require.Equal(t, "stopping\n", string(b))
	require.Eventually(t, func() bool {
		return n.kubectl(t, "get", "pod/sick", "--output=jsonpath={.status.containerStatuses[0].restartCount}") != "0"
	}, clusterPatience, 200*time.Millisecond, "a failing liveness probe restarts nothing")
}

func testEphemeral(t *testing.T, n namespace) {
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: patient}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: IMAGE, command: [sleep, "1234567"]}]
`)
	n.wait(t, "pod/patient", "condition=Ready")

	n.kubectl(t, "debug", "patient", "--image="+registryAddr+"/busybox:1", "--container=doctor", "--target=main", "--profile=general", "--",
		"sh", "-c", "cat /proc/1/cmdline")

	n.eventually(t, "0", "get", "pod/patient", "--output=jsonpath={.status.ephemeralContainerStatuses[0].state.terminated.exitCode}")
	require.Equal(t, "sleep\x001234567\x00", n.kubectl(t, "logs", "patient", "--container=doctor"), "it does not see its target's processes")
}

func testResize(t *testing.T, n namespace) {
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    command: [sleep, "1000000"]
    resources: {requests: {cpu: 10m, memory: 32Mi}, limits: {cpu: 100m, memory: 64Mi}}
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "x=$(head -c 100000000 /dev/zero | cat -v)"]
    resources: {limits: {memory: 32Mi}}
`)
	limits := "--output=jsonpath={.status.containerStatuses[0].resources.limits.cpu} {.status.containerStatuses[0].resources.limits.memory} {.status.containerStatuses[0].restartCount}"
	n.eventually(t, "100m 64Mi 0", "get", "pod/box", limits)

	n.kubectl(t, "patch", "pod/box", "--subresource=resize", `--patch={"spec":{"containers":[{"name":"main","resources":{"limits":{"cpu":"200m","memory":"96Mi"}}}]}}`)

	n.eventually(t, "200m 96Mi 0", "get", "pod/box", limits)
	n.eventually(t, "OOMKilled", "get", "pod/greedy", "--output=jsonpath={.status.containerStatuses[0].state.terminated.reason}")
}

func testToken(t *testing.T, n namespace) {
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: asker}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "cat /var/run/secrets/kubernetes.io/serviceaccount/token"]
`)
	n.wait(t, "pod/asker", "jsonpath={.status.phase}=Succeeded")
	token := n.kubectl(t, "logs", "asker")
	cmd := n.command(t, binary(t, "hyperkube"), "kubectl", "--kubeconfig=/dev/null", "--server=https://"+nodeAddress+":6443", "--certificate-authority="+n.dir+"/pki/ca.crt", "--token="+token, "auth", "whoami", "--output=jsonpath={.status.userInfo.username}")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, "system:serviceaccount:"+n.name+":default", string(out))
	cmd = n.command(t, binary(t, "hyperkube"), "kubectl", "--kubeconfig=/dev/null", "--server=https://"+nodeAddress+":6443", "--certificate-authority="+n.dir+"/pki/ca.crt", "--token="+token, "get", "pods")
	out, err = cmd.CombinedOutput()
	require.Error(t, err, "RBAC is off")
	require.Contains(t, string(out), "Forbidden")
}
