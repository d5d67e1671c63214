package e2e

import (
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sleeperPod stays where it is put.
const sleeperPod = `
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: IMAGE/busybox:1
    command: [/bin/busybox, sh, -c, "echo up; exec /bin/busybox sleep 36000"]
`

// The rows of architecture.md's failure model that take a whole node: a supervisor
// that is killed, and a reboot.
func TestPodsAfterFaults(t *testing.T) {
	for _, stage1 := range []string{"nspawn", "lean"} {
		t.Run(stage1, func(t *testing.T) {
			t.Parallel()
			n := newPodNode(t, stage1)
			k := n.kubelet()
			n.apply("web", webPod)
			n.apply("other", manifest("other", sleeperPod, ""))
			web, other := n.waitPod("web", running), n.waitPod("other", running)

			n.killSupervisorOf("web")
			n.requireReplaced(web, "web")
			require.Equal(t, other, n.waitPod("other", running), "no other pod notices")

			before := n.waitPod("web", running)
			n.reboot(k)
			n.kubelet()
			n.requireReplaced(before, "web")
			n.requireReplaced(other, "other")

			n.withdraw("web")
			n.withdraw("other")
			n.waitNothingLeft()
		})
	}
}

// killSupervisorOf kills the supervisor of a pod and waits until the pod has ended
// by that: NOTREADY, its container exited, its network released.
func (n *podNode) killSupervisorOf(name string) {
	n.t.Helper()
	cri := n.cri()
	list, err := cri.ListPodSandbox(n.t.Context(), &runtimeapi.ListPodSandboxRequest{})
	require.NoError(n.t, err)
	var id string
	for _, s := range list.Items {
		if strings.HasPrefix(s.Metadata.Name, name+"-") {
			id = s.Id
		}
	}
	require.NotEmpty(n.t, id)
	containers, err := cri.ListContainers(n.t.Context(), &runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{PodSandboxId: id}})
	require.NoError(n.t, err)
	require.Len(n.t, containers.Containers, 1)
	require.NoError(n.t, unix.Kill(n.supervisors()[id], unix.SIGKILL))

	n.eventually("the sandbox is NOTREADY, or removed already", func() bool {
		s, err := cri.PodSandboxStatus(n.t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: id})
		return err != nil || s.Status.State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	})
	st, err := cri.ContainerStatus(n.t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: containers.Containers[0].Id})
	if err == nil {
		require.Equal(n.t, runtimeapi.ContainerState_CONTAINER_EXITED, st.Status.State)
		require.Equal(n.t, int32(137), st.Status.ExitCode)
	}
	n.eventually("its network is released", func() bool {
		_, err := os.Lstat(n.run + "/netns/rkt-" + id)
		return os.IsNotExist(err)
	})
}

// eventually waits a few minutes at most.
func (n *podNode) eventually(what string, is func() bool) {
	n.t.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !is(); time.Sleep(50 * time.Millisecond) {
		require.True(n.t, time.Now().Before(deadline), what)
	}
}

// requireReplaced waits until a pod runs anew: once, in another container.
func (n *podNode) requireReplaced(old podState, name string) {
	n.t.Helper()
	p := n.waitPod(name, func(p podState) bool {
		return running(p) && p.Status.ContainerStatuses[0].ContainerID != old.Status.ContainerStatuses[0].ContainerID
	})
	require.Equal(n.t, old.Metadata.UID, p.Metadata.UID)
	if name == "web" {
		n.eventually("the web answers again", func() bool {
			status, body, err := n.get(n.t.Context(), "http://"+p.Status.PodIP+"/")
			return err == nil && status == http.StatusOK && body == "a page\n"
		})
	}
	leases, err := filepath.Glob(n.dir + "/ipam/e2e/10.*")
	require.NoError(n.t, err)
	require.LessOrEqual(n.t, len(leases), 2, "addresses of what has ended are free again")
}

// reboot does to the machine what a power cut does: nothing runs, and nothing is
// left but the disk. What is mounted, and /run, are gone.
func (n *podNode) reboot(k *exec.Cmd) {
	n.t.Helper()
	kill(k)
	killCgroups(cgroupName(n.t))
	n.eventually("the pods' cgroups are gone", n.removeCgroupsOfPods)
	n.eventually("all supervisors are dead", func() bool { return len(n.supervisors()) == 0 })
	for _, line := range n.mountsOfPods() {
		at := strings.Fields(line)[4]
		require.NoError(n.t, n.command("umount", "-l", at).Run(), at)
	}
	require.NoError(n.t, os.RemoveAll(n.run))
	require.NoError(n.t, n.command("ip", "link", "del", "cni0").Run())
}

// removeCgroupsOfPods says whether there are none any more.
func (n *podNode) removeCgroupsOfPods() bool {
	var dirs []string
	for _, h := range hierarchies() {
		root := filepath.Join(h, cgroupName(n.t))
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && path != root {
				dirs = append(dirs, path)
			}
			return nil
		})
	}
	gone := true
	for _, dir := range slices.Backward(dirs) {
		gone = os.Remove(dir) == nil && gone
	}
	return gone
}
