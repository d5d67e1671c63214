package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	// maxAnswer bounds what a plugin may write to each of stdout and stderr.
	maxAnswer = 1 << 20

	// A plugin that has exited or was killed may have left a process that holds
	// its pipes. Its answer is complete nevertheless.
	pipeDelay = time.Second

	// A plugin that is being installed cannot be executed for a moment.
	busyDelay = 100 * time.Millisecond
)

// plugins runs plugins, each in a process group of its own that is killed when
// the context ends. It implements invoke.Exec, libcni's way to swap the exec.
type plugins struct {
	version.PluginDecoder
	lock *os.File // inherited by every plugin, see claim; nil outside one
}

// FindInPath returns the plugin's path. Its error is of class Unavailable, not
// NotFound, which somebody might take for "nothing left to detach".
func (*plugins) FindInPath(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err != nil {
		return "", fmt.Errorf("plugin %q not found in %s: %w", plugin, strings.Join(dirs, ":"), errdefs.ErrUnavailable)
	}
	return path, nil
}

// ExecPlugin returns what the plugin wrote to stdout, or its error.
func (p *plugins) ExecPlugin(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	for {
		stdout, err := p.exec(ctx, path, stdin, env)
		if !errors.Is(err, syscall.ETXTBSY) {
			return stdout, err
		}
		select {
		case <-time.After(busyDelay):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (p *plugins) exec(ctx context.Context, path string, stdin []byte, env []string) ([]byte, error) {
	stdout, stderr := &limited{}, &limited{}
	cmd := exec.CommandContext(ctx, path)
	cmd.Env = env
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = pipeDelay
	if p.lock != nil {
		cmd.ExtraFiles = []*os.File{p.lock}
	}
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		if stdout.cut {
			return nil, fmt.Errorf("answer is longer than %d bytes", maxAnswer)
		}
		return stdout.data, nil
	}
	if ctx.Err() != nil && cmd.Process != nil {
		return nil, fmt.Errorf("killed before it answered: %w", ctx.Err())
	}
	return nil, pluginError(err, stdout.data, stderr.data)
}

// pluginError is the error that the plugin printed as the specification wants,
// else what it left on stderr, else how it ended.
func pluginError(err error, stdout, stderr []byte) error {
	var said types.Error
	switch {
	case json.Unmarshal(stdout, &said) == nil && (said.Msg != "" || said.Code != 0):
		return &said
	case len(bytes.TrimSpace(stderr)) > 0:
		return fmt.Errorf("%w: %q", err, tail(stderr))
	case len(bytes.TrimSpace(stdout)) > 0:
		return fmt.Errorf("%w: %q", err, tail(stdout))
	}
	return err
}

// tail is the end of a text: where a crash says why.
func tail(text []byte) []byte {
	text = bytes.TrimSpace(text)
	return text[max(0, len(text)-2000):]
}

// limited keeps the first maxAnswer bytes and drops the rest, so that a plugin
// gone mad does not fill the node agent's memory.
type limited struct {
	data []byte // not embedded as a Buffer, whose ReadFrom would go round Write
	cut  bool
}

func (l *limited) Write(p []byte) (int, error) {
	room := min(maxAnswer-len(l.data), len(p))
	if room < len(p) {
		l.cut = true
	}
	l.data = append(l.data, p[:room]...)
	return len(p), nil
}
