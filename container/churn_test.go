package container_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// churn is a process that launches and removes pods until it is killed.
func churn(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "churn:", err)
			os.Exit(1)
		}
	}
	e, s, err := newEngine(dir, os.Getenv("RKTT_BINARY"))
	fail(err)
	ctx := context.Background()
	fail(e.Recover(ctx))
	_, err = e.Collect(ctx)
	fail(err)
	go func() { fail(e.Run(ctx)) }()
	fmt.Println("ready")
	for w, flavor := range []string{"lean", "nspawn", "lean"} {
		go func() {
			for i := 0; ; i++ {
				fail(live(ctx, e, s, pod.Spec{UID: fmt.Sprintf("w%d-%d-%d", w, os.Getpid(), i), Name: "w", Namespace: "n", Flavor: flavor,
					Hostname: "w", CgroupParent: mark, ShmBytes: 1 << 20, LogDir: dir + "/logs"}))
			}
		}()
	}
	select {}
}

// creator is what live needs of the container service.
type creator interface {
	CreateContainer(context.Context, *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error)
	StartContainer(context.Context, *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error)
}

// live leads one pod through its life.
func live(ctx context.Context, e *pod.Engine, s creator, spec pod.Spec) error {
	stays := rand.IntN(3) == 0
	spec.Labels = map[string]string{"stays": fmt.Sprint(stays)}
	id, err := e.Launch(ctx, spec)
	if err != nil {
		return err
	}
	for i := range 2 {
		resp, err := s.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: string(id), Config: &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: fmt.Sprint(i)}, Image: &runtimeapi.ImageSpec{Image: "busybox"},
			Command: []string{"/bin/sleep", "100"},
			Linux: &runtimeapi.LinuxContainerConfig{SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}}},
		}})
		if err != nil {
			return err
		}
		if _, err := s.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: resp.ContainerId}); err != nil {
			return err
		}
	}
	if stays {
		fmt.Println("stays")
		return nil
	}
	if err := e.Stop(ctx, id, 0); err != nil {
		return err
	}
	return e.Remove(ctx, id)
}

func TestEngineKilledAtAnyMomentLeavesNothingUnexplained(t *testing.T) {
	n := newNode(t)
	n.stop()
	binary, err := supervisorBinary()
	require.NoError(t, err)
	const rounds = 8
	for round := range rounds {
		child := exec.Command("/proc/self/exe")
		child.Env = append(os.Environ(), "RKTT_CHURN="+n.dir, "RKTT_BINARY="+binary)
		out, err := child.StdoutPipe()
		require.NoError(t, err)
		var said bytes.Buffer
		child.Stderr = &said
		require.NoError(t, child.Start())
		lines := bufio.NewReader(out)
		line, err := lines.ReadString('\n')
		require.NoError(t, err, "%s", &said)
		require.Equal(t, "ready\n", line)
		if round == rounds-1 { // on a slow machine all others may have been killed before
			line, err = lines.ReadString('\n')
			require.NoError(t, err, "%s", &said)
			require.Equal(t, "stays\n", line)
		}
		time.Sleep(time.Duration(50+rand.IntN(400)) * time.Millisecond) // the moment of the kill
		require.NoError(t, child.Process.Kill())
		require.ErrorContains(t, child.Wait(), "killed", "%s", &said)
	}

	n.start()
	garbage, err := n.engine.Collect(t.Context())

	require.NoError(t, err)
	t.Log("pods left running:", len(n.engine.Pods(nil)), "garbage:", garbage)
	require.NotEmpty(t, n.engine.Pods(nil), "some were left to run")
	for _, p := range n.engine.Pods(nil) {
		if p.Spec.Labels["stays"] == "true" { // others may just be ending
			require.Equal(t, pod.Running, p.State)
			for _, a := range n.engine.Apps(func(a *pod.App) bool { return a.Pod == p.ID && a.State == pod.Running }) {
				require.NoError(t, unix.Kill(a.PID, 0), "what is reported to run does")
			}
		}
		require.NoError(t, n.engine.Remove(t.Context(), p.ID))
	}
	require.Eventually(t, func() bool { // what was cut short is undone by Run
		entries, err := filepath.Glob(n.dir + "/pods/*")
		return err == nil && len(entries) == 0
	}, 30*time.Second, 10*time.Millisecond)
	_, err = n.engine.Collect(t.Context())
	require.NoError(t, err)
}
