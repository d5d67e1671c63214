package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const operatorsPod = `
apiVersion: v1
kind: Pod
metadata: {name: ops, namespace: default, labels: {tier: front}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: count
    image: ` + registryAddr + `/busybox:1
    command: ["/bin/busybox", "sh", "-c", "i=0; while true; do echo line $i; i=$((i+1)); /bin/busybox usleep 20000; done"]
    env: [{name: COLOUR, value: green}]
    securityContext: {runAsUser: 1000}
  - name: shell
    image: ` + registryAddr + `/busybox:1
    command: ["/bin/busybox", "sh"]
    stdin: true
    tty: true
  - name: once
    image: ` + registryAddr + `/busybox:1
    command: ["/bin/busybox", "sh", "-c", "echo to stdout; echo to stderr >&2; exec /bin/busybox cat"]
    stdin: true
`

// rkt is the operator's command on the node; args begin with its binary.
func (n *podNode) rkt(args ...string) *exec.Cmd {
	bin := []string{binary(n.t, "rkt")}
	if args[0] == "hyperkube" {
		bin, args = []string{binary(n.t, "hyperkube"), "rkt"}, args[1:]
	}
	return n.command(append(append(bin, "--dir="+n.data), args...)...)
}

// try runs rkt to its end.
func (n *podNode) try(args ...string) (code int, stdout, stderr string) {
	n.t.Helper()
	cmd := n.rkt(args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil {
		require.ErrorAs(n.t, err, &exit)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

// says runs rkt, which must succeed.
func (n *podNode) says(args ...string) string {
	n.t.Helper()
	code, stdout, stderr := n.try(args...)
	require.Equal(n.t, 0, code, "rkt %s: %s", strings.Join(args, " "), stderr)
	return stdout
}

// rktPod is what rkt says of a pod in JSON.
type rktPod struct {
	Name, State string
	Networks    []struct{ NetName, IfName, IP string }
	Apps        []struct{ Name, State, ID string }
}

func (n *podNode) rktPods() (pods []rktPod) {
	n.t.Helper()
	require.NoError(n.t, json.Unmarshal([]byte(n.says("list", "--format=json")), &pods))
	return pods
}

// An operator on the node sees, enters and ends pods with the kubelet up, hanging
// and killed, and by hyperkube as by rkt.
func TestOperatorsCommands(t *testing.T) {
	for _, stage1 := range []string{"lean", "nspawn"} {
		t.Run(stage1, func(t *testing.T) {
			t.Parallel()
			n := newPodNode(t, stage1)
			kubelet := n.kubelet()
			n.apply("ops", operatorsPod)
			p := n.waitPod("ops", running)
			id := n.rktPods()[0].Name
			short := id[:8]

			n.requireViews(p, id)
			n.requireEnter(short)
			n.requireTerminals(short)
			n.requireLogsAcrossRotation(p, short)

			require.NoError(t, kubelet.Process.Signal(syscall.SIGSTOP))
			n.requireViews(p, id)
			n.requireEnter(short)
			code, _, stderr := n.try("rm", short)
			require.Equal(t, 254, code)
			require.Contains(t, stderr, fmt.Sprintf("rm: pod %q is currently running", id))
			require.Equal(t, fmt.Sprintf("%q\n", id), n.says("stop", "--force", short))
			require.NotContains(t, n.supervisors(), id, "its supervisor has ended")
			require.Contains(t, n.says("status", short), "state=exited\n")
			code, _, stderr = n.try("rm", short)
			require.Equal(t, 254, code)
			require.Contains(t, stderr, "rm: the node's engine (the kubelet) holds the pods, but it does not answer")

			// One that goes on sees the end of the pod, and starts another.
			require.NoError(t, kubelet.Process.Signal(syscall.SIGCONT))
			next := ""
			require.Eventually(t, func() bool {
				for _, pod := range n.rktPods() {
					if pod.Name != id && pod.State == "running" {
						next = pod.Name
					}
				}
				return next != ""
			}, 3*time.Minute, 200*time.Millisecond)
			if code, _, stderr := n.try("hyperkube", "rm", id); code != 0 { // unless the kubelet was first
				require.Contains(t, stderr, "no matches found")
			}
			require.NotContains(t, n.says("list", "--full"), id)
			n.waitPod("ops", running)

			kill(kubelet)
			n.requireEnter(next)
			require.Contains(t, n.says("hyperkube", "list"), next[:8])
			require.Equal(t, fmt.Sprintf("%q\n", next), n.says("stop", next))
			require.Contains(t, n.says("status", "--wait=2m", next), "state=exited\n")
			require.Equal(t, fmt.Sprintf("pod %q is already stopped\n", next), n.says("stop", next))
			n.says("rm", next)
			n.says("gc", "--grace-period=0s")
			require.Empty(t, n.leftOfPods())
			require.Equal(t, "[]\n", n.says("list", "--format=json"))
		})
	}
}

// requireViews runs every command that only looks.
func (n *podNode) requireViews(p podState, id string) {
	n.t.Helper()
	t := n.t
	lines := strings.Split(n.says("list"), "\n")
	require.Equal(t, []string{"UUID", "APP", "IMAGE", "NAME", "STATE", "CREATED", "STARTED", "NETWORKS"}, strings.Fields(lines[0]))
	require.Equal(t, []string{id[:8], "count", registryAddr + "/busybox:1", "running"}, strings.Fields(lines[1])[:4])
	require.True(t, strings.HasSuffix(lines[1], "e2e:ip4="+p.Status.PodIP), lines[1])
	require.Equal(t, []string{"NAME", "STATE", "count", "running", "shell", "running", "once", "running"}, strings.Fields(n.says("app", "list", id)))

	status := n.says("hyperkube", "status", "--wait-ready=1m", id[:8])
	require.Contains(t, status, "state=running\n")
	require.Contains(t, status, "networks=e2e:ip4="+p.Status.PodIP+"\n")
	require.Contains(t, status, fmt.Sprintf("pid=%d\n", n.supervisors()[id]))

	var app struct {
		Name, State, ID string
		PID             int
		LogPath         string            `json:"log_path"`
		UserLabels      map[string]string `json:"user_labels"`
	}
	require.NoError(t, json.Unmarshal([]byte(n.says("app", "status", id, "--app=count", "--format=json")), &app))
	require.Equal(t, "running", app.State)
	require.Contains(t, p.Status.ContainerStatuses[0].ContainerID+p.Status.ContainerStatuses[1].ContainerID+p.Status.ContainerStatuses[2].ContainerID, app.ID)
	require.True(t, alive(app.PID))
	require.Equal(t, "ops", app.UserLabels["io.kubernetes.pod.name"][:3])

	var manifest struct {
		Apps []struct {
			Name string
			App  struct {
				Exec []string
				User string
			}
		}
		UserLabels map[string]string
	}
	require.NoError(t, json.Unmarshal([]byte(n.says("cat-manifest", id)), &manifest))
	require.Equal(t, "front", manifest.UserLabels["tier"])
	require.Len(t, manifest.Apps, 3)
	require.Equal(t, "/bin/busybox", manifest.Apps[0].App.Exec[0])
	require.Equal(t, "1000", manifest.Apps[0].App.User)

	require.Contains(t, n.says("attach", "--app=shell", "--mode=list", id), `{"name":"tty-in","domain":"unix","address":"`+n.run+"/pods/"+id+`/supervisor.sock"}`)
	once := n.says("logs", "--app=once", id)
	require.Contains(t, once, "to stdout\n")
	require.Contains(t, once, "to stderr\n")
	require.Len(t, strings.Split(n.says("logs", "--app=count", "--tail=3", id), "\n"), 4)
}

// requireEnter runs commands in an app without a terminal.
func (n *podNode) requireEnter(id string) {
	n.t.Helper()
	t := n.t
	require.Equal(t, "0 / green count\n", n.says("enter", "--app=count", id, "/bin/busybox", "sh", "-c", "echo $(busybox id -u) $PWD $COLOUR $AC_APP_NAME"))
	for _, c := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"--app=count", id, "/bin/busybox", "sh", "-c", "exit 42"}, 42, ""},
		{[]string{"--app=count", id, "/nope"}, 1, `enter: unable to run "/nope": `},
		{[]string{"--app=count", id}, 1, `enter: no command specified, assuming "/bin/bash"`},
		{[]string{"--app=nope", id, "/bin/busybox"}, 6, `enter: cannot find app "nope" in the pod`},
		{[]string{id, "/bin/busybox"}, 254, "enter: unable to determine app name"},
	} {
		code, stdout, stderr := n.try(append([]string{"enter"}, c.args...)...)
		require.Equal(t, c.code, code, stderr)
		require.Contains(t, stderr, c.stderr)
		require.Empty(t, stdout)
	}
	cmd := n.rkt("enter", "--app=count", id, "/bin/busybox", "sh", "-c", "kill -TERM $$")
	require.Error(t, cmd.Run())
	require.Equal(t, syscall.SIGTERM, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(), "rkt ends as the command did")

	cmd = n.rkt("hyperkube", "enter", "--app=count", id, "/bin/busybox", "wc", "-c")
	cmd.Stdin = strings.NewReader(strings.Repeat("x", 1<<20))
	out, err := cmd.Output()
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintln(1<<20), string(out))
}

// terminal is a terminal of the test, with an rkt on its other side.
type terminal struct {
	*os.File
	t     *testing.T
	cmd   *exec.Cmd
	shown *lockedBuffer
}

func (n *podNode) onTerminal(args ...string) *terminal {
	n.t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { master.Close() })
	require.NoError(n.t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	number, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	require.NoError(n.t, err)
	tty, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	require.NoError(n.t, err)
	defer tty.Close()
	require.NoError(n.t, unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 99}))
	tm := &terminal{File: master, t: n.t, cmd: n.rkt(args...), shown: &lockedBuffer{}}
	tm.cmd.Stdin, tm.cmd.Stdout, tm.cmd.Stderr = tty, tty, tty
	tm.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	require.NoError(n.t, tm.cmd.Start())
	n.t.Cleanup(func() { kill(tm.cmd) })
	go func() { // until the command has ended and its terminal is closed
		b := make([]byte, 4096)
		for {
			k, err := master.Read(b)
			tm.shown.Write(b[:k])
			if err != nil {
				return
			}
		}
	}()
	return tm
}

// expect waits until a text is on the screen.
func (tm *terminal) expect(text string) {
	tm.t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !strings.Contains(tm.shown.String(), text) {
		require.True(tm.t, time.Now().Before(deadline), "%q is not on the screen:\n%s", text, tm.shown.String())
		time.Sleep(10 * time.Millisecond)
	}
}

func (tm *terminal) typed(keys string) {
	tm.t.Helper()
	_, err := tm.WriteString(keys)
	require.NoError(tm.t, err)
}

// end waits for the end of the command.
func (tm *terminal) end() int {
	tm.t.Helper()
	done := make(chan error, 1)
	go func() { done <- tm.cmd.Wait() }()
	select {
	case <-done:
		return tm.cmd.ProcessState.ExitCode()
	case <-time.After(time.Minute):
		require.FailNow(tm.t, "rkt does not end", "%s", tm.shown.String())
		return -1
	}
}

// requireTerminals enters and attaches as a person does.
func (n *podNode) requireTerminals(id string) {
	n.t.Helper()
	t := n.t
	tm := n.onTerminal("enter", "--app=count", id, "/bin/busybox", "sh", "-c", "until busybox stty size | busybox grep 33; do busybox usleep 10000; done; read x; echo got $x; busybox stty size; exit 7")
	tm.expect("33 99")
	require.NoError(t, unix.IoctlSetWinsize(int(tm.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 44, Col: 111}))
	n.requireSize(id, "44 111")
	tm.typed("word\r")
	tm.expect("got word\r\n44 111")
	require.Equal(t, 7, tm.end())

	tm = n.onTerminal("enter", "--app=count", id, "/bin/busybox", "sh", "-c", "echo ready; exec busybox sleep 1000")
	tm.expect("ready")
	tm.typed("\x03") // Ctrl-C is the command's
	require.Equal(t, -1, tm.end(), "ended by SIGINT, as the command")

	tm = n.onTerminal("attach", "--app=shell", id)
	tm.typed("echo a$((1+1))b\r")
	tm.expect("a2b")
	tm.typed("\x1d\x1d\x1d")
	require.Equal(t, 0, tm.end())
	require.Equal(t, "running", n.appState(id, "shell"), "it goes on")

	// Through pipes, to the end of what was typed, which this app takes for its end.
	cmd := n.rkt("attach", "--app=once", id)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out := &lockedBuffer{}
	cmd.Stdout = out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { kill(cmd) })
	_, err = in.Write([]byte("hello\n"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return out.String() == "hello\n" }, time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, cmd.Wait(), "leaving is no error")
	require.Equal(t, "running", n.appState(id, "once"))
}

// requireSize waits until the size of the operator's terminal has come to an exec.
func (n *podNode) requireSize(id, size string) {
	n.t.Helper()
	require.Eventually(n.t, func() bool {
		out, err := n.rkt("enter", "--app=count", id, "/bin/busybox", "sh", "-c",
			"for t in /dev/pts/[0-9]*; do busybox stty size < $t; done").Output()
		return err == nil && strings.Contains(string(out), size+"\n")
	}, time.Minute, 50*time.Millisecond)
}

func (n *podNode) appState(id, app string) string {
	n.t.Helper()
	var a struct{ State string }
	require.NoError(n.t, json.Unmarshal([]byte(n.says("app", "status", id, "--app="+app, "--format=json")), &a))
	return a.State
}

// requireLogsAcrossRotation follows a log while it is rotated as the kubelet does it.
func (n *podNode) requireLogsAcrossRotation(p podState, id string) {
	n.t.Helper()
	t := n.t
	cmd := n.rkt("logs", "-f", "--app=count", id)
	out := &lockedBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { kill(cmd) })
	log := filepath.Join(n.logDir(), "pods", "default_"+p.Metadata.Name+"_"+p.Metadata.UID, "count", "0.log")
	for i := range 3 {
		seen := strings.Count(out.String(), "\n")
		require.Eventually(t, func() bool { return strings.Count(out.String(), "\n") > seen+5 }, time.Minute, 10*time.Millisecond)
		require.NoError(t, os.Rename(log, fmt.Sprintf("%s.%d", log, i)))
		var container string
		for _, c := range p.Status.ContainerStatuses {
			if c.Name == "count" {
				_, container, _ = strings.Cut(c.ContainerID, "://")
			}
		}
		_, err := n.cri().ReopenContainerLog(t.Context(), &runtimeapi.ReopenContainerLogRequest{ContainerId: container})
		require.NoError(t, err)
	}
	seen := strings.Count(out.String(), "\n")
	require.Eventually(t, func() bool { return strings.Count(out.String(), "\n") > seen+5 }, time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
	require.NoError(t, cmd.Wait())
	for i, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		require.Equal(t, fmt.Sprintf("line %d", i), line, "none is missing, none is doubled")
	}
}
