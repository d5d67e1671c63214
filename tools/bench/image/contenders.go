package image

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A contender is one way to pull images.
type contender interface {
	name() string
	// open makes a node whose store is new and lies in root, and what it has
	// for the time that it runs in run, which is memory.
	open(root, run string) (node, error)
}

// node is one contender with one store.
type node interface {
	// agent is the process that serves CRI, 0 if there is none that stays.
	agent() int
	// pull starts what it needs through the meter, which watches it.
	pull(m *meter, ref string) error
	close() error
}

// agentNode is a node with a process that stays.
type agentNode struct {
	pid int
	ask func(m *meter, ref string) error
	end func() error
}

func (n *agentNode) agent() int                      { return n.pid }
func (n *agentNode) pull(m *meter, ref string) error { return n.ask(m, ref) }
func (n *agentNode) close() error                    { return n.end() }

// skopeo copies into a store of its own, without a process that stays.
type skopeo struct{}

func (skopeo) name() string { return "skopeo" }

func (skopeo) open(root, run string) (node, error) { return skopeoNode{root, run}, nil }

type skopeoNode struct{ root, run string }

func (skopeoNode) agent() int   { return 0 }
func (skopeoNode) close() error { return nil }

func (n skopeoNode) pull(m *meter, ref string) error {
	to := fmt.Sprintf("containers-storage:[overlay@%s+%s]%s", n.root, n.run, ref)
	cmd := exec.Command("skopeo", "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "docker://"+ref, to)
	cmd.Env = append(os.Environ(), "CONTAINERS_STORAGE_CONF="+os.DevNull)
	return m.run(cmd)
}

// containerd is Debian's, with a configuration and folders of its own.
type containerd struct{}

func (containerd) name() string { return "containerd" }

// containerdConfig leaves out the snapshotters that are not used, and the plugin
// that would make a folder below /opt.
const containerdConfig = `version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.opt"]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    conf_dir = %q
`

func (containerd) open(root, run string) (node, error) {
	at := func(name string) string { return filepath.Join(run, name) }
	config := fmt.Sprintf(containerdConfig, root, at("state"), at("sock"), at("cni"))
	if err := os.WriteFile(at("config.toml"), []byte(config), 0o600); err != nil {
		return nil, err
	}
	var log bytes.Buffer
	cmd := exec.Command("containerd", "--config", at("config.toml"))
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	conn, err := grpc.NewClient("unix://"+at("sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, errors.Join(err, terminate(cmd))
	}
	n := &agentNode{pid: cmd.Process.Pid, end: func() error { return errors.Join(conn.Close(), terminate(cmd)) }}
	images := runtimeapi.NewImageServiceClient(conn)
	n.ask = func(_ *meter, ref string) error {
		_, err := images.PullImage(context.Background(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	if _, err := images.ListImages(ctx, &runtimeapi.ListImagesRequest{}, grpc.WaitForReady(true)); err != nil {
		cerr := n.close() // after it, nobody writes the log
		return nil, errors.Join(fmt.Errorf("start containerd: %w: %s", err, log.String()), cerr)
	}
	return n, nil
}

// terminate ends a program and waits for it, whatever it says at its end.
func terminate(cmd *exec.Cmd) error {
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		return err
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return err
	}
	return nil
}

// installed are the contenders that this machine has, ours first.
func installed(rkt string) (have []contender, missing []string) {
	have = []contender{ours{rkt: rkt}}
	for _, c := range []contender{skopeo{}, containerd{}} {
		if _, err := exec.LookPath(c.name()); err != nil {
			missing = append(missing, c.name())
			continue
		}
		have = append(have, c)
	}
	return have, missing
}

// version is what a contender's program says of itself, in one line.
func version(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return program
	}
	compiler := "an unknown compiler"
	if info, err := buildinfo.ReadFile(path); err == nil {
		compiler = info.GoVersion
	}
	out, err := exec.Command(path, "--version").Output()
	if err != nil {
		return program
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return line + ", built with " + compiler
}
