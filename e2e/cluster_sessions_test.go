package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func testSessions(t *testing.T, n namespace) {
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE
    stdin: true
    command: [sh, -c, "mkdir /www; echo forwarded >/www/index.html; httpd -p 8080 -h /www; while read line; do echo got $line; done"]
    readinessProbe: {httpGet: {port: 8080, path: /}, periodSeconds: 1}
`)
	n.wait(t, "pod/shell", "condition=Ready")
	kubectl := func(args ...string) *exec.Cmd {
		return n.command(t, append([]string{binary(t, "hyperkube"), "kubectl", "--namespace=" + n.name}, args...)...)
	}

	var exit *exec.ExitError
	out, err := kubectl("exec", "shell", "--", "sh", "-c", "echo out; exit 7").Output()
	require.True(t, errors.As(err, &exit), "%v", err)
	require.Equal(t, 7, exit.ExitCode())
	require.Equal(t, "out\n", string(out))
	data := bytes.Repeat([]byte("0123456789abcdef\n"), 1<<16)
	cat := kubectl("exec", "--stdin", "shell", "--", "cat")
	cat.Stdin = bytes.NewReader(data)
	out, err = cat.Output()
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, out), "%d bytes came back of %d", len(out), len(data))

	file, back := filepath.Join(shortDir(t), "file"), filepath.Join(shortDir(t), "back")
	require.NoError(t, os.WriteFile(file, data, 0o644))
	n.kubectl(t, "cp", file, "shell:/tmp/file")
	n.kubectl(t, "cp", "shell:/tmp/file", back)
	copied, err := os.ReadFile(back)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, copied))

	attach := kubectl("attach", "--stdin", "shell")
	stdin, err := attach.StdinPipe()
	require.NoError(t, err)
	stdout, err := attach.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, attach.Start())
	_, err = stdin.Write([]byte("hello\n"))
	require.NoError(t, err)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "got hello\n", line)
	kill(attach)
	require.Equal(t, "0", n.kubectl(t, "get", "pod/shell", "--output=jsonpath={.status.containerStatuses[0].restartCount}"), "it ended with its client")

	forward := kubectl("port-forward", "pod/shell", "--address=127.0.0.1", ":8080")
	stdout, err = forward.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, forward.Start())
	defer kill(forward)
	line, err = bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err)
	address, _, ok := strings.Cut(strings.TrimPrefix(line, "Forwarding from "), " ")
	require.True(t, ok, line)
	require.Equal(t, "forwarded", n.page(t, "http://"+address+"/"))
}

// The kubelet rotates at 10 MiB and looks each ten seconds: the writer goes on
// until its log has been rotated.
func testLogs(t *testing.T, n namespace) {
	host := shortDir(t)
	n.apply(t, strings.ReplaceAll(`
apiVersion: v1
kind: Pod
metadata: {name: writer}
spec:
  restartPolicy: Never
  volumes: [{name: host, hostPath: {path: HOST}}]
  containers:
  - name: main
    image: IMAGE
    command: [sh, -c, "i=0; while test ! -e /host/enough; do seq $i $((i+9999)); i=$((i+10000)); sleep 0.5; done; echo end"]
    volumeMounts: [{name: host, mountPath: /host}]
`, "HOST", host))
	n.eventually(t, "Running", "get", "pod/writer", "--output=jsonpath={.status.phase}")
	follow := n.command(t, binary(t, "hyperkube"), "kubectl", "--namespace="+n.name, "logs", "--follow", "writer")
	stdout, err := follow.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, follow.Start())
	defer kill(follow)
	rotated := make(chan bool, 1)
	var next atomic.Int64 // the line that is awaited
	go func() {
		logs := filepath.Join(n.dir, "log", "pods", n.name+"_writer_*", "main")
		passed := func() bool {
			out, _ := n.command(t, "sh", "-c", "ls "+logs+"; head -n 1 "+logs+"/0.log").Output()
			words := strings.Fields(string(out))
			if strings.Count(string(out), "0.log") < 2 || len(words) == 0 {
				return false
			}
			first, err := strconv.ParseInt(words[len(words)-1], 10, 64) // of the new file
			return err == nil && next.Load() > first
		}
		for deadline := time.Now().Add(clusterPatience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
			// The kubelet lets a follower go from a rotated file to the newest only, and
			// ends one that comes to the end of a file when the container has exited. So
			// the writer is slow, and ends when its follower has passed a rotation.
			if passed() {
				rotated <- true
				break
			}
		}
		close(rotated)
		os.WriteFile(filepath.Join(host, "enough"), nil, 0o644)
	}()
	lines := bufio.NewScanner(stdout)
	for lines.Scan() && lines.Text() != "end" {
		if lines.Text() != strconv.FormatInt(next.Load(), 10) {
			require.FailNow(t, "a line is lost or doubled", "%q instead of %d", lines.Text(), next.Load())
		}
		next.Add(1)
	}
	require.NoError(t, lines.Err())
	require.Equal(t, "end", lines.Text())
	require.True(t, <-rotated, "the log was not rotated")
}

func testSummary(t *testing.T, n namespace) {
	n.apply(t, `
apiVersion: v1
kind: Pod
metadata: {name: busy}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: main, image: IMAGE, command: [sh, -c, "mkdir /www; exec httpd -f -p 8080 -h /www"]}]
`)
	n.wait(t, "pod/busy", "condition=Ready")
	type usage struct{ UsageCoreNanoSeconds, WorkingSetBytes, RxBytes *uint64 }
	var seen string
	require.Eventually(t, func() bool {
		seen = n.kubectl(t, "get", "--raw", "/api/v1/nodes/"+n.node+"/proxy/stats/summary")
		var summary struct {
			Pods []struct {
				PodRef               struct{ Name, Namespace string }
				CPU, Memory, Network usage
				Containers           []struct{ CPU, Memory, Rootfs usage }
			}
		}
		if json.Unmarshal([]byte(seen), &summary) != nil {
			return false
		}
		for _, p := range summary.Pods {
			if p.PodRef.Namespace == n.name && p.PodRef.Name == "busy" {
				return len(p.Containers) == 1 && p.CPU.UsageCoreNanoSeconds != nil && p.Memory.WorkingSetBytes != nil && p.Network.RxBytes != nil &&
					p.Containers[0].CPU.UsageCoreNanoSeconds != nil && p.Containers[0].Memory.WorkingSetBytes != nil
			}
		}
		return false
	}, clusterPatience, 500*time.Millisecond)
	require.Contains(t, seen, `"`+n.node+`"`)
}
