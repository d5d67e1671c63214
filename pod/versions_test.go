package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/stage1/lean"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/launch"
)

// Pods keep the supervisor that they were started with, so an engine meets older
// ones after an upgrade, and newer ones after a downgrade. These tests build both
// sides, each at its version of the protocol: `go build -overlay` gives the compiler
// a protocol.go with other numbers, so no history is needed. An engine of another
// version is this test binary, built that way, which becomes a versionProbe.

// versionEnv names what the binary does instead of testing.
const versionEnv = "RKTT_VERSION_PROBE"

// versionGroup is the cgroup parent of all these pods; the pid of the test follows.
const versionGroup = "/rktt-versions"

func TestMain(m *testing.M) {
	if doc := os.Getenv(versionEnv); doc != "" {
		var p versionProbe
		err := json.Unmarshal([]byte(doc), &p)
		if err == nil {
			err = p.run()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if dir := os.Getenv(terminateEnv); dir != "" {
		if err := beTerminated(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	sweepVersions()
	os.Exit(m.Run())
}

// sweepVersions ends what a run that was killed has left.
func sweepVersions() {
	for _, pid := range cgroup.Children(versionGroup) {
		if _, err := os.Stat("/proc/" + pid); err == nil {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		_ = cgroup.Kill(ctx, versionGroup+"/"+pid)
		_ = cgroup.Remove(ctx, versionGroup+"/"+pid)
		cancel()
	}
}

// versionProbe is an engine with real supervisors.
type versionProbe struct {
	Dir        string // for all of it
	Parent     string // cgroup
	Supervisor string // its binary
	Runtime    string
	Do         string // "live", "launch", "meet"
	Spoken     int    // the version that both must agree on
}

// versionRoots gives the same busybox for every app.
type versionRoots struct{ root string }

func (versionRoots) CreateRoot(context.Context, string, string) error  { return nil }
func (r versionRoots) Mount(context.Context, string) (string, error)   { return r.root, nil }
func (versionRoots) RemoveRoot(context.Context, string) error          { return nil }
func (versionRoots) RootIDs(context.Context) (ids []string, err error) { return nil, nil }

// engine starts an engine; stop ends it and leaves its pods alone.
func (p *versionProbe) engine(ctx context.Context) (e *Engine, stop func() error, err error) {
	e, err = New(Config{
		Dir: p.Dir + "/pods", RunDir: p.Dir + "/run", NetNSDir: p.Dir + "/netns",
		Supervisor: p.Supervisor, Runtime: p.Runtime, Flavors: map[string]Flavor{"lean": lean.Isolator{}},
		RetryMin: time.Millisecond, RetryMax: 10 * time.Millisecond,
	}, &launch.Detached{}, fakeNet{}, versionRoots{p.Dir + "/root"})
	if err != nil {
		return nil, nil, err
	}
	if err := e.Recover(ctx); err != nil {
		return nil, nil, err
	}
	rctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- e.Run(rctx) }()
	return e, func() error { cancel(); return <-done }, nil
}

func (p *versionProbe) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	switch p.Do {
	case "live":
		return p.live(ctx)
	case "launch":
		_, _, stop, err := p.launch(ctx)
		return errors.Join(err, stop())
	}
	return p.meet(ctx)
}

// launch makes a pod with a running app.
func (p *versionProbe) launch(ctx context.Context) (id ID, app AppID, stop func() error, err error) {
	e, stop, err := p.engine(ctx)
	if err != nil {
		return "", "", func() error { return nil }, err
	}
	id, err = e.Launch(ctx, Spec{UID: "u", Name: "n", Namespace: "ns", Flavor: "lean", HostNetwork: true, CgroupParent: p.Parent})
	if err != nil {
		return "", "", stop, err
	}
	app, err = e.CreateApp(ctx, id, AppSpec{Name: "sleep", Image: "busybox", ImageID: "sha256:1", Log: p.Dir + "/log"},
		func(_ context.Context, place Place) (Configured, error) {
			config := fmt.Sprintf(`{"ociVersion":"1.0.0","root":{"path":%q},"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],
				"process":{"args":["/bin/busybox","sleep","1000"],"cwd":"/","user":{"uid":0,"gid":0}},
				"linux":{"cgroupsPath":%q,"namespaces":[{"type":"pid"},{"type":"mount"}]}}`, place.Root, place.Cgroup)
			return Configured{Config: []byte(config)}, nil
		})
	if err == nil {
		err = e.StartApp(ctx, app)
	}
	return id, app, stop, err
}

// live takes a pod through its life, with a restart of the engine in the middle.
func (p *versionProbe) live(ctx context.Context) error {
	id, app, stop, err := p.launch(ctx)
	if err := errors.Join(err, stop()); err != nil {
		return err
	}
	e, stop, err := p.engine(ctx)
	if err != nil {
		return err
	}
	defer stop()
	c, err := e.Connection(ctx, id)
	if err != nil {
		return err
	}
	if c.Hello().Version != p.Spoken {
		return fmt.Errorf("they speak version %d, want %d", c.Hello().Version, p.Spoken)
	}
	if a, err := e.App(app); err != nil || a.State != Running {
		return fmt.Errorf("after a restart the app is %v, %w", a.State, err)
	}
	out, err := e.ExecSync(ctx, app, []byte(`{"args":["/bin/busybox","echo","hello"],"cwd":"/","user":{"uid":0,"gid":0}}`), time.Minute, 100)
	if err != nil || string(out.Stdout) != "hello\n" {
		return fmt.Errorf("exec said %q and %q: %w", out.Stdout, out.Stderr, err)
	}
	if err := e.ReopenLog(ctx, app); err != nil {
		return err
	}
	if err := e.StopApp(ctx, app, 0); err != nil {
		return err
	}
	if a, err := e.App(app); err != nil || a.Exit == nil || a.Exit.Signal != 9 {
		return fmt.Errorf("stopped app has exit %v, %w", a.Exit, err)
	}
	return e.Remove(ctx, id)
}

// meet is the restart of an engine that does not speak with the supervisor of the
// one pod that there is: it leaves the pod alone, an operator is told why and can
// end it, and then it can be removed.
func (p *versionProbe) meet(ctx context.Context) error {
	e, stop, err := p.engine(ctx)
	if err != nil {
		return err
	}
	defer stop()
	pods := e.Pods(nil)
	if len(pods) != 1 || pods[0].State != Running {
		return fmt.Errorf("the pods are %v", pods)
	}
	id := pods[0].ID
	want := fmt.Sprintf("%d to %d", supervisor.VersionMin, supervisor.VersionMax)
	if _, err := e.Connection(ctx, id); err == nil || !strings.Contains(err.Error(), want) {
		return fmt.Errorf("the error does not say %q: %w", want, err)
	}
	o := NewObserver(e.cfg.Dir, e.cfg.RunDir, e.cfg.NetNSDir)
	s, err := o.Pod(ctx, id)
	if err != nil || !s.Alive || s.Silent == nil {
		return fmt.Errorf("an operator sees %+v, %w", s, err)
	}
	procs := cgroup.Procs(s.Cgroup)
	if len(procs) == 0 {
		return fmt.Errorf("nothing lives in %s", s.Cgroup)
	}
	if err := o.Kill(ctx, s.Pod, &launch.Detached{}, time.Minute); err != nil {
		return err
	}
	for _, pid := range procs {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)) // gone, or a zombie that waits for this machine's init
		if len(stat) > 0 && !strings.Contains(string(stat), ") Z ") && !strings.Contains(string(stat), ") X ") {
			return fmt.Errorf("process %d of the killed pod lives: %s", pid, stat)
		}
	}
	return e.Remove(ctx, id)
}

// atVersion compiles a package with another protocol.
func atVersion(t *testing.T, lowest, highest int, out string, command ...string) string {
	t.Helper()
	dir := t.TempDir()
	protocol, err := filepath.Abs("../supervisor/protocol.go")
	require.NoError(t, err)
	source, err := os.ReadFile(protocol)
	require.NoError(t, err)
	for name, n := range map[string]int{"Min": lowest, "Max": highest} {
		constant := regexp.MustCompile(`(\bVersion` + name + `\s*= )\d+`)
		require.Len(t, constant.FindAll(source, -1), 1)
		source = constant.ReplaceAll(source, []byte("${1}"+strconv.Itoa(n)))
	}
	other := filepath.Join(dir, "protocol.go")
	require.NoError(t, os.WriteFile(other, source, 0o600))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{protocol: other}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	bin := filepath.Join(dir, out)
	build := exec.Command("go", append(command, "-overlay="+dir+"/overlay.json", "-o", bin)...)
	build.Args = append(build.Args, map[bool]string{true: ".", false: "../cmd/rkt-supervisor"}[out == "engine"])
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	text, err := build.CombinedOutput()
	require.NoError(t, err, string(text))
	return bin
}

func engineAt(t *testing.T, lowest, highest int) string {
	return atVersion(t, lowest, highest, "engine", "test", "-c")
}

func supervisorAt(t *testing.T, lowest, highest int) string {
	return atVersion(t, lowest, highest, "rkt-supervisor", "build")
}

// newVersionProbe makes a machine for engines with real supervisors.
func newVersionProbe(t *testing.T, supervisor string) *versionProbe {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("supervisors make namespaces and cgroups, which takes root")
	}
	p := &versionProbe{Dir: t.TempDir(), Parent: versionGroup + "/" + strconv.Itoa(os.Getpid()), Supervisor: supervisor}
	var err error
	p.Runtime, err = exec.LookPath("runc")
	require.NoError(t, err)
	for _, dir := range []string{"bin", "proc"} {
		require.NoError(t, os.MkdirAll(p.Dir+"/root/"+dir, 0o755))
	}
	busybox, err := os.ReadFile("/bin/busybox")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(p.Dir+"/root/bin/busybox", busybox, 0o755))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, cgroup.Kill(ctx, p.Parent))
		require.NoError(t, cgroup.Remove(ctx, p.Parent))
		_ = cgroup.Remove(ctx, versionGroup) // unless another run has its own in it
		require.NoError(t, unmountBelow(p.Dir))
	})
	return p
}

// by runs the probe in an engine's process.
func (p versionProbe) by(t *testing.T, engine, do string, spoken int) {
	t.Helper()
	p.Do, p.Spoken = do, spoken
	doc, err := json.Marshal(p)
	require.NoError(t, err)
	cmd := exec.Command(engine)
	cmd.Env = append(os.Environ(), versionEnv+"="+string(doc))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
}

const (
	oldest = supervisor.VersionMin
	newest = supervisor.VersionMax
)

func TestNewerEngineRunsPodsOfOlderSupervisors(t *testing.T) {
	p := newVersionProbe(t, supervisorAt(t, oldest, newest))
	p.by(t, engineAt(t, oldest, newest+1), "live", newest)
}

func TestOlderEngineRunsPodsOfNewerSupervisors(t *testing.T) {
	p := newVersionProbe(t, supervisorAt(t, oldest, newest+1))
	p.by(t, "/proc/self/exe", "live", newest)
}

func TestPodWithASupervisorThatIsTooOldIsLeftAloneUntilAnOperatorEndsIt(t *testing.T) {
	p := newVersionProbe(t, supervisorAt(t, oldest, newest))
	p.by(t, "/proc/self/exe", "launch", newest)
	p.by(t, engineAt(t, newest+1, newest+2), "meet", 0)
	left, err := os.ReadDir(p.Dir + "/pods")
	require.NoError(t, err)
	require.Empty(t, left)
}
