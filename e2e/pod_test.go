package e2e

import (
	"archive/tar"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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
}

const podSubnet = "10.88.7"

func newPodNode(t *testing.T, stage1 string) *podNode {
	t.Helper()
	n := &podNode{t: t, dir: shortDir(t), data: dataDir(t)}
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
	n.args = append(kubeletArgs(t, "staticPodPath: "+n.manifest, "fileCheckFrequency: 1s", "syncFrequency: 2s", "readOnlyPort: 10255"),
		"--container-runtime=rkt", "--rkt-dir="+n.data, "--rkt-stage1-image="+stage1, "--cni-conf-dir="+conf, "--cni-bin-dir=/usr/lib/cni")
	n.process = isolated(t, "/bin/sleep", "infinity")
	// The namespaces are ready when the holder has become what it is.
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", n.Process.Pid))
		return err == nil && string(b) == "sleep\n"
	}, 30*time.Second, 5*time.Millisecond)
	reg := registrytest.New(t)
	n.serve(t, registryAddr, reg.Server.Config.Handler)
	reg.Push("busybox", "1", registrytest.Image{Layers: []registrytest.Layer{{Tar: func(w *tar.Writer) error {
		b, err := os.ReadFile("/bin/busybox")
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
			return err
		}
		_, err = w.Write(b)
		return err
	}}}})
	return n
}

// kubelet starts one on the machine; pods stay when it ends.
func (n *podNode) kubelet() *exec.Cmd {
	n.t.Helper()
	args := append([]string{"-t", strconv.Itoa(n.Process.Pid), "-m", "-n", "--", binary(n.t, "hyperkube"), "kubelet"}, n.args...)
	k := exec.Command("nsenter", args...)
	k.Stdout, k.Stderr = n.output, n.output
	require.NoError(n.t, k.Start())
	n.t.Cleanup(func() {
		k.Process.Kill()
		k.Wait()
	})
	n.waitHealthy(n.t)
	return k
}

// podState is what the kubelet's API says of a pod.
type podState struct {
	Status struct {
		PodIP             string
		StartTime         string
		ContainerStatuses []struct {
			Ready        bool
			RestartCount int
			ContainerID  string
			State        struct{ Running *struct{ StartedAt string } }
		}
	}
}

// pod waits until the only pod is ready, and gives what the kubelet says of it.
func (n *podNode) waitReady() (p podState) {
	n.t.Helper()
	require.Eventually(n.t, func() bool {
		_, body, err := n.get(n.t.Context(), "http://127.0.0.1:10255/pods")
		var list struct{ Items []podState }
		if err != nil || json.Unmarshal([]byte(body), &list) != nil || len(list.Items) != 1 {
			return false
		}
		p = list.Items[0]
		return len(p.Status.ContainerStatuses) == 1 && p.Status.ContainerStatuses[0].Ready
	}, time.Minute, 100*time.Millisecond, "no ready pod:\n%s", n.output.tail(4000))
	return p
}

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
			require.NoError(t, os.WriteFile(filepath.Join(n.manifest, "web.yaml"), []byte(webPod), 0o644))
			before := n.waitReady()
			require.True(t, strings.HasPrefix(before.Status.PodIP, podSubnet+"."), before.Status.PodIP)
			for _, url := range []string{"http://" + before.Status.PodIP + "/", "http://192.0.2.2:8081/"} {
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
			after := n.waitReady()
			require.Equal(t, before.Status.ContainerStatuses, after.Status.ContainerStatuses)
			require.Equal(t, before.Status.PodIP, after.Status.PodIP)

			require.NoError(t, os.Remove(filepath.Join(n.manifest, "web.yaml")))
			// The kubelet removes what has ended once a minute.
			for deadline := time.Now().Add(3 * time.Minute); len(n.leftOfPods()) > 0 && time.Now().Before(deadline); {
				time.Sleep(100 * time.Millisecond)
			}
			require.Empty(t, n.leftOfPods())
		})
	}
}

// leftOfPods lists processes, records, mounts and addresses that pods have.
func (n *podNode) leftOfPods() (left []string) {
	for _, pattern := range []string{n.dir + "/ipam/e2e/10.*", n.data + "/pods/*-*", n.run + "/pods/*", n.run + "/cni/*-*"} {
		found, _ := filepath.Glob(pattern)
		left = append(left, found...)
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", n.Process.Pid))
	require.NoError(n.t, err)
	for _, line := range strings.Split(string(mounts), "\n") {
		if strings.Contains(line, n.data+"/") || strings.Contains(line, n.run+"/") {
			left = append(left, line)
		}
	}
	for _, h := range hierarchies() {
		filepath.WalkDir(h, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "k8s_") && strings.Contains(path, cgroupPrefix+strconv.Itoa(os.Getpid())) {
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
