package supervisor_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/supervisortest"
)

// dial starts f in folders of its own and dials it.
func dial(t *testing.T, f *supervisortest.Fake) (*supervisor.Client, string) {
	t.Helper()
	podDir, runDir := t.TempDir(), t.TempDir()
	require.NoError(t, supervisor.WriteSpec(podDir, supervisor.Spec{Flavor: "lean", Stage1: stage1.Spec{ID: "p"}}))
	require.NoError(t, f.Start(podDir, runDir))
	t.Cleanup(f.Kill)
	c, err := supervisor.Dial(t.Context(), runDir, "test")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c, runDir
}

func TestHelloTellsWhoAnswers(t *testing.T) {
	c, _ := dial(t, &supervisortest.Fake{})
	require.Equal(t, supervisor.Hello{Version: supervisor.VersionMax, Pod: "p", Flavor: "lean", PID: os.Getpid()}, c.Hello())
}

func TestSupervisorOfAnUnknownVersionIsRefused(t *testing.T) {
	podDir, runDir := t.TempDir(), t.TempDir()
	require.NoError(t, supervisor.WriteSpec(podDir, supervisor.Spec{Stage1: stage1.Spec{ID: "p"}}))
	f := &supervisortest.Fake{Version: -1}
	require.NoError(t, f.Start(podDir, runDir))
	t.Cleanup(f.Kill)
	_, err := supervisor.Dial(t.Context(), runDir, "test")
	require.Error(t, err)
}

func TestNobodyListensIsUnavailable(t *testing.T) {
	_, err := supervisor.Dial(t.Context(), t.TempDir(), "test")
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
}

func TestErrorsKeepTheirClassAndText(t *testing.T) {
	for _, class := range []error{errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrAlreadyExists,
		errdefs.ErrFailedPrecondition, errdefs.ErrNotImplemented, errdefs.ErrUnavailable, errdefs.ErrResourceExhausted,
		context.DeadlineExceeded, context.Canceled, nil} {
		t.Run(errText(class), func(t *testing.T) {
			fail := errors.Join(errors.New("open /x: what \"happened\""), class)
			c, _ := dial(t, &supervisortest.Fake{Fail: func(supervisor.Request) error { return fail }})
			_, err := c.StartApp(t.Context(), "a")
			require.EqualError(t, err, fail.Error())
			if class != nil {
				require.ErrorIs(t, err, class)
			}
		})
	}
}

func errText(err error) string {
	if err == nil {
		return "none"
	}
	return err.Error()
}

func TestCallEndsWithItsContextAndItsConnection(t *testing.T) {
	stuck := make(chan struct{})
	f := &supervisortest.Fake{Fail: func(r supervisor.Request) error {
		if r.Op == supervisor.OpStartApp {
			<-stuck
		}
		return nil
	}}
	c, _ := dial(t, f)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.StartApp(ctx, "a")
	require.ErrorIs(t, err, context.Canceled)
	_, err = c.Status(t.Context())
	require.NoError(t, err, "other calls go on")
	require.Contains(t, f.Ops(), supervisor.OpCancel)

	done := make(chan error, 1)
	go func() {
		_, err := c.StartApp(t.Context(), "a")
		done <- err
	}()
	require.Eventually(t, func() bool { return strings.Count(strings.Join(f.Ops(), " "), supervisor.OpStartApp) == 2 }, time.Minute, time.Millisecond)
	close(stuck)
	f.Kill()
	require.Error(t, <-done)
	<-c.Gone()
	_, err = c.Status(t.Context())
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	_, err = c.Next(t.Context())
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
}

func TestEventsComeInOrderAndOnce(t *testing.T) {
	f := &supervisortest.Fake{}
	c, _ := dial(t, f)
	require.NoError(t, c.Subscribe(t.Context(), 0))
	for _, name := range []string{"a", "b", "c"} {
		_, err := c.CreateApp(t.Context(), supervisor.AppSpec{Name: name, Dir: t.TempDir()})
		require.NoError(t, err)
		require.NoError(t, f.ExitApp(name, supervisor.Exit{Code: 1}))
	}
	for i, name := range []string{"a", "b", "c"} {
		ev, err := c.Next(t.Context())
		require.NoError(t, err)
		require.Equal(t, uint64(i+1), ev.Seq)
		require.Equal(t, name, ev.App)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Next(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func TestExecSyncCollectsOutput(t *testing.T) {
	f := &supervisortest.Fake{Exec: func(req supervisor.Request, files []*os.File) (supervisor.Exit, error) {
		_, _ = files[2].WriteString("out")
		_, _ = files[3].WriteString("error")
		return supervisor.Exit{Code: 3, TimedOut: req.Timeout > 0}, nil
	}}
	c, _ := dial(t, f)
	out, err := c.ExecSync(t.Context(), supervisor.ExecSpec{App: "a"}, 4)
	require.NoError(t, err)
	require.Equal(t, supervisor.ExecOutput{Stdout: []byte("out"), Stderr: []byte("erro"), Exit: out.Exit}, out)
	require.Equal(t, 3, out.Exit.Code)
	_, err = c.ExecSync(t.Context(), supervisor.ExecSpec{App: "a", Timeout: time.Second}, 4)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = c.ExecSync(t.Context(), supervisor.ExecSpec{App: "a", TTY: true}, 4)
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
}

func TestMessageThatIsTooLargeIsRefusedAndHarmsNothing(t *testing.T) {
	c, _ := dial(t, &supervisortest.Fake{})
	_, err := c.CreateApp(t.Context(), supervisor.AppSpec{Name: strings.Repeat("x", supervisor.MaxMessage)})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	_, err = c.Status(t.Context())
	require.NoError(t, err)
}

func TestSpecSurvivesDisk(t *testing.T) {
	dir := t.TempDir()
	want := supervisor.Spec{
		Flavor: "nspawn", Cgroup: "/c", Runtime: "/usr/bin/crun", RuntimeArgs: []string{"--debug"},
		Stage1: stage1.Spec{ID: "p", Network: "/n", OwnIPC: true, OwnUTS: true, SharedPID: true, Hostname: "h\"", ShmBytes: 5,
			Dir: "/d", Cgroup: "/c/s", Sysctls: map[string]string{"net.a": "1", "net.b": "2"},
			Shares: []stage1.Share{{Tag: "t", Source: "/s", ReadOnly: true}, {Tag: "u"}}},
	}
	require.NoError(t, supervisor.WriteSpec(dir, want))
	got, err := supervisor.ReadSpec(dir)
	require.NoError(t, err)
	require.Equal(t, want, got)
	text, err := os.ReadFile(filepath.Join(dir, supervisor.SpecName))
	require.NoError(t, err)
	require.True(t, json.Valid(text))

	for name, doc := range map[string]string{
		"newer":      `{"version":2,"flavor":"lean"}`,
		"no version": `{"flavor":"lean"}`,
		"torn":       `{"version":1,"flavor":"le`,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, supervisor.SpecName), []byte(doc), 0o600))
		_, err = supervisor.ReadSpec(dir)
		require.Error(t, err, name)
	}
}

func TestExitSurvivesDiskAndEncodingJSON(t *testing.T) {
	dir := t.TempDir()
	_, err := supervisor.ReadExit(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
	want := supervisor.Exit{Code: 137, Signal: 9, OOMKilled: true, TimedOut: true,
		StartedAt: time.Unix(1, 2).UTC(), FinishedAt: time.Unix(3, 4).UTC()}
	require.NoError(t, supervisor.WriteExit(dir, want))
	got, err := supervisor.ReadExit(dir)
	require.NoError(t, err)
	require.Equal(t, want, got)
	doc, err := json.Marshal(want)
	require.NoError(t, err)
	var std supervisor.Exit
	require.NoError(t, json.Unmarshal(doc, &std))
	require.Equal(t, want, std)
}

// The messages of a newer engine or supervisor: what is unknown is left out.
func TestUnknownMembersOfMessagesAreIgnored(t *testing.T) {
	req, err := supervisor.DecodeRequest([]byte(`{"id":3,"op":"exec","new":{"a":[1]},"name":"a","timeoutMS":1500}`))
	require.NoError(t, err)
	require.Equal(t, supervisor.Request{ID: 3, Op: "exec", Name: "a", Timeout: 1500 * time.Millisecond}, req)
	r, err := supervisor.DecodeReply([]byte(`{"id":3,"status":{"pod":"p","apps":[{"name":"a","state":"running","mood":"good"}],"x":1},"y":null}`))
	require.NoError(t, err)
	require.Equal(t, supervisor.AppStatus{Name: "a", State: supervisor.AppRunning}, r.Status.Apps[0])
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(supervisor.Request{ID: 1, Op: "create-app", App: &supervisor.AppSpec{Name: "a"}}.Encode())
	f.Fuzz(func(t *testing.T, doc []byte) {
		req, err := supervisor.DecodeRequest(doc)
		if err != nil {
			return
		}
		again, err := supervisor.DecodeRequest(req.Encode())
		require.NoError(t, err)
		require.Equal(t, req.Op, again.Op)
	})
}
