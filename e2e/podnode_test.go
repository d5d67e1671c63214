package e2e

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/registrytest"
	"github.com/rktnetes/rktshim/internal/rundir"
)

// podNode is a machine of the test's own: namespaces that outlive its kubelets,
// with a bridge network and a registry.
type podNode struct {
	*process      // holds the namespaces
	t             *testing.T
	args          []string
	dir, manifest string
	data, run     string // --rkt-dir, and the run folder that belongs to it
	registry      *registrytest.Registry
	env           []string // of commands; nil: the test's own
	hyperkube     string   // path of the binary
}

const podSubnet = "10.88.7"

// nodeAddress is what hostPorts of a podNode are reached at.
const nodeAddress = "192.0.2.2"

func newPodNode(t *testing.T, stage1 string, moreConfig ...string) *podNode {
	t.Helper()
	n := &podNode{t: t, dir: shortDir(t), data: dataDir(t), hyperkube: binary(t, "hyperkube")}
	var err error
	n.run, err = rundir.Of(n.data)
	require.NoError(t, err)
	n.manifest = filepath.Join(n.dir, "manifests")
	conf := filepath.Join(n.dir, "cni")
	for _, d := range []string{n.manifest, conf} {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(conf, "10-e2e.conflist"), []byte(`{"cniVersion":"1.0.0","name":"e2e","plugins":[
		{"type":"bridge","bridge":"cni0","isGateway":true,"ipam":{"type":"host-local","dataDir":"`+n.dir+`/ipam","routes":[{"dst":"0.0.0.0/0"}],"ranges":[[{"subnet":"`+podSubnet+`.0/24"}]]}},
		{"type":"portmap","capabilities":{"portMappings":true}}]}`), 0o644))
	config := append([]string{"staticPodPath: " + n.manifest, "fileCheckFrequency: 1s", "syncFrequency: 2s", "readOnlyPort: 10255"}, moreConfig...)
	n.args = append(kubeletArgs(t, config...),
		"--container-runtime=rkt", "--rkt-dir="+n.data, "--rkt-stage1-image="+stage1, "--rkt-cri-socket="+n.criSocket(), "--cni-conf-dir="+conf, "--cni-bin-dir=/usr/lib/cni")
	n.process = holder(t)
	n.registry = registrytest.New(t)
	n.serve(t, registryAddr, n.registry.Server.Config.Handler)
	n.registry.Push("busybox", "1", registrytest.Image{Layers: []registrytest.Layer{{Tar: func(w *tar.Writer) error { return addFile(w, "/bin/busybox") }}}})
	return n
}

// kubelet starts one on the machine; pods stay when it ends.
func (n *podNode) kubelet() *exec.Cmd {
	n.t.Helper()
	k := n.startKubelet()
	n.waitHealthy(n.t)
	return k
}

// startKubelet is kubelet for who does not wait until it is healthy.
func (n *podNode) startKubelet() *exec.Cmd {
	n.t.Helper()
	k := n.command(append([]string{n.hyperkube, "kubelet"}, n.args...)...)
	k.Stdout, k.Stderr = n.output, n.output
	require.NoError(n.t, k.Start())
	n.t.Cleanup(func() { kill(k) })
	return k
}

// kill ends a command as kill -9 does; one that has ended is left alone.
func kill(k *exec.Cmd) {
	k.Process.Kill()
	k.Wait()
}

// command is one that runs on the machine.
func (n *podNode) command(argv ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(n.Process.Pid), "-m", "-n", "--"}, argv...)...)
	cmd.Env = n.env
	return cmd
}

func (n *podNode) criSocket() string { return filepath.Join(n.dir, "cri.sock") }

// cri is a client of the CRI socket of whatever kubelet runs: it tries again at once
// after one was killed, whose socket refuses, but gives one that lives its time.
func (n *podNode) cri(opts ...grpc.DialOption) runtimeapi.RuntimeServiceClient {
	n.t.Helper()
	retry := grpc.ConnectParams{
		Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1, MaxDelay: 50 * time.Millisecond},
		MinConnectTimeout: patience(time.Minute), // left out it is the 50 ms above
	}
	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(retry)}, opts...)
	conn, err := grpc.NewClient("unix://"+n.criSocket(), opts...)
	require.NoError(n.t, err)
	n.t.Cleanup(func() { conn.Close() })
	return runtimeapi.NewRuntimeServiceClient(conn)
}

// apply gives the kubelet the manifest of a pod, whole at once.
func (n *podNode) apply(name, text string) {
	n.t.Helper()
	tmp := filepath.Join(n.dir, "."+name)
	require.NoError(n.t, os.WriteFile(tmp, []byte(text), 0o644))
	require.NoError(n.t, os.Rename(tmp, n.manifestOf(name)))
}

// withdraw takes a pod's manifest away.
func (n *podNode) withdraw(name string) {
	n.t.Helper()
	require.NoError(n.t, os.Remove(n.manifestOf(name)))
}

func (n *podNode) manifestOf(name string) string { return filepath.Join(n.manifest, name+".yaml") }

// podState is what the kubelet's API says of a pod.
type podState struct {
	Metadata struct{ Name, UID string }
	Status   struct {
		Phase, PodIP, StartTime                  string
		InitContainerStatuses, ContainerStatuses []containerState
	}
}

type containerState struct {
	Name             string
	Ready            bool
	RestartCount     int
	ContainerID      string
	State, LastState struct {
		Running    *struct{ StartedAt string }
		Terminated *struct {
			ExitCode          int
			Reason, StartedAt string
		}
	}
}

// running says whether all containers of a pod are ready.
func running(p podState) bool {
	notReady := func(c containerState) bool { return !c.Ready }
	return len(p.Status.ContainerStatuses) > 0 && !slices.ContainsFunc(p.Status.ContainerStatuses, notReady)
}

// pods asks the kubelet's API; ok is false if it does not answer.
func (n *podNode) pods() (list []podState, ok bool) {
	_, body, err := n.get(n.t.Context(), "http://127.0.0.1:10255/pods")
	var answer struct{ Items []podState }
	if err != nil || json.Unmarshal([]byte(body), &answer) != nil {
		return nil, false
	}
	return answer.Items, true
}

// waitPod waits until the kubelet's API says of a pod what is asked for. The name of
// a static pod ends in its node's.
func (n *podNode) waitPod(name string, is func(podState) bool) podState {
	n.t.Helper()
	var p podState
	for deadline := time.Now().Add(patience(3 * time.Minute)); ; time.Sleep(100 * time.Millisecond) {
		list, _ := n.pods()
		i := slices.IndexFunc(list, func(p podState) bool { return strings.HasPrefix(p.Metadata.Name, name+"-") })
		if i >= 0 {
			if p = list[i]; is(p) {
				return p
			}
		}
		if time.Now().After(deadline) {
			said, _ := json.Marshal(p)
			require.FailNow(n.t, "pod "+name+" is not as expected", "%s", said)
		}
	}
}

// logOf reads a container's log of one attempt: the messages of whole lines.
func (n *podNode) logOf(p podState, container string, attempt int) string {
	n.t.Helper()
	file := fmt.Sprintf("%s/pods/default_%s_%s/%s/%d.log", n.logDir(), p.Metadata.Name, p.Metadata.UID, container, attempt)
	b, err := os.ReadFile(file)
	require.NoError(n.t, err)
	return messages(n.t, string(b))
}

// logDir is where kubeletArgs has the logs of pods.
func (n *podNode) logDir() string {
	for _, arg := range n.args {
		if file, ok := strings.CutPrefix(arg, "--config="); ok {
			return filepath.Dir(file)
		}
	}
	panic("no --config among the kubelet's arguments")
}

// messages are what was written to a CRI log.
func messages(t *testing.T, log string) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.Lines(log) {
		fields := strings.SplitN(line, " ", 4) // time, stream, P or F, text
		require.Len(t, fields, 4, "%q is no line of a log", line)
		text := fields[3]
		if fields[2] == "P" {
			text = strings.TrimSuffix(text, "\n")
		}
		out.WriteString(text)
	}
	return out.String()
}

// supervisors lists the processes that supervise the machine's pods, by the pod's id.
func (n *podNode) supervisors() map[string]int {
	found := map[string]int{}
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f) // nothing, if it has ended
		argv := strings.Split(string(b), "\x00")
		if len(argv) < 3 || !strings.HasPrefix(filepath.Base(argv[0]), "rkt-supervisor") || filepath.Dir(argv[1]) != n.data+"/pods" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		if err == nil && alive(pid) {
			found[filepath.Base(argv[1])] = pid
		}
	}
	return found
}

// waitNothingLeft waits until no pod is left; the kubelet removes what has ended
// once a minute.
func (n *podNode) waitNothingLeft() {
	n.t.Helper()
	for deadline := time.Now().Add(patience(5 * time.Minute)); len(n.leftOfPods()) > 0 && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
	}
	require.Empty(n.t, n.leftOfPods())
}

// mountsOfPods lists what is mounted below the machine's data and run folders, the
// innermost first, as /proc/<pid>/mountinfo has it.
func (n *podNode) mountsOfPods() (lines []string) {
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.Process.Pid))
	require.NoError(n.t, err)
	for _, line := range slices.Backward(strings.Split(string(mounts), "\n")) {
		if strings.Contains(line, n.data+"/") || strings.Contains(line, n.run+"/") {
			lines = append(lines, line)
		}
	}
	return lines
}

// leftOfPods lists processes, records, mounts, namespaces, cgroups and addresses
// that pods have.
func (n *podNode) leftOfPods() (left []string) {
	for id, pid := range n.supervisors() {
		left = append(left, fmt.Sprintf("process %d, the supervisor of %s", pid, id))
	}
	for _, pattern := range []string{n.dir + "/ipam/e2e/10.*", n.data + "/pods/*-*", n.run + "/pods/*", n.run + "/netns/*", n.run + "/cni/*-*"} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	left = append(left, n.mountsOfPods()...)
	for _, h := range hierarchies() {
		filepath.WalkDir(h, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "k8s_") && strings.Contains(path, "/"+cgroupName(n.t)+"/") {
				left = append(left, path)
			}
			return nil
		})
	}
	return left
}

// killCgroups ends what lives in a test's cgroup: pods, which outlive kubelets.
func killCgroups(name string) {
	for range 100 {
		alive := false
		for _, h := range hierarchies() {
			filepath.WalkDir(filepath.Join(h, name), func(path string, d os.DirEntry, err error) error {
				if err != nil || !d.IsDir() {
					return nil
				}
				b, _ := os.ReadFile(filepath.Join(path, "cgroup.procs"))
				for _, s := range strings.Fields(string(b)) {
					if pid, err := strconv.Atoi(s); err == nil && pid > 0 {
						alive = true
						syscall.Kill(pid, syscall.SIGKILL)
					}
				}
				return nil
			})
		}
		if !alive {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}
