package server_test

import (
	"context"
	"encoding/json"
	"errors"
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

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/stage1/nspawn"
	"github.com/rktnetes/rktshim/supervisor"
)

// Everything that these tests make on the host bears this name, so that the next
// run finds what a killed one left.
const mark = "rktt-supervisor"

// supervisorBinary is built once, as it is shipped.
var supervisorBinary string

// TestMain runs the tests in a mount namespace of their own. On a hybrid host whose
// v2 hierarchy has controllers, crun refuses to run; there that hierarchy is hidden.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 {
		fmt.Println("skipped: these tests make namespaces and cgroups, which takes root")
		return
	}
	if os.Getenv("RKTT_INSIDE") == "" {
		os.Exit(runInside())
	}
	if text, _ := os.ReadFile("/sys/fs/cgroup/unified/cgroup.controllers"); strings.TrimSpace(string(text)) != "" {
		if err := unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH); err != nil {
			panic(err)
		}
	}
	defer alone()()
	sweep()
	dir, err := os.MkdirTemp("", mark)
	if err != nil {
		panic(err)
	}
	supervisorBinary = filepath.Join(dir, "rkt-supervisor")
	if have := os.Getenv("RKTT_SUPERVISOR"); have != "" { // where there is no Go
		supervisorBinary = have
		code := m.Run()
		sweep()
		os.Exit(code)
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w -E main.entry", "-o", supervisorBinary, "github.com/rktnetes/rktshim/cmd/rkt-supervisor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOEXPERIMENT=nogreenteagc") // as the Makefile does
	if out, err := build.CombinedOutput(); err != nil {
		panic(string(out))
	}
	code := m.Run()
	os.RemoveAll(dir)
	sweep()
	os.Exit(code)
}

// alone waits until no other run of these tests is under way on this machine: it
// would take what that one has made for remains. The lock ends with the process.
func alone() (unlock func()) {
	f, err := os.Create("/run/lock-" + mark)
	if err != nil {
		panic(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		panic(err)
	}
	return func() { f.Close() }
}

func runInside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "RKTT_INSIDE=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	err := cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// sweep removes what a run that was killed has left.
func sweep() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_ = cgroup.Kill(ctx, "/"+mark)
	_ = cgroup.Remove(ctx, "/"+mark)
	dirs, _ := filepath.Glob("/run/" + mark + "*")
	for _, dir := range dirs {
		_ = nspawn.Isolator{}.Sweep(stage1.Spec{ID: filepath.Base(dir), Dir: filepath.Join(dir, "stage1")})
		os.RemoveAll(dir)
	}
}

// testPod is a pod with a real supervisor.
type testPod struct {
	t       *testing.T
	id      string
	podDir  string
	runDir  string
	rootfs  string
	cgroup  string
	cmd     *exec.Cmd
	exited  chan struct{}
	logFile string
	wrapper []string // a command that becomes the supervisor
	*supervisor.Client
}

// launch starts a supervisor for spec, whose blanks are filled in, and dials it.
func launch(t *testing.T, spec supervisor.Spec) *testPod {
	t.Helper()
	p := prepare(t, spec)
	p.start()
	p.dial()
	return p
}

func prepare(t *testing.T, spec supervisor.Spec) *testPod {
	t.Helper()
	runDir, err := os.MkdirTemp("/run", mark)
	require.NoError(t, err)
	id := strings.ToLower(filepath.Base(runDir))
	p := &testPod{t: t, id: id, podDir: t.TempDir(), runDir: runDir, cgroup: "/" + mark + "/" + id}
	p.rootfs = busyboxRoot(t)
	p.logFile = filepath.Join(p.podDir, "supervisor.log")
	spec.Stage1.ID = id
	spec.Cgroup = p.cgroup
	if spec.Flavor == "" {
		spec.Flavor = "lean"
	}
	if spec.Runtime == "" {
		spec.Runtime = "/usr/bin/crun"
	}
	require.NoError(t, supervisor.WriteSpec(p.podDir, spec))
	t.Cleanup(p.cleanup)
	return p
}

// start launches as supervisor/launch does: with the socket as stdin.
func (p *testPod) start(env ...string) {
	p.t.Helper()
	fd, err := supervisor.Listen(filepath.Join(p.runDir, supervisor.SocketName))
	require.NoError(p.t, err)
	listener := os.NewFile(uintptr(fd), "listener")
	defer listener.Close()
	require.NoError(p.t, cgroup.Make(p.cgroup))
	log, err := os.Create(p.logFile)
	require.NoError(p.t, err)
	defer log.Close()
	argv := append(p.wrapper, supervisorBinary, p.podDir, p.runDir)
	p.cmd = exec.Command(argv[0], argv[1:]...)
	p.cmd.Env = append([]string{"GOMAXPROCS=1"}, env...)
	p.cmd.Stdin, p.cmd.Stderr = listener, log
	require.NoError(p.t, p.cmd.Start())
	p.exited = make(chan struct{})
	go func() {
		_ = p.cmd.Wait() // tests look at ProcessState
		close(p.exited)
	}()
}

func (p *testPod) dial() {
	p.t.Helper()
	c, err := supervisor.Dial(p.t.Context(), p.runDir, "test")
	require.NoError(p.t, err, p.log())
	p.Client = c
	p.t.Cleanup(func() { c.Close() })
}

func (p *testPod) log() string {
	text, _ := os.ReadFile(p.logFile)
	return string(text)
}

func (p *testPod) cleanup() {
	if p.t.Failed() {
		p.t.Log(p.log())
	}
	if p.cmd != nil {
		_ = p.cmd.Process.Kill()
		<-p.exited
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	require.NoError(p.t, cgroup.Kill(ctx, p.cgroup))
	require.NoError(p.t, cgroup.Remove(ctx, p.cgroup))
	require.NoError(p.t, nspawn.Isolator{}.Sweep(stage1.Spec{ID: p.id, Dir: filepath.Join(p.runDir, "stage1")}))
	require.NoError(p.t, os.RemoveAll(p.runDir))
}

// waitExit waits for the end of the supervisor itself.
func (p *testPod) waitExit() {
	p.t.Helper()
	select {
	case <-p.exited:
	case <-time.After(20 * time.Second):
		p.t.Fatal("the supervisor did not exit\n" + p.log())
	}
}

func busyboxRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range []string{"bin", "proc", "sys", "dev", "tmp"} {
		require.NoError(t, os.Mkdir(filepath.Join(root, dir), 0o755))
	}
	busybox, err := os.ReadFile("/bin/busybox")
	require.NoError(t, err, "needs busybox-static")
	require.NoError(t, os.WriteFile(filepath.Join(root, "bin/busybox"), busybox, 0o755))
	for _, name := range strings.Fields("sh sleep true false cat echo ls ps head dd yes kill id hostname mount wc seq setsid stty tr ipcs") {
		require.NoError(t, os.Symlink("busybox", filepath.Join(root, "bin", name)))
	}
	return root
}

// appConfig is what a test says of an app; the rest of its OCI config is fixed.
type appConfig struct {
	Args       []string
	Namespaces []map[string]string // nil: pid, mount, cgroup of its own
	Resources  map[string]any
	Mounts     []map[string]any
	TTY        bool
}

// add prepares the folders of an app and returns its spec.
func (p *testPod) add(name string, cfg appConfig) supervisor.AppSpec {
	p.t.Helper()
	spec := supervisor.AppSpec{
		Name:   name,
		Dir:    filepath.Join(p.podDir, "apps", name),
		Bundle: filepath.Join(p.podDir, "apps", name),
		Cgroup: p.cgroup + "/" + name,
		Log:    filepath.Join(p.podDir, name+".log"),
		TTY:    cfg.TTY,
	}
	require.NoError(p.t, os.MkdirAll(spec.Dir, 0o700))
	doc, err := json.Marshal(p.ociConfig(spec, cfg))
	require.NoError(p.t, err)
	require.NoError(p.t, os.WriteFile(filepath.Join(spec.Bundle, "config.json"), doc, 0o600))
	return spec
}

func (p *testPod) ociConfig(spec supervisor.AppSpec, cfg appConfig) map[string]any {
	if cfg.Namespaces == nil {
		cfg.Namespaces = []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "cgroup"}}
	}
	mounts := []map[string]any{
		{"destination": "/proc", "type": "proc", "source": "proc"},
		{"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": []string{"nosuid", "mode=755"}},
		{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"newinstance", "ptmxmode=0666"}},
	}
	return map[string]any{
		"ociVersion": "1.0.0",
		"process":    process(cfg.TTY, cfg.Args...),
		"root":       map[string]any{"path": p.rootfs},
		"mounts":     append(mounts, cfg.Mounts...),
		"linux": map[string]any{
			"cgroupsPath": spec.Cgroup,
			"namespaces":  cfg.Namespaces,
			"resources":   cfg.Resources,
		},
	}
}

func process(tty bool, args ...string) map[string]any {
	return map[string]any{
		"terminal": tty,
		"user":     map[string]any{"uid": 0, "gid": 0},
		"args":     args,
		"env":      []string{"PATH=/bin"},
		"cwd":      "/",
	}
}

// run creates and starts an app.
func (p *testPod) run(name string, cfg appConfig) supervisor.AppSpec {
	p.t.Helper()
	spec := p.add(name, cfg)
	_, err := p.CreateApp(p.t.Context(), spec)
	require.NoError(p.t, err, p.log())
	_, err = p.StartApp(p.t.Context(), name)
	require.NoError(p.t, err, p.log())
	return spec
}

// sh runs a shell script as app.
func (p *testPod) sh(name, script string) supervisor.AppSpec {
	p.t.Helper()
	return p.run(name, appConfig{Args: []string{"/bin/sh", "-c", script}})
}

// wait waits for an app's exit as the engine does: by its event.
func (p *testPod) wait(name string) supervisor.Exit {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(p.t, p.Subscribe(ctx, 0))
	for {
		ev, err := p.Next(ctx)
		require.NoError(p.t, err, "no exit of %s\n%s", name, p.log())
		if ev.Kind == supervisor.AppHasExited && ev.App == name {
			return *ev.Exit
		}
	}
}

// execProcess is the process.json of an exec.
func execProcess(t *testing.T, tty bool, args ...string) []byte {
	t.Helper()
	doc, err := json.Marshal(process(tty, args...))
	require.NoError(t, err)
	return doc
}

// logged returns what a log says of one stream, parts joined.
func logged(t *testing.T, path, stream string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		require.Len(t, f, 4, "line %q", line)
		_, err := time.Parse(time.RFC3339Nano, f[0])
		require.NoError(t, err)
		if f[1] != stream {
			continue
		}
		out.WriteString(f[3])
		if f[2] == "F" {
			out.WriteByte('\n')
		} else {
			require.Equal(t, "P", f[2])
		}
	}
	return out.String()
}

func itoa(n int) string { return fmt.Sprint(n) }
