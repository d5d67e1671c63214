package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/supervisor"
	"github.com/rktnetes/rktshim/supervisor/supervisortest"
)

// shared is a value that a test and its supervisor both use.
type shared[T any] struct {
	mu sync.Mutex
	v  T // guarded by mu
}

func (s *shared[T]) set(v T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.v = v
}

func (s *shared[T]) get() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.v
}

// askedProcess keeps the process that an exec asks for.
func askedProcess(asked *shared[specs.Process], file io.Reader) error {
	var p specs.Process
	err := json.NewDecoder(file).Decode(&p)
	asked.set(p)
	return err
}

// entered launches a pod with one app, whose supervisor answers execs.
func entered(t *testing.T, exec func(supervisor.Request, []*os.File) (supervisor.Exit, error)) (h *podHost, id string) {
	t.Helper()
	h = newPodHost(t)
	h.launcher.Prepare = func(_ string, f *supervisortest.Fake) { f.Exec = exec }
	pod, _ := h.launch("u1", "web")
	return h, string(pod)
}

func TestEnterForwardsHowItsCommandEnded(t *testing.T) {
	var exit shared[supervisor.Exit]
	h, id := entered(t, func(supervisor.Request, []*os.File) (supervisor.Exit, error) { return exit.get(), nil })
	for _, code := range []int{0, 1, 42, 254} {
		exit.set(supervisor.Exit{Code: code})
		got, _, stderr := h.try("enter", id, "true")
		require.Equal(t, code, got)
		require.Empty(t, stderr)
	}
	for signal, ends := range map[syscall.Signal]bool{
		syscall.SIGTERM: true, syscall.SIGKILL: true, syscall.SIGINT: true, syscall.SIGHUP: true, syscall.SIGQUIT: false, syscall.SIGSEGV: false,
	} {
		exit.set(supervisor.Exit{Code: 128 + int(signal), Signal: int(signal)})
		cmd := h.command("enter", id, "true")
		require.Error(t, cmd.Run())
		status := cmd.ProcessState.Sys().(syscall.WaitStatus)
		require.Equal(t, ends, status.Signaled(), signal)
		if ends {
			require.Equal(t, signal, status.Signal())
		} else {
			require.Equal(t, 128+int(signal), status.ExitStatus(), signal)
		}
	}
}

func TestEnteredCommandIsRootWithRktsStreams(t *testing.T) {
	var got shared[specs.Process]
	h, id := entered(t, func(_ supervisor.Request, files []*os.File) (supervisor.Exit, error) {
		if err := askedProcess(&got, files[0]); err != nil {
			return supervisor.Exit{}, err
		}
		_, err := io.Copy(files[2], files[1])
		_, err2 := files[3].WriteString("to stderr")
		return supervisor.Exit{}, errors.Join(err, err2)
	})
	cmd := h.command("enter", id, "cat", "-v", "--app=x")
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader("typed"), &out, &errOut

	require.NoError(t, cmd.Run())

	asked := got.get()
	require.Equal(t, "typed", out.String())
	require.Equal(t, "to stderr", errOut.String())
	require.Equal(t, []string{"cat", "-v", "--app=x"}, asked.Args, "verbatim after the UUID")
	require.Equal(t, "/", asked.Cwd)
	require.Equal(t, specs.User{}, asked.User)
	require.False(t, asked.Terminal)
	require.False(t, asked.NoNewPrivileges)
	require.Contains(t, asked.Capabilities.Bounding, "CAP_SYS_ADMIN")
	require.Subset(t, asked.Env, []string{"A=b", "PATH=/bin", "AC_APP_NAME=web", "USER=root", "HOME=/root"})
}

func TestEnterWithoutACommandAssumesAShell(t *testing.T) {
	var asked shared[specs.Process]
	h, id := entered(t, func(_ supervisor.Request, files []*os.File) (supervisor.Exit, error) {
		return supervisor.Exit{}, askedProcess(&asked, files[0])
	})
	code, _, stderr := h.try("enter", id)
	require.Equal(t, 0, code)
	require.Equal(t, "enter: no command specified, assuming \"/bin/bash\"\n", stderr)
	require.Equal(t, []string{"/bin/bash"}, asked.get().Args)
}

func TestEnterSaysWhyACommandDidNotStart(t *testing.T) {
	var why shared[error]
	h := newPodHost(t)
	h.launcher.Prepare = func(_ string, f *supervisortest.Fake) {
		f.Fail = func(req supervisor.Request) error {
			if req.Op == supervisor.OpExec {
				return why.get()
			}
			return nil
		}
	}
	pod, _ := h.launch("u1", "web")
	for _, c := range []struct {
		why  error
		code int
		want string
	}{
		{errors.New("no such file"), 1, "enter: unable to run \"/x\": no such file\n"},
		{errdefs.ErrFailedPrecondition.WithMessage("it is not running"), 254, "enter: it is not running\n"},
		{errdefs.ErrUnavailable.WithMessage("gone"), 254, "enter: gone\n"},
	} {
		why.set(c.why)
		code, _, stderr := h.try("enter", string(pod), "/x")
		require.Equal(t, c.code, code)
		require.Equal(t, c.want, stderr)
	}
}

func TestPodThatIsOverCannotBeEntered(t *testing.T) {
	h := newPodHost(t)
	id, _ := h.launch("u1", "web")
	require.NoError(t, h.engine.Stop(t.Context(), id, 0))
	code, _, stderr := h.inProcess("enter", string(id), "true")
	require.Equal(t, 254, code)
	require.Equal(t, "enter: pod \""+string(id)+"\" isn't currently running\n", stderr)
	code, _, stderr = h.inProcess("attach", string(id))
	require.Equal(t, 254, code)
	require.Equal(t, "attach: app \"web\" is exited, it must be running\n", stderr)
}

func TestThreeKeysInARowLeaveATerminal(t *testing.T) {
	for name, c := range map[string]struct {
		typed  []string
		passed string
		left   bool
	}{
		"at once":          {[]string{"ab\x1d\x1d\x1dcd"}, "ab", true},
		"one by one":       {[]string{"ab", "\x1d", "\x1d", "\x1d", "cd"}, "ab\x1d\x1d", true},
		"not in a row":     {[]string{"\x1d\x1da\x1d"}, "\x1d\x1da\x1d", false},
		"the end of input": {[]string{"a"}, "a", false},
	} {
		left := false
		keys := make([]io.Reader, 0, len(c.typed))
		for _, s := range c.typed {
			keys = append(keys, strings.NewReader(s))
		}
		passed, err := io.ReadAll(&detachReader{r: io.MultiReader(keys...), detach: func() { left = true }})
		require.NoError(t, err)
		require.Equal(t, c.passed, string(passed), name)
		require.Equal(t, c.left, left, name)
	}
}
