package cri

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// containerdConfig leaves out the snapshotters that are not used and the plugin
// that would make a folder below /opt. Without CAP_SYS_RESOURCE, as in nested
// hosts, no process can be given a lower oom_score_adj.
const containerdConfig = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  disable_tcp_service = true
  restrict_oom_score_adj = true
  disable_apparmor = true
  disable_hugetlb_controller = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = %q
    bin_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
`

// startContainerd starts Debian's containerd with folders of its own.
func startContainerd(cniConf string) (*contender, error) {
	const run = "/run/bench-containerd"
	socket, config := filepath.Join(run, "sock"), filepath.Join(run, "config.toml")
	if err := os.MkdirAll(run, 0o711); err != nil {
		return nil, err
	}
	text := fmt.Sprintf(containerdConfig, filepath.Join(scratch, "containerd"), filepath.Join(run, "state"), socket, pauseImage, cniConf, cniPlugins)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(scratch, "containerd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command("containerd", "--config", config)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	do, err := overSocket(socket)
	if err != nil {
		return nil, err
	}
	return &contender{name: containerd, do: do, socket: socket, agent: cmd.Process.Pid, parent: cgroups + "/containerd"}, nil
}

// overSocket is how to do jobs by a socket, once something listens on it.
func overSocket(path string) (func(job) (*outcome, error), error) {
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := runtimeapi.NewRuntimeServiceClient(conn).Version(ctx, &runtimeapi.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		return nil, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	return func(j job) (*outcome, error) { return j.do(conn) }, nil
}
