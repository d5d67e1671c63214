package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/capability"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/pod/operator"
)

// Exit codes of rkt enter where no command has run.
const (
	exitNoBinary = 1
	exitNoApp    = 6
)

const defaultShell = "/bin/bash"

func enterCommand(g *global) *cobra.Command {
	var app appFlag
	cmd := &cobra.Command{
		Use:   "enter [--app=NAME] UUID [CMD [ARGS ...]]",
		Short: "Run a command in an app",
		Long: `Runs a command in the namespaces, root filesystem and cgroup of a running app: as
root, in "/", with the app's environment and all capabilities of the node, but under
the app's seccomp profile, which the OCI runtime applies. With a terminal on standard
input the command gets a terminal of its own; else it gets rkt's own input and output.
Without CMD it is ` + defaultShell + `, as in rkt. Options of rkt come before UUID.

The exit code is the command's. SIGHUP, SIGINT, SIGKILL and SIGTERM that ended it end
rkt too; other signals are 128 and their number. It is 6 for an app that is not there
and 1 for a command that is not. If rkt ends first, the command
is killed with all that it started. An app that does not run cannot be entered, nor a
pod whose supervisor hangs.`,
		Example: `  rkt enter 5bc080ca /bin/sh
  rkt enter --app=web 5bc080ca ls -l /www`,
		Args: atLeastOne("UUID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, s, err := g.lookAt(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if s.State != pod.Running || s.Doomed {
				return fmt.Errorf("pod %q isn't currently running", s.ID)
			}
			a, err := app.of(cmd, &s)
			if err != nil && app.name != "" {
				return &exitError{code: exitNoApp, err: err}
			}
			if err != nil {
				return err
			}
			argv := args[1:]
			if len(argv) == 0 {
				note(cmd, "no command specified, assuming %q", defaultShell)
				argv = []string{defaultShell}
			}
			return enter(cmd, n, a, argv)
		},
	}
	app.bind(cmd)
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func enter(cmd *cobra.Command, n *operator.Node, a namedApp, argv []string) error {
	stdin, isFile := cmd.InOrStdin().(*os.File)
	tty := isFile && isTerminal(stdin)
	var size *specs.Box
	if tty {
		size = sizeOf(stdin)
	}
	process, err := enterProcess(n, a, argv, tty, size)
	if err != nil {
		return err
	}
	ctx := cmd.Context()
	c, err := n.Dial(ctx, a.Pod)
	if err != nil {
		return err
	}
	defer c.Close()
	spec := pod.ExecSpec{App: string(a.ID), Process: process, TTY: tty}
	var stdio [3]*os.File
	if !tty {
		stdio = [3]*os.File{stdin, fileOf(cmd.OutOrStdout()), fileOf(cmd.ErrOrStderr())}
	}
	session, err := c.Exec(ctx, spec, stdio[0], stdio[1], stdio[2])
	switch {
	case err == nil:
	case ctx.Err() != nil, errdefs.IsFailedPrecondition(err), errdefs.IsUnavailable(err):
		return err
	default: // what the OCI runtime said, mostly that there is no such file
		return &exitError{code: exitNoBinary, err: fmt.Errorf("unable to run %q: %w", argv[0], err)}
	}
	var exit pod.Exit
	if tty {
		t := terminalSession{stdin: stdin, stdout: cmd.OutOrStdout(), master: session.Terminal, resize: session.Resize}
		exit, err = t.run(ctx, session.Wait)
	} else {
		exit, err = session.Wait(ctx)
	}
	switch {
	case err != nil:
		return err
	case exit.Code != 0:
		return &exitError{code: exit.Code, signal: exit.Signal}
	}
	return nil
}

// fileOf returns the file behind a command's stream, nil if there is none.
func fileOf(w io.Writer) *os.File {
	f, _ := w.(*os.File)
	return f
}

// enterProcess is the app's own process with another command, as root and with all
// that root may do on this node.
func enterProcess(n *operator.Node, a namedApp, argv []string, tty bool, size *specs.Box) ([]byte, error) {
	config, err := configOf(n, a)
	if err != nil {
		return nil, err
	}
	p := config.Process
	if p == nil {
		return nil, fmt.Errorf("config.json of app %q has no process", a.name)
	}
	caps, err := nodeCapabilities()
	if err != nil {
		return nil, err
	}
	p.Args, p.Cwd, p.Terminal, p.ConsoleSize, p.CommandLine = argv, "/", tty, size, ""
	p.User = specs.User{}
	p.NoNewPrivileges, p.ApparmorProfile, p.SelinuxLabel = false, "", ""
	p.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	p.Env = enterEnv(p.Env, a.name, tty)
	return json.Marshal(p)
}

// enterEnv is what rkt gives to a command that enters: the app's environment, what
// root expects, and the app's name.
func enterEnv(app []string, name string, tty bool) []string {
	env := slices.Clone(app)
	has := func(key string) bool {
		return slices.ContainsFunc(env, func(kv string) bool { return strings.HasPrefix(kv, key+"=") })
	}
	standard := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "USER=root", "LOGNAME=root", "HOME=/root", "SHELL=/bin/sh"}
	if term := os.Getenv("TERM"); tty && term != "" {
		standard = append(standard, "TERM="+term)
	}
	for _, kv := range append(standard, "AC_APP_NAME="+name) {
		if key, _, _ := strings.Cut(kv, "="); !has(key) {
			env = append(env, kv)
		}
	}
	return env
}

// nodeCapabilities are all that a process of this node can have.
func nodeCapabilities() ([]string, error) {
	c, err := capability.NewPid2(0)
	if err == nil {
		err = c.Load()
	}
	if err != nil {
		return nil, fmt.Errorf("read the node's capabilities: %w", err)
	}
	var names []string
	for _, one := range capability.ListKnown() {
		if c.Get(capability.BOUNDING, one) {
			names = append(names, "CAP_"+strings.ToUpper(one.String()))
		}
	}
	return names, nil
}

// endBy ends this process by a signal, so that a shell says what a command that rkt
// ran has died of. It returns where the signal is none that ends a Go program
// without a word.
func endBy(sig int) {
	s := unix.Signal(sig)
	if !slices.Contains([]unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGKILL, unix.SIGTERM}, s) {
		return
	}
	signal.Reset(s)
	runtime.LockOSThread()
	_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), s) // to this thread, so it does not return
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// sizeOf is the size of a terminal, nil if that is not known.
func sizeOf(f *os.File) *specs.Box {
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return nil
	}
	return &specs.Box{Height: uint(size.Row), Width: uint(size.Col)}
}

// terminalSession joins the operator's terminal to one in a pod.
type terminalSession struct {
	stdin  *os.File // a terminal
	stdout io.Writer
	master *os.File
	resize func(ctx context.Context, rows, cols int) error
}

// drainTime is how long output is read after the end of a command: at once is its
// own, later what it left in the background.
const drainTime = time.Second

// run copies both ways until wait returns, in raw mode.
func (t *terminalSession) run(ctx context.Context, wait func(context.Context) (pod.Exit, error)) (pod.Exit, error) {
	defer t.master.Close()
	restore, err := rawMode(t.stdin)
	if err != nil {
		return pod.Exit{}, err
	}
	defer restore()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sized := t.follow(ctx)
	go io.Copy(t.master, t.stdin) // a read of a terminal cannot be ended: the process's end does
	out := make(chan struct{})
	go func() {
		defer close(out)
		io.Copy(t.stdout, t.master) // ends with EIO once nobody holds the other side
	}()
	exit, err := wait(ctx)
	_ = t.master.SetReadDeadline(time.Now().Add(drainTime))
	<-out
	cancel()
	<-sized
	return exit, err
}

// follow gives the pod's terminal the size of the operator's until ctx ends. The
// channel is closed then.
func (t *terminalSession) follow(ctx context.Context) <-chan struct{} {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, unix.SIGWINCH)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer signal.Stop(changed)
		for {
			if size := sizeOf(t.stdin); size != nil {
				_ = t.resize(ctx, int(size.Height), int(size.Width)) // what runs in it may have ended
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return done
}

// rawMode hands every key to the other side. restore gives the old mode back.
func rawMode(f *os.File) (restore func(), err error) {
	old, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
	}
	raw := *old
	raw.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	raw.Oflag &^= unix.OPOST
	raw.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	raw.Cflag = raw.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	raw.Cc[unix.VMIN], raw.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, &raw); err != nil {
		return nil, fmt.Errorf("set the terminal to raw mode: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, old) }, nil // it may be gone
}
