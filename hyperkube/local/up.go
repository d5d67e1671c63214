package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"sigs.k8s.io/yaml"
)

// healthURL is where the kubelet says whether it, and the runtime in it, live.
const healthURL = "http://127.0.0.1:10248/healthz"

// startPatience is how long the kubelet may take to become healthy.
const startPatience = time.Minute

// stopPatience is how long the kubelet may take to end before it is killed.
const stopPatience = 15 * time.Second

// NewUpCommand makes the command local-up.
func NewUpCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "local-up",
		Short: "start a node on this machine",
		Long: "Local-up starts a standalone kubelet with the runtime in its process, waits until\n" +
			"it is healthy and returns; the node goes on in the background until local-down.",
		Example:      "  hyperkube local-up\n  hyperkube local-up --foreground --dir=/srv/node",
		Args:         cobra.NoArgs,
		SilenceUsage: true,
	}
	get := dirFlag(cmd)
	foreground := cmd.Flags().Bool("foreground", false, "stay until interrupted, and stop the node then")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		n, err := get()
		if err != nil {
			return err
		}
		if *foreground {
			return n.up(cmd.Context(), cmd.OutOrStdout())
		}
		return n.upInBackground(cmd.OutOrStdout())
	}
	return cmd
}

// upInBackground starts local-up --foreground as a process of its own and shows
// its progress until the node is healthy or has failed.
func (n node) upInBackground(out io.Writer) error {
	if err := n.claim(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(n.upLog()), 0o755); err != nil {
		return err
	}
	log, err := os.OpenFile(n.upLog(), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	before, err := log.Stat()
	if err != nil {
		return err
	}
	progress, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer progress.Close()
	self := exec.Command("/proc/self/exe", "local-up", "--foreground", "--dir="+n.dir)
	self.Env = append(os.Environ(), progressEnv+"=1")
	self.Stdout, self.Stderr, self.ExtraFiles = log, log, []*os.File{theirs}
	self.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := self.Start(); err != nil {
		return err
	}
	theirs.Close()
	ready := false
	for s := bufio.NewScanner(progress); s.Scan(); {
		if s.Text() == readyLine {
			ready = true
			break
		}
		fmt.Fprintln(out, s.Text())
	}
	if ready {
		return self.Process.Release()
	}
	if err := self.Wait(); err != nil {
		said, _ := io.ReadAll(io.NewSectionReader(log, before.Size(), 64<<10))
		return errors.New(strings.TrimPrefix(strings.TrimSpace(string(said)), "local-up: "))
	}
	return nil
}

// A local-up with progressEnv set shows its progress on the descriptor progressFD,
// to the one that started it; readyLine is the last line there.
const (
	progressEnv = "RKTSHIM_LOCAL_PROGRESS"
	progressFD  = 3
	readyLine   = "\x00ready"
)

// up runs the node until ctx ends, a signal comes, or the kubelet dies.
func (n node) up(ctx context.Context, out io.Writer) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM)
	defer stop()
	if err := n.claim(); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(n.kubeletLog()), 0o755); err != nil {
		return err
	}
	lock, err := n.lock()
	if errors.Is(err, errRunning) {
		return fmt.Errorf("a node runs in %s already; hyperkube local-down --dir=%s stops it", n.dir, n.dir)
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := errors.Join(lock.Truncate(0), writePid(lock)); err != nil {
		return err
	}
	if err := errors.Join(n.endKubelet(ctx), portsAreFree()); err != nil {
		return err
	}
	p := newProgress(out)
	defer p.close()
	k, err := n.startKubelet(p)
	if err != nil {
		return err
	}
	defer k.stop()
	if err := n.waitHealthy(ctx, p, k); err != nil {
		return err
	}
	p.say("\nThe kubelet runs on the runtime in its own process, in memory: no socket between them.\n"+
		"  health    curl %s\n  kubelet   %s\n  crictl    crictl --runtime-endpoint unix://%s version\n  stop it   hyperkube local-down --dir=%s   (or: make down)",
		healthURL, n.kubeletLog(), n.criSocket(), n.dir)
	p.ready()
	select {
	case <-ctx.Done():
		return nil
	case <-k.exited:
		return n.died(k)
	}
}

func writePid(f *os.File) error {
	_, err := f.WriteAt([]byte(fmt.Sprintln(os.Getpid())), 0)
	return err
}

func (n node) died(k *child) error {
	return fmt.Errorf("the kubelet ended with exit code %d; the end of %s:\n%s", k.cmd.ProcessState.ExitCode(), n.kubeletLog(), tail(n.kubeletLog(), 20))
}

func (n node) startKubelet(p *progress) (*child, error) {
	done := p.step("configure the kubelet in " + n.dir)
	if err := n.noteKubeletDir(); err != nil {
		return nil, err
	}
	if err := makeCgroups(n.cgroup()); err != nil {
		return nil, fmt.Errorf("make the cgroup %s: %w", n.cgroup(), err)
	}
	config, err := n.kubeletConfig()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(n.config(), config, 0o600); err != nil {
		return nil, err
	}
	done()
	done = p.step("start the kubelet")
	k, err := startChild(n.kubeletLog(), "kubelet",
		"--container-runtime=rkt", "--config="+n.config(), "--root-dir="+n.dir+"/kubelet", "--cert-dir="+n.dir+"/pki",
		"--rkt-dir="+n.rktDir(), "--rkt-cri-socket="+n.criSocket())
	if err != nil {
		return nil, fmt.Errorf("start the kubelet: %w", err)
	}
	if err := n.noteKubelet(k.cmd.Process.Pid); err != nil {
		k.stop()
		return nil, err
	}
	done()
	return k, nil
}

// kubeletConfig is the configuration of a standalone kubelet: no API server, pods
// from files.
func (n node) kubeletConfig() ([]byte, error) {
	return yaml.Marshal(map[string]any{
		"apiVersion":      "kubelet.config.k8s.io/v1beta1",
		"kind":            "KubeletConfiguration",
		"staticPodPath":   filepath.Join(n.dir, "manifests"),
		"podLogsDir":      filepath.Join(n.dir, "log", "pods"),
		"volumePluginDir": filepath.Join(n.dir, "volume-plugins"),
		"cgroupRoot":      "/" + n.cgroup(),
		"failCgroupV1":    false,
		"failSwapOn":      false,
		// Chains for kube-proxy, of which there is none: they would outlive the node.
		"makeIPTablesUtilChains": false,
		"authentication":         map[string]any{"anonymous": map[string]any{"enabled": false}, "webhook": map[string]any{"enabled": false}},
		"authorization":          map[string]any{"mode": "AlwaysAllow"},
		"address":                "127.0.0.1",
	})
}

// portsAreFree refuses a machine on which another kubelet runs: its answers would
// be taken for ours.
func portsAreFree() error {
	for _, port := range []string{"10248", "10250"} {
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return fmt.Errorf("the kubelet's port %s is taken, by another kubelet or another node of local-up: stop that first: %w", port, err)
		}
		l.Close()
	}
	return nil
}

func (n node) waitHealthy(ctx context.Context, p *progress, k *child) error {
	done := p.step("wait until it is healthy (" + healthURL + ")")
	ctx, cancel := context.WithTimeoutCause(ctx, startPatience, fmt.Errorf("the kubelet is not healthy after %s; see %s", startPatience, n.kubeletLog()))
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !healthy(ctx) {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-k.exited:
			return n.died(k)
		case <-tick.C:
		}
	}
	select {
	case <-k.exited: // another kubelet answered on the port
		return n.died(k)
	default:
	}
	done()
	return nil
}

func healthy(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, healthURL, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// child is a component of the node: this binary under another name.
type child struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed when it has been waited for
}

// startChild starts a component with its output in a file. It is told to end if
// this process dies.
func startChild(logFile, name string, args ...string) (*child, error) {
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c := &child{cmd: exec.Command("/proc/self/exe", append([]string{name}, args...)...), exited: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr = log, log
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGTERM}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // the parent, to Pdeathsig, is the thread
		defer runtime.UnlockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.cmd.Wait()
			close(c.exited)
		}
	}()
	return c, <-started
}

// stop ends the component, by force if it takes too long, and waits for it.
func (c *child) stop() {
	c.cmd.Process.Signal(unix.SIGTERM)
	select {
	case <-c.exited:
	case <-time.After(stopPatience):
		c.cmd.Process.Kill()
		<-c.exited
	}
}
