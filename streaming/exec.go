package streaming

import (
	"context"
	"fmt"

	utilexec "k8s.io/utils/exec"
)

// exec runs a command for a client until it has ended and its output was handed on,
// or ctx ends, which ends all that it has started. What it leaves behind in the
// background is not waited for.
func (s *Service) exec(ctx context.Context, id string, cmd []string, c client, tty bool) error {
	var ours pipes
	var theirs Stdio
	if !tty {
		var err error
		if ours, theirs, err = newPipes(c); err != nil {
			return err
		}
	}
	p, err := s.runtime.Exec(ctx, id, cmd, tty, theirs)
	theirs.close()
	if err != nil {
		ours.close()
		return err
	}
	if tty {
		ours = pipes{terminal: p.Terminal()}
	}
	code, err := converse(ctx, c, ours, peer{wait: p.Wait, resize: p.Resize})
	switch {
	case err != nil:
		return err
	case code != 0:
		return utilexec.CodeExitError{Err: fmt.Errorf("exit code %d", code), Code: code}
	}
	return nil
}
