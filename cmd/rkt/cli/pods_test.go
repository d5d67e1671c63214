package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/internal/rundir"
	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/supervisortest"
)

// podHost is a node with pods of an engine whose supervisors are fakes: what rkt
// reads and whom it asks is real but for them.
type podHost struct {
	*node
	folders  rundir.Folders
	launcher *supervisortest.Launcher
	engine   *pod.Engine
	stop     func() // ends the engine as the end of the kubelet does; pods stay
}

func newPodHost(t *testing.T) *podHost {
	t.Helper()
	h := &podHost{node: newNode(t), launcher: supervisortest.NewLauncher(t)}
	var err error
	h.folders, err = rundir.Find(h.dir+"/data", h.dir+"/run")
	require.NoError(t, err)
	require.NoError(t, h.folders.Record())
	h.start()
	t.Cleanup(func() {
		pins, _ := filepath.Glob(h.folders.NetNS() + "/*")
		for _, pin := range pins {
			require.NoError(t, network.RemoveNamespace(pin))
		}
	})
	return h
}

// start starts an engine, as a kubelet does.
func (h *podHost) start() {
	h.t.Helper()
	var err error
	h.engine, err = pod.New(pod.Config{
		Dir: h.folders.Pods(), RunDir: h.folders.PodsRun(), NetNSDir: h.folders.NetNS(), Socket: h.folders.EngineSocket(),
		Supervisor: "/bin/rkt-supervisor", Runtime: "/usr/bin/crun", Flavors: map[string]pod.Flavor{"lean": anyFlavor{}},
	}, h.launcher, oneNetwork{}, noRoots{})
	require.NoError(h.t, err)
	require.NoError(h.t, h.engine.Recover(h.t.Context()))
	ctx, cancel := context.WithCancel(h.t.Context())
	done := make(chan error, 1)
	go func() { done <- h.engine.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(h.t, <-done)
	})
	h.t.Cleanup(h.stop)
}

type anyFlavor struct{}

func (anyFlavor) Check() error            { return nil }
func (anyFlavor) Sweep(stage1.Spec) error { return nil }

// oneNetwork gives every pod the same addresses.
type oneNetwork struct{}

func (oneNetwork) Attach(ctx context.Context, p network.Pod, save network.Save) (network.Result, error) {
	doc := json.RawMessage(`{"version":1,"pod":"` + p.ID + `","network":"default","cniVersion":"1.0.0","plugins":[],
		"result":{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"/n"}],
		"ips":[{"address":"fd00::2/64","interface":0},{"address":"10.1.0.2/16","interface":0}]}}`)
	if err := save(ctx, doc); err != nil {
		return network.Result{}, err
	}
	return network.ResultOf(doc)
}

func (oneNetwork) Detach(context.Context, json.RawMessage) error { return nil }

type noRoots struct{}

func (noRoots) CreateRoot(context.Context, string, string) error { return nil }
func (noRoots) Mount(context.Context, string) (string, error)    { return "/", nil }
func (noRoots) RemoveRoot(context.Context, string) error         { return nil }
func (noRoots) RootIDs(context.Context) (ids []string, _ error)  { return nil, nil }

const ociConfig = `{"ociVersion":"1.0.2","root":{"path":"rootfs","readonly":true},
	"process":{"args":["/bin/web","-v"],"cwd":"/w","env":["A=b","PATH=/bin"],"user":{"uid":7,"gid":8,"additionalGids":[9]},
		"noNewPrivileges":true,"capabilities":{"bounding":["CAP_CHOWN"]}},
	"mounts":[{"destination":"/proc","type":"proc","source":"proc"},{"destination":"/data","type":"bind","source":"/srv","options":["rbind","ro"]}],
	"linux":{"resources":{"cpu":{"quota":50000,"period":100000},"memory":{"limit":1048576}}}}`

// launch makes a pod with one running app per name. An app named "x.1" is the
// attempt 1 of x.
func (h *podHost) launch(uid string, apps ...string) (pod.ID, map[string]pod.AppID) {
	h.t.Helper()
	ctx := h.t.Context()
	id, err := h.engine.Launch(ctx, pod.Spec{
		UID: uid, Name: uid, Namespace: "default", Flavor: "lean", CgroupParent: "/rkt-cli-test",
		Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "2"},
		Ports: []pod.PortMapping{{HostPort: 8080, ContainerPort: 80}, {ContainerPort: 81}},
	})
	require.NoError(h.t, err)
	ids := map[string]pod.AppID{}
	for _, app := range apps {
		name, attempt := app, uint32(0)
		fmt.Sscanf(strings.Replace(app, ".", " ", 1), "%s %d", &name, &attempt)
		ids[app], err = h.engine.CreateApp(ctx, id, pod.AppSpec{
			Name: name, Attempt: attempt, Image: "registry.example.com/" + name + ":1", ImageID: "sha256:" + strings.Repeat("1", 64), Log: h.path("log"),
			Annotations: map[string]string{"x": "y"}, Labels: map[string]string{"z": "w"},
		}, func(context.Context, pod.Place) (pod.Configured, error) {
			return pod.Configured{Config: []byte(ociConfig)}, nil
		})
		require.NoError(h.t, err)
		require.NoError(h.t, h.engine.StartApp(ctx, ids[app]))
	}
	return id, ids
}

// exit lets an app end.
func (h *podHost) exit(id pod.ID, app pod.AppID, exit supervisor.Exit) {
	h.t.Helper()
	require.NoError(h.t, h.launcher.Fake(string(id)).ExitApp(string(app), exit))
}

// inProcess is try in this process, with its streams in memory.
func (h *podHost) inProcess(args ...string) (code int, stdout, stderr string) {
	h.t.Helper()
	return run(h.t, append([]string{"--dir=" + h.dir + "/data"}, args...)...)
}

// says runs rkt in this process; it must succeed.
func (h *podHost) says(args ...string) string {
	h.t.Helper()
	code, stdout, stderr := h.inProcess(args...)
	require.Equal(h.t, 0, code, "rkt %s: %s", strings.Join(args, " "), stderr)
	return stdout
}

func TestEmptyNodeHasNoPods(t *testing.T) {
	n := newNode(t)
	require.Equal(t, "[]\n", n.rkt("list", "--format=json"))
	require.Equal(t, []string{"UUID", "APP", "IMAGE", "NAME", "STATE", "CREATED", "STARTED", "NETWORKS"}, strings.Fields(n.rkt("list")))
	require.Empty(t, n.rkt("list", "--no-legend"))
	require.Empty(t, n.rkt("gc"))
	require.Equal(t, "[]\n", n.rkt("list", "ignored", "--format=json"), "arguments are ignored, as rkt does")
}

func TestListHasRktsColumnsAndFields(t *testing.T) {
	h := newPodHost(t)
	id, apps := h.launch("u1", "web", "log")
	h.exit(id, apps["log"], supervisor.Exit{Code: 3})

	for _, kubelet := range []string{"up", "down"} {
		t.Run("kubelet "+kubelet, func(t *testing.T) {
			if kubelet == "down" {
				h.stop()
			}
			lines := strings.Split(h.says("list"), "\n")
			require.Equal(t, []string{string(id)[:8], "web", "registry.example.com/web:1", "running"}, strings.Fields(lines[1])[:4])
			require.True(t, strings.HasSuffix(lines[1], "\tdefault:ip4=10.1.0.2"), lines[1])
			require.Equal(t, []string{"log", "registry.example.com/log:1"}, strings.Fields(lines[2]))
			full := h.says("list", "--full", "--no-legend")
			require.Contains(t, full, string(id)+"\tweb\tregistry.example.com/web:1\tsha256:111111111111\trunning\t")
			require.NotContains(t, full, "UUID")
			require.Contains(t, full, "\tdefault/u1\n")

			var all []map[string]any
			require.NoError(t, json.Unmarshal([]byte(h.says("list", "--format=json")), &all))
			require.Len(t, all, 1)
			p := all[0]
			require.Equal(t, string(id), p["name"])
			require.Equal(t, "running", p["state"])
			require.Equal(t, []any{"web", "log"}, p["app_names"])
			require.Equal(t, map[string]any{"a": "2"}, p["user_annotations"])
			require.Equal(t, map[string]any{"l": "1"}, p["user_labels"])
			require.InDelta(t, float64(time.Now().Unix()), p["created_at"], 3600, "seconds")
			require.InDelta(t, float64(time.Now().Unix()), p["started_at"], 3600, "seconds")
			require.Equal(t, []any{map[string]any{"netName": "default", "netConf": "", "pluginPath": "", "ifName": "eth0", "ip": "10.1.0.2", "args": "",
				"mask": "255.255.0.0", "addresses": []any{"fd00::2/64", "10.1.0.2/16"}}}, p["networks"])
			log := p["apps"].([]any)[1].(map[string]any)
			require.Equal(t, "exited", log["state"], "its own, not the pod's")
			require.EqualValues(t, 3, log["exit_code"])
		})
	}
}

func TestListShowsPodsWithoutApps(t *testing.T) {
	h := newPodHost(t)
	id, _ := h.launch("u1")
	require.Equal(t, []string{string(id)[:8], "-", "-", "running"}, strings.Fields(h.says("list", "--no-legend"))[:4])
}

func TestPodThatCannotBeReadIsAnErrorBesideTheOthers(t *testing.T) {
	h := newPodHost(t)
	h.launch("u1", "web")
	broken := h.folders.Pods() + "/aabbccdd-0000-4000-8000-000000000000"
	require.NoError(t, os.Mkdir(broken, 0o700))
	require.NoError(t, os.WriteFile(broken+"/pod.json", []byte(`{"version":99}`), 0o600))

	code, stdout, stderr := h.inProcess("list", "--no-legend")

	require.Equal(t, 0, code)
	require.Contains(t, stdout, "web")
	require.Contains(t, stderr, "list: 1 error(s) encountered\nlist: read "+broken)
	code, _, stderr = h.inProcess("rm", "aabb")
	require.Equal(t, 254, code)
	require.Contains(t, stderr, `rm: pod "aabbccdd-0000-4000-8000-000000000000" is left alone, its record cannot be read: `)
	require.DirExists(t, broken)
}

func TestSupervisorThatDoesNotAnswerIsNamed(t *testing.T) {
	h := newPodHost(t)
	var silent atomic.Bool
	h.launcher.Prepare = func(_ string, f *supervisortest.Fake) {
		f.Fail = func(req supervisor.Request) error {
			if req.Op == supervisor.OpStatus && silent.Load() {
				return errors.New("boom")
			}
			return nil
		}
	}
	id, _ := h.launch("u1", "web")
	silent.Store(true)

	code, stdout, stderr := h.inProcess("app", "list", "--no-legend", string(id))

	require.Equal(t, 0, code)
	require.Equal(t, []string{"web", "unknown"}, strings.Fields(stdout))
	require.Contains(t, stderr, "list: pod "+string(id)+": its supervisor does not answer: boom")
}

func TestStatusHasRktsLinesAndWaits(t *testing.T) {
	h := newPodHost(t)
	id, apps := h.launch("u1", "web", "log")
	h.exit(id, apps["log"], supervisor.Exit{Code: 137, Signal: 9})

	out := h.says("status", string(id)[:6])
	require.Regexp(t, `^state=running\ncreated=\d{4}-.*\nstarted=\d{4}-.*\nnetworks=default:ip4=10.1.0.2\npid=\d+\nexited=false\napp-log=9\n$`, out)
	require.Contains(t, h.says("status", "--format=json-pretty", string(id)), "\n\t\"state\": \"running\",\n")
	require.Equal(t, out, h.says("status", "--wait-ready=1m", string(id)))

	code, _, stderr := h.inProcess("status", "--wait=1ms", string(id))
	require.Equal(t, 254, code)
	require.Equal(t, "status: error waiting for pod to finish: context deadline exceeded\n", stderr)
	file := h.path("uuid")
	require.NoError(t, os.WriteFile(file, []byte(id), 0o600))
	require.Equal(t, out, h.says("status", "--uuid-file="+file))

	waited := make(chan string, 1)
	go func() {
		_, stdout, _ := h.inProcess("status", "--wait", string(id))
		waited <- stdout
	}()
	require.NoError(t, h.engine.Stop(t.Context(), id, 0))
	require.Contains(t, <-waited, "state=exited\n")
	out = h.says("status", string(id))
	require.NotContains(t, out, "pid=")
	require.Contains(t, out, "exited=true\napp-web=9\napp-log=9\n")
	code, _, stderr = h.inProcess("status", "--wait-ready", string(id))
	require.Equal(t, 254, code)
	require.Equal(t, "status: error waiting for pod readiness: the pod has exited\n", stderr)
}

func TestAppStatusHasRktsFields(t *testing.T) {
	h := newPodHost(t)
	id, apps := h.launch("u1", "web.0", "web.1")
	h.exit(id, apps["web.0"], supervisor.Exit{Code: 137, Signal: 9, OOMKilled: true})

	require.Equal(t, "NAME\tSTATE\nweb.0\texited\nweb\trunning\n", h.says("app", "list", string(id)))
	for app, word := range map[string]string{"web": "web", "web.1": "web", "web.0": "web.0", string(apps["web.0"])[:12]: "web.0"} {
		var a map[string]any
		require.NoError(t, json.Unmarshal([]byte(h.says("app", "status", string(id), "--app="+app, "--format=json")), &a))
		require.Equal(t, word, a["name"], app)
		require.Equal(t, map[string]any{"x": "y"}, a["user_annotations"])
		require.Equal(t, map[string]any{"z": "w"}, a["user_labels"])
		require.Equal(t, []any{map[string]any{"container_path": "/data", "host_path": "/srv", "read_only": true}}, a["mounts"])
		require.InDelta(t, float64(time.Now().UnixNano()), a["created_at"], 3600e9, "nanoseconds")
		require.InDelta(t, float64(time.Now().UnixNano()), a["started_at"], 3600e9)
		require.Equal(t, "sha256:"+strings.Repeat("1", 64), a["image_id"])
		if word == "web" {
			require.Equal(t, "running", a["state"])
			require.NotContains(t, a, "exit_code")
			require.NotContains(t, a, "finished_at")
			continue
		}
		require.Equal(t, "exited", a["state"])
		require.EqualValues(t, 9, a["exit_code"], "rkt's: the bare signal")
		require.EqualValues(t, 9, a["signal"])
		require.Equal(t, true, a["oom_killed"])
		require.Contains(t, a, "finished_at")
	}
	out := h.says("app", "status", string(id), "--app=web.0")
	require.Regexp(t, `^name=web.0\nstate=exited\nimage_id=sha256:1+\ncreated_at=.*\nstarted_at=.*\nfinished_at=.*\nexit_code=9\nsignal=9\noom_killed=true\n`+
		`mounts=/srv:/data:\(read_only:true\)\nuser_annotations=x:y\nuser_labels=z:w\nid=[0-9a-f]{64}\nlog_path=.*\n$`, out)
}

func TestManifestTellsWhatAPodWasMadeFrom(t *testing.T) {
	h := newPodHost(t)
	id, _ := h.launch("u1", "web")
	oneLine := h.says("cat-manifest", "--pretty-print=false", string(id))
	require.Equal(t, 1, strings.Count(oneLine, "\n"))
	var m podManifest
	require.NoError(t, json.Unmarshal([]byte(h.says("cat-manifest", string(id))), &m))
	require.Equal(t, "PodManifest", m.ACKind)
	require.Equal(t, []manifestPort{{"80-tcp", 8080, "", podPort{"80-tcp", "tcp", 80}}}, m.Ports)
	require.Equal(t, []nameValue{{"coreos.com/rkt/stage1/flavor", "lean"}}, m.Annotations)
	require.Equal(t, map[string]string{"l": "1"}, m.UserLabels)
	require.Len(t, m.Apps, 1)
	a := m.Apps[0]
	require.Equal(t, "web", a.Name)
	require.True(t, a.ReadOnlyRootFS)
	require.Equal(t, []manifestMount{{"volume-0", "/data", manifestVolume{"volume-0", "host", "/srv", true}}}, a.Mounts)
	require.Equal(t, []string{"/bin/web", "-v"}, a.App.Exec)
	require.Equal(t, "7", a.App.User)
	require.Equal(t, "8", a.App.Group)
	require.Equal(t, []uint32{9}, a.App.SupplementaryGIDs)
	require.Equal(t, []nameValue{{"A", "b"}, {"PATH", "/bin"}}, a.App.Environment)
	require.Equal(t, []isolator{
		{"os/linux/capabilities-retain-set", map[string]any{"set": []any{"CAP_CHOWN"}}},
		{"resource/cpu", map[string]any{"limit": "500m"}},
		{"resource/memory", map[string]any{"limit": "1048576"}},
	}, a.App.Isolators)
}

func TestPodCommandsFailAsRkts(t *testing.T) {
	h := newPodHost(t)
	id, _ := h.launch("u1", "web", "log")
	u := string(id)
	for _, c := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"status nope", 254, `status: problem retrieving pod: no matches found for "nope"`},
		{"status", 254, "status: want UUID, got 0 arguments"},
		{"status --wait=soon " + u, 254, `status: invalid argument "soon" for "--wait" flag: want true, false or a duration`},
		{"status --uuid-file=/nonexistent", 254, "status: --uuid-file: open /nonexistent: no such file or directory"},
		{"status --uuid-file=/nonexistent x", 254, "status: want either UUID or --uuid-file, not both"},
		{"cat-manifest nope", 254, `cat-manifest: problem retrieving pod: no matches found for "nope"`},
		{"app list nope", 1, `list: error listing apps: no matches found for "nope"`},
		{"app list", 1, "list: want UUID, got 0 arguments"},
		{"app list --nope " + u, 1, "list: unknown flag: --nope"},
		{"app status " + u, 1, "status: --app: want the name of an app"},
		{"app status nope --app=web", 1, `status: error getting app status: no matches found for "nope"`},
		{"app status " + u + " --app=nope", 1, `status: cannot find app "nope" in the pod`},
		{"enter nope", 254, `enter: problem retrieving pod: no matches found for "nope"`},
		{"enter " + u + " true", 254, `enter: unable to determine app name: specify app using "rkt enter --app= ..."`},
		{"enter --app=nope " + u + " true", 6, `enter: cannot find app "nope" in the pod`},
		{"enter", 254, "enter: want at least one UUID"},
		{"attach --app=web --mode=stdin " + u, 254, `attach: --mode: app "web" has no stdin, it has stdout, stderr`},
		{"attach --app=web --mode=tty,stdout " + u, 254, `attach: --mode: app "web" has no tty, it has stdout, stderr`},
		{"attach --app=web --mode=auto,stdout " + u, 254, `attach: --mode: auto does not mix with others`},
		{"attach --app=web --mode=all " + u, 254, `attach: invalid argument "all" for "--mode" flag: "all": want some of auto,list,tty`},
		{"logs nope", 254, `logs: problem retrieving pod: no matches found for "nope"`},
		{"logs --tail=-2 " + u, 254, "logs: --tail: -2 is less than -1"},
		{"logs " + u, 254, `logs: unable to determine app name: specify app using "rkt logs --app= ..."`},
		{"stop nope", 254, "stop: cannot get pod: no matches found for \"nope\"\nstop: failed to stop 1 pod(s)"},
		{"stop", 254, "stop: want at least one UUID"},
		{"rm nope " + u, 254, "rm: cannot get pod: no matches found for \"nope\"\nrm: pod \"" + u + "\" is currently running\nrm: failed to remove one or more pods"},
		{"gc --grace-period=-1s", 254, "gc: --grace-period: -1s is negative"},
	} {
		t.Run(c.args, func(t *testing.T) {
			code, stdout, stderr := h.inProcess(strings.Fields(c.args)...)
			require.Equal(t, c.code, code, stderr)
			require.Contains(t, stderr, c.stderr)
			require.Empty(t, stdout)
		})
	}
}

func TestStopSignalsNobodyButTheSupervisor(t *testing.T) {
	h := newPodHost(t)
	id, _ := h.launch("u1", "web")
	code, stdout, stderr := h.inProcess("stop", string(id)) // the fake's pid is this process's
	require.Equal(t, 254, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "is not the supervisor of pod "+string(id))
	require.Contains(t, stderr, "stop: failed to stop 1 pod(s)\n")
	require.Contains(t, h.says("status", string(id)), "state=running\n")
}

func TestStopByForceIsOverWhenItReturns(t *testing.T) {
	for _, kubelet := range []string{"up", "down"} {
		t.Run("kubelet "+kubelet, func(t *testing.T) {
			h := newPodHost(t)
			id, _ := h.launch("u1", "web")
			other, _ := h.launch("u2", "web")
			if kubelet == "down" {
				h.stop()
			}

			code, stdout, stderr := h.inProcess("stop", "--force=true", string(id), "nope", string(other))

			require.Equal(t, 254, code)
			require.Equal(t, fmt.Sprintf("%q\n%q\n", id, other), stdout)
			require.Equal(t, "stop: cannot get pod: no matches found for \"nope\"\nstop: failed to stop 1 pod(s)\n", stderr)
			out := h.says("status", string(id))
			require.Contains(t, out, "state=exited\n")
			require.Contains(t, out, "app-web=9\n")
			require.Equal(t, fmt.Sprintf("pod %q is already stopped\n", id), h.says("stop", string(id)))
		})
	}
}

func TestExitedPodsAreRemovedAndCollected(t *testing.T) {
	for _, kubelet := range []string{"up", "down"} {
		t.Run("kubelet "+kubelet, func(t *testing.T) {
			h := newPodHost(t)
			removed, _ := h.launch("u1", "web")
			collected, _ := h.launch("u2", "web")
			living, _ := h.launch("u3", "web")
			stray := h.folders.PodsRun() + "/aabbccdd-0000-4000-8000-000000000000"
			require.NoError(t, os.Mkdir(stray, 0o700))
			for _, id := range []pod.ID{removed, collected} {
				h.says("stop", "--force", string(id))
			}
			if kubelet == "down" {
				h.stop()
			} else { // it sees by itself that their supervisors are gone
				require.Eventually(t, func() bool {
					ended := h.engine.Pods(func(p *pod.Pod) bool { return p.State == pod.Exited })
					return len(ended) == 2
				}, time.Minute, time.Millisecond)
			}

			require.Equal(t, fmt.Sprintf("%q\n", removed), h.says("rm", string(removed)))
			code, stdout, stderr := h.inProcess("gc", "--mark-only")
			require.Equal(t, 0, code)
			require.Empty(t, stdout)
			require.Equal(t, fmt.Sprintf("gc: moving pod %q to garbage\n", collected), stderr)
			require.Contains(t, h.says("status", string(collected)), "state=exited garbage\n")
			_, stdout, stderr = h.inProcess("gc")
			require.Equal(t, fmt.Sprintf("gc: pod %q not removed: still within grace period (30m0s)\n", collected), stderr)
			require.Equal(t, fmt.Sprintf("Garbage collecting folder %q\n", stray), stdout)
			require.Equal(t, fmt.Sprintf("Garbage collecting pod %q\n", collected), h.says("gc", "--grace-period=0s"))
			require.NotContains(t, h.says("list", "--full"), collected)

			left, err := filepath.Glob(h.folders.Pods() + "/*-*")
			require.NoError(t, err)
			require.Equal(t, []string{h.folders.Pods() + "/" + string(living)}, left)
			require.NotNil(t, h.launcher.Fake(string(living)))
			require.Contains(t, h.says("status", string(living)), "state=running\n")
		})
	}
}

func TestKubeletTakesOverAfterRkt(t *testing.T) {
	h := newPodHost(t)
	living, _ := h.launch("u1", "web")
	gone, _ := h.launch("u2", "web")
	h.stop()
	h.says("stop", "--force", string(gone))
	h.says("rm", string(gone))

	h.start()

	p, err := h.engine.Pod(living)
	require.NoError(t, err)
	require.Equal(t, pod.Running, p.State)
	require.Len(t, h.engine.Pods(nil), 1)
	require.Len(t, h.engine.Apps(nil), 1)
	require.Equal(t, pod.Running, h.engine.Apps(nil)[0].State)
}
