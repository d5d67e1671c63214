package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A test's kubelet runs in its own mount and network namespaces and below its
// own cgroup, so that it neither sees nor changes the machine's.

// cgroupPrefix names the cgroups of tests; the pid of the test binary follows.
const cgroupPrefix = "rktshim-e2e-"

// insideEnv, when set, makes the test binary prepare the namespaces that it was
// started in and become the command in its arguments.
const insideEnv = "RKTSHIM_E2E_INSIDE"

// kubeletDir and containerLinks are paths that every kubelet writes to, whatever its
// --root-dir, and containersDir one that tells how registries are reached. Isolated
// processes have their own.
const (
	kubeletDir     = "/var/lib/kubelet"
	containerLinks = "/var/log/containers"
	containersDir  = "/etc/containers"
)

// registriesConf makes the registries that tests serve known as plain http.
const registriesConf = "[[registry]]\nlocation = \"127.0.0.1:5000\"\ninsecure = true\n"

func TestMain(m *testing.M) {
	if os.Getenv(insideEnv) != "" {
		fmt.Fprintln(os.Stderr, "e2e:", becomeCommand(os.Args[1:]))
		os.Exit(125)
	}
	var lacked []string // mount points that isolated needs and this machine lacks
	for _, dir := range []string{kubeletDir, containerLinks, containersDir} {
		if err := os.Mkdir(dir, 0o755); err == nil {
			lacked = append(lacked, dir)
		}
	}
	os.Setenv(runEnv, strconv.Itoa(os.Getpid()))
	sweep()
	code := m.Run()
	if left := leftOnMachine(); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "--- FAIL: the tests have left on this machine:\n    %s\n", strings.Join(left, "\n    "))
		code = max(code, 1)
	}
	sweep()
	for _, dir := range lacked {
		os.Remove(dir)
	}
	os.Exit(code)
}

// becomeCommand runs in new namespaces, or on a machine of the tests' own, and gives
// them private mounts, a kubeletDir, containerLinks and containersDir of their own, and
// a network with loopback and a default route, without which the kubelet finds no node
// address.
func becomeCommand(argv []string) error {
	if os.Getenv(machineEnv) == "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make mounts private: %w", err)
		}
		for _, dir := range []string{kubeletDir, containerLinks, containersDir} {
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
				return fmt.Errorf("mount a tmpfs over %s: %w", dir, err)
			}
		}
	}
	if err := os.WriteFile(containersDir+"/registries.conf", []byte(registriesConf), 0o644); err != nil {
		return err
	}
	if _, err := net.InterfaceByName("e2e0"); err == nil { // of an earlier test on the same machine
		return becomeArgv(argv)
	}
	for _, c := range []string{
		"link set lo up", "link add e2e0 type veth peer name e2e1", "addr add 192.0.2.2/24 dev e2e0",
		"link set e2e0 up", "link set e2e1 up", "route add default via 192.0.2.1",
	} {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	return becomeArgv(argv)
}

func becomeArgv(argv []string) error {
	os.Unsetenv(insideEnv)
	return unix.Exec(argv[0], argv, os.Environ())
}

// slowEnv, when set, says that the machine is emulated.
const slowEnv = "RKTSHIM_E2E_SLOW"

// patience is for how long something is waited for that takes a fraction of d.
func patience(d time.Duration) time.Duration {
	if os.Getenv(slowEnv) != "" {
		return 5 * d
	}
	return d
}

// process is a command of a test in namespaces of its own.
type process struct {
	*exec.Cmd
	output *lockedBuffer
	exited chan struct{} // closed when it has been waited for
}

// binary is a built binary, by its absolute path.
func binary(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs("../bin/" + name)
	require.NoError(t, err)
	require.FileExists(t, path, "run make build first")
	return path
}

// isolated starts a command in namespaces of its own, unless the machine is the
// tests' own, and kills it at the end of the test.
func isolated(t *testing.T, argv ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command("/proc/self/exe", argv...), output: &lockedBuffer{}, exited: make(chan struct{})}
	p.Env = append(os.Environ(), insideEnv+"=1")
	p.Stdout, p.Stderr = p.output, p.output
	p.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Getenv(machineEnv) != "" { // systemd starts supervisors in the machine's namespaces
		p.SysProcAttr.Unshareflags = 0
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig is sent when the thread ends
		err := p.Start()
		started <- err
		if err == nil {
			p.Wait()
			close(p.exited)
		}
	}()
	require.NoError(t, <-started)
	t.Cleanup(func() {
		p.Process.Kill()
		<-p.exited
		if t.Failed() {
			t.Logf("output of %v:\n%s", argv, p.output.tail(8000))
		}
	})
	return p
}

// holder is a process that does no more than hold namespaces.
func holder(t *testing.T) *process {
	t.Helper()
	p := isolated(t, "/bin/sleep", "infinity")
	// The namespaces are ready when it has become what it is.
	require.Eventually(t, func() bool {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", p.Process.Pid))
		return err == nil && string(b) == "sleep\n"
	}, time.Minute, 5*time.Millisecond)
	return p
}

// terminate sends SIGTERM and gives the exit code.
func (p *process) terminate(t *testing.T) int {
	t.Helper()
	require.NoError(t, p.Process.Signal(syscall.SIGTERM))
	return p.exitCode(t)
}

func (p *process) exitCode(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.ProcessState.ExitCode()
	case <-time.After(time.Minute):
		require.FailNow(t, "the process did not end within a minute", "%s", p.output.tail(4000))
		return -1
	}
}

// get fetches a URL from inside the process's network namespace.
func (p *process) get(ctx context.Context, url string) (status int, body string, err error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: p.dial}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// dial connects from inside the process's network namespace.
func (p *process) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	nerr := p.inNetwork(func() { conn, err = (&net.Dialer{}).DialContext(ctx, network, addr) })
	return conn, errors.Join(nerr, err)
}

// serve serves HTTP inside the process's network namespace until the test ends.
func (p *process) serve(t *testing.T, addr string, h http.Handler) {
	t.Helper()
	var l net.Listener
	var err error
	require.NoError(t, p.inNetwork(func() { l, err = net.Listen("tcp", addr) }))
	require.NoError(t, err)
	srv := &http.Server{Handler: h}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
}

// inNetwork runs f on a thread that is in the process's network namespace, and is
// thrown away afterwards.
func (p *process) inNetwork(f func()) (err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlock: the thread ends with the goroutine
		var ns *os.File
		if ns, err = os.Open(fmt.Sprintf("/proc/%d/ns/net", p.Process.Pid)); err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			f()
		}
	}()
	<-done
	return err
}

// waitHealthy waits until the kubelet's /healthz says ok.
func (p *process) waitHealthy(t *testing.T) {
	t.Helper()
	deadline := time.Now().Add(patience(2 * time.Minute))
	for {
		status, body, err := p.get(t.Context(), "http://127.0.0.1:10248/healthz")
		if err == nil && status == http.StatusOK && body == "ok" {
			return
		}
		select {
		case <-p.exited:
			require.FailNow(t, "the kubelet ended", "exit code %d\n%s", p.ProcessState.ExitCode(), p.output.tail(4000))
		case <-time.After(50 * time.Millisecond):
		}
		require.True(t, time.Now().Before(deadline), "not healthy in time: %d %q %v", status, body, err)
	}
}

// kubeletArgs are the arguments of a standalone kubelet of the test, with more
// lines for its configuration file. On a machine of its own pods are where they
// always are.
func kubeletArgs(t *testing.T, moreConfig ...string) []string {
	t.Helper()
	dir := shortDir(t)
	cgroupRoot := "/"
	if os.Getenv(machineEnv) == "" {
		cgroupRoot += testCgroup(t)
	}
	config := append([]string{
		"apiVersion: kubelet.config.k8s.io/v1beta1",
		"kind: KubeletConfiguration",
		"failCgroupV1: false",
		"failSwapOn: false",
		"cgroupRoot: " + cgroupRoot,
		"podLogsDir: " + dir + "/pods",
		"volumePluginDir: " + dir + "/volume-plugins",
		"authentication: {anonymous: {enabled: false}, webhook: {enabled: false}}",
		"authorization: {mode: AlwaysAllow}",
	}, moreConfig...)
	file := filepath.Join(dir, "kubelet.yaml")
	require.NoError(t, os.WriteFile(file, []byte(strings.Join(config, "\n")+"\n"), 0o600))
	return []string{"--config=" + file, "--root-dir=" + dir + "/kubelet", "--cert-dir=" + dir + "/pki"}
}

// shortDir is a t.TempDir whose path leaves room for the names of unix sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "e2e-")
	require.NoError(t, err)
	noteMade(dir)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	return dir
}

func cgroupName(t *testing.T) string {
	return cgroupPrefix + strconv.Itoa(os.Getpid()) + "-" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
}

// testCgroup makes a cgroup for the test in every hierarchy of the machine, and
// removes it, with what the kubelet makes below it, at the end.
func testCgroup(t *testing.T) string {
	t.Helper()
	name := cgroupName(t)
	for _, h := range hierarchies() {
		require.NoError(t, os.MkdirAll(filepath.Join(h, name), 0o755))
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} { // empty in a new v1 cpuset
			if v, err := os.ReadFile(filepath.Join(h, f)); err == nil && filepath.Base(h) == "cpuset" {
				require.NoError(t, os.WriteFile(filepath.Join(h, name, f), v, 0))
			}
		}
	}
	t.Cleanup(func() { removeCgroups(name) })
	return name
}

// hierarchies are the mount points of the machine's cgroups, v1 or v2.
func hierarchies() []string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return []string{"/sys/fs/cgroup"}
	}
	var dirs []string
	entries, _ := os.ReadDir("/sys/fs/cgroup")
	for _, e := range entries {
		dir := filepath.Join("/sys/fs/cgroup", e.Name())
		if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err == nil && e.IsDir() {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

func removeCgroups(name string) {
	killCgroups(name)
	for _, h := range hierarchies() {
		var dirs []string
		filepath.WalkDir(filepath.Join(h, name), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			os.Remove(dirs[i])
		}
	}
}

// sweep removes what a killed run of these tests left.
func sweep() {
	sweepLocal()
	for _, h := range hierarchies() {
		left, _ := filepath.Glob(filepath.Join(h, cgroupPrefix+"*"))
		for _, dir := range left {
			pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), cgroupPrefix), "-")
			if n, err := strconv.Atoi(pid); err == nil && n != os.Getpid() && !errors.Is(unix.Kill(n, 0), unix.ESRCH) {
				continue // another run that lives
			}
			removeCgroups(filepath.Base(dir))
		}
	}
}

// lockedBuffer keeps the output of a process that is still writing.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (b *lockedBuffer) tail(n int) string {
	s := b.String()
	return s[max(0, len(s)-n):]
}
