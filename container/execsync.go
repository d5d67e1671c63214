package container

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// execOutputLimit is how much of each stream CRI wants at most (CVE-2022-1708,
// CVE-2022-31030).
const execOutputLimit = 16 << 20

// execAnswerLimit is how much of both fits into the one message of 16 MiB that the
// kubelet receives at most, with room for the rest of the message.
const execAnswerLimit = 16<<20 - 1<<10

// fit cuts the longer stream, or both to half, until the answer can be received.
func fit(stdout, stderr []byte) (_, _ []byte) {
	half := execAnswerLimit / 2
	switch {
	case len(stdout)+len(stderr) <= execAnswerLimit:
	case len(stderr) <= half:
		stdout = stdout[:execAnswerLimit-len(stderr)]
	case len(stdout) <= half:
		stderr = stderr[:execAnswerLimit-len(stdout)]
	default:
		stdout, stderr = stdout[:half], stderr[:half]
	}
	return stdout, stderr
}

// ExecSync implements runtime.v1.RuntimeService. At the timeout, in seconds, all
// that the command started is killed and the error is DeadlineExceeded; 0 means
// none. Output beyond 16 MiB, of a stream and of both, is dropped; the command goes
// on.
func (s *Service) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	id := pod.AppID(req.GetContainerId())
	if req.GetTimeout() < 0 {
		return nil, invalid("timeout", "%d is negative", req.GetTimeout())
	}
	process, err := s.execProcess(id, req.GetCmd(), false)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", id, err)
	}
	out, err := s.apps.ExecSync(ctx, id, process, time.Duration(req.GetTimeout())*time.Second, execOutputLimit)
	if err != nil {
		return nil, err
	}
	stdout, stderr := fit(out.Stdout, out.Stderr)
	return &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: int32(out.Exit.Code)}, nil
}

// execProcess is the process of an exec: the container's own with another command.
func (s *Service) execProcess(id pod.AppID, cmd []string, tty bool) ([]byte, error) {
	if len(cmd) == 0 {
		return nil, invalid("cmd", "is empty")
	}
	if _, err := s.apps.App(id); err != nil {
		return nil, err
	}
	own, err := s.apps.AppProcess(id)
	if err != nil {
		return nil, err
	}
	var p specs.Process
	if err := json.Unmarshal(own, &p); err != nil {
		return nil, fmt.Errorf("read the container's process: %w", err)
	}
	p.Args, p.Terminal, p.ConsoleSize, p.CommandLine = cmd, tty, nil, ""
	return json.Marshal(p)
}

// ExecProcess returns the process of an interactive exec, the JSON of process in
// the OCI spec: for the streaming server.
func (s *Service) ExecProcess(id pod.AppID, cmd []string, tty bool) ([]byte, error) {
	return s.execProcess(id, cmd, tty)
}
