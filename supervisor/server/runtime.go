package server

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/rktnetes/rktshim/internal/reap"
)

// ociRuntime runs the OCI runtime's commands for one pod. Its state lies in the
// pod's run folder, so that nothing of a pod survives its run folder.
type ociRuntime struct {
	reaper *reap.Reaper
	path   string
	args   []string // before the command
	root   string   // the runtime's state
	tmp    string   // for pid files, logs and console sockets
	sealed *sealed  // nil unless the runtime is crun
	serial atomic.Uint64
}

// temp returns a path in the pod's run folder that nobody has used.
func (r *ociRuntime) temp(name string) string {
	return filepath.Join(r.tmp, name+"-"+strconv.FormatUint(r.serial.Add(1), 10))
}

// isRunc says whether the runtime is runc, whose exec places processes
// differently.
func (r *ociRuntime) isRunc() bool { return strings.HasPrefix(filepath.Base(r.path), "runc") }

// runtimeEnv is all that the runtime needs; apps get theirs from config.json.
var runtimeEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// command is one call of the runtime, under way.
type command struct {
	r    *ociRuntime
	verb string
	log  string // file that the runtime writes its error to
	proc *reap.Process
}

// start runs "<runtime> <verb> <args>" with the given stdio and further files from
// descriptor 3 on.
func (r *ociRuntime) start(verb string, args []string, files ...*os.File) (*command, error) {
	c := &command{r: r, verb: verb, log: r.temp("log")}
	argv := append([]string{r.path}, r.args...)
	argv = append(argv, "--root="+r.root, "--log="+c.log, verb)
	cmd := reap.Command{Path: r.path, Args: append(argv, args...), Env: runtimeEnv, Files: files}
	var err error
	if r.sealed != nil {
		cmd.Path = r.sealed.command()
	}
	c.proc, err = r.reaper.Start(cmd)
	if err != nil && cmd.Path != r.path {
		r.sealed.giveUp()
		cmd.Path = r.path
		c.proc, err = r.reaper.Start(cmd)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// finish waits for the command, removes its log and turns a failure into an error.
// A command that outlasts ctx is killed.
func (c *command) finish(ctx context.Context) error {
	st, err := c.proc.Wait(ctx)
	if err != nil {
		_ = c.proc.Signal(9) // it may have ended meanwhile
		<-c.proc.Done()
	}
	said := c.takeLog()
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", filepath.Base(c.r.path), c.verb, err)
	case st.Code != 0:
		return c.failure(st, said)
	}
	return nil
}

// takeLog returns the last lines that the runtime logged, and removes the file.
func (c *command) takeLog() string {
	text, err := os.ReadFile(c.log)
	if err != nil {
		return ""
	}
	_ = os.Remove(c.log)
	if len(text) > 4096 {
		text = text[len(text)-4096:]
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte{'\n'})
	return string(bytes.ToValidUTF8(bytes.TrimSpace(lines[len(lines)-1]), []byte{'?'}))
}

func (c *command) failure(st reap.Status, said string) error {
	if said == "" {
		said = "exit code " + strconv.Itoa(st.Code)
	}
	return fmt.Errorf("%s %s: %s", filepath.Base(c.r.path), c.verb, said)
}

// run is start and finish without stdio.
func (r *ociRuntime) run(ctx context.Context, verb string, args ...string) error {
	c, err := r.start(verb, args)
	if err != nil {
		return err
	}
	return c.finish(ctx)
}

// pidFrom reads a pid file and removes it.
func pidFrom(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read pid file: %w", err)
	}
	_ = os.Remove(path)
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return 0, fmt.Errorf("read pid file: %q is no pid", text)
	}
	return pid, nil
}
