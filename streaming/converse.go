package streaming

import (
	"context"
	"io"
	"os"
	"sync"

	"k8s.io/klog/v2"
)

// peer is what a client talks to.
type peer struct {
	wait   func(ctx context.Context) (int, error)
	resize func(ctx context.Context, rows, cols int) error
}

// converse copies between a client and its peer until the peer's wait returns, then
// hands on what is left of the output, closes the client's streams, and returns what
// wait did. Input goes on being taken, in the session's tasks, until its connection
// is closed. It closes ours.
func converse(ctx context.Context, c client, ours pipes, p peer) (int, error) {
	sess, _ := ctx.Value(sessionKey{}).(*session)
	stdin, stdout := ours.stdin, ours.stdout
	if ours.terminal != nil {
		stdin, stdout = ours.terminal, ours.terminal
		if c.out == nil { // else nobody would take what the terminal gives
			c.out = nowhere{}
		}
	}
	if stdin != nil && c.in != nil && sess.begin() {
		go func() {
			defer sess.tasks.Done()
			input(stdin, c.in)
			if ours.terminal == nil { // a terminal has no end that could be told
				stdin.Close()
			}
		}()
	}
	if c.resize != nil && sess.begin() {
		go func() {
			defer sess.tasks.Done()
			for size := range c.resize {
				if err := p.resize(ctx, int(size.Height), int(size.Width)); err != nil && ctx.Err() == nil {
					klog.FromContext(ctx).V(4).Info("Terminal not resized", "err", err)
				}
			}
		}()
	}
	var outputs sync.WaitGroup
	copyOut := func(dst io.WriteCloser, src *os.File) {
		if src == nil {
			return
		}
		outputs.Go(func() {
			output(dst, src)
			_ = dst.Close() // the client may have gone
		})
	}
	copyOut(c.out, stdout)
	copyOut(c.errOut, ours.stderr)
	code, err := p.wait(ctx)
	for _, src := range []*os.File{stdout, ours.stderr} {
		if src != nil {
			ended(src)
		}
	}
	outputs.Wait()
	ours.close()
	return code, err
}

// nowhere takes anything.
type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) Close() error                { return nil }
