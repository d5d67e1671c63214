package streaming

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/client-go/tools/remotecommand"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func attachURL(t *testing.T, s *Service, container string, stdin, tty bool) string {
	t.Helper()
	resp, err := s.Attach(t.Context(), &runtimeapi.AttachRequest{ContainerId: container, Stdin: stdin, Stdout: true, Stderr: !tty, Tty: tty})
	require.NoError(t, err)
	return resp.Url
}

func TestAttachCarriesBothWaysUntilTheContainerEnds(t *testing.T) {
	for _, protocol := range protocols {
		s, h := start(t)
		h.attach = func(_ context.Context, stdio Stdio) error {
			b := make([]byte, len("question\n"))
			if _, err := io.ReadFull(stdio.Stdin, b); err != nil {
				return err
			}
			_, _ = io.WriteString(stdio.Stdout, "answer to "+string(b))
			_, _ = io.WriteString(stdio.Stderr, "complaint\n")
			return nil
		}
		in, keys := io.Pipe()
		go func() { _, _ = io.WriteString(keys, "question\n") }() // stdin stays open
		var stdout, stderr screen
		err := executor(t, protocol, attachURL(t, s, "app", true, false)).StreamWithContext(within(t),
			remotecommand.StreamOptions{Stdin: in, Stdout: &stdout, Stderr: &stderr})
		in.Close()
		require.NoError(t, err)
		require.Equal(t, "answer to question\n", stdout.String())
		require.Equal(t, "complaint\n", stderr.String())
	}
}

func TestAttachPassesTheEndOfStdin(t *testing.T) {
	s, h := start(t)
	h.attach = func(_ context.Context, stdio Stdio) error {
		_, err := io.Copy(stdio.Stdout, stdio.Stdin)
		return err
	}
	var stdout screen
	require.NoError(t, executor(t, "spdy", attachURL(t, s, "app", true, false)).StreamWithContext(within(t),
		remotecommand.StreamOptions{Stdin: strings.NewReader("all\n"), Stdout: &stdout, Stderr: io.Discard}))
	require.Equal(t, "all\n", stdout.String())
}

func TestAttachResizesTheContainersTerminal(t *testing.T) {
	s, h := start(t)
	resized := make(chan struct{})
	h.attach = func(ctx context.Context, _ Stdio) error {
		select {
		case <-resized:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	queue := make(sizes, 1)
	queue <- remotecommand.TerminalSize{Width: 80, Height: 25}
	done := make(chan error, 1)
	url := attachURL(t, s, "terminal", false, true)
	go func() {
		done <- executor(t, "spdy", url).StreamWithContext(within(t), remotecommand.StreamOptions{Stdout: io.Discard, Tty: true, TerminalSizeQueue: queue})
	}()
	require.Equal(t, [2]int{25, 80}, <-h.sizes)
	close(resized)
	require.NoError(t, <-done)
	close(queue)
}

func TestClientThatDetachesEndsItsAttachOnly(t *testing.T) {
	for _, protocol := range protocols {
		s, h := start(t)
		ended := make(chan error, 1)
		h.attach = func(ctx context.Context, stdio Stdio) error {
			_, _ = io.WriteString(stdio.Stdout, "hello")
			<-ctx.Done()
			ended <- ctx.Err()
			return ctx.Err()
		}
		ctx, leave := context.WithCancel(within(t))
		var stdout screen
		done := make(chan error, 1)
		url := attachURL(t, s, "app", false, false)
		go func() {
			done <- executor(t, protocol, url).StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &stdout, Stderr: io.Discard})
		}()
		require.Eventually(t, func() bool { return stdout.String() == "hello" }, patience, 1e6)
		leave()
		require.Error(t, <-done)
		require.ErrorIs(t, <-ended, context.Canceled)
	}
}

// All that a client sends is taken, also when the app takes no more of it.
func TestAttachToWhatTakesNoInputEnds(t *testing.T) {
	s, h := start(t)
	h.attach = func(_ context.Context, stdio Stdio) error {
		stdio.Stdin.Close()
		_, _ = io.WriteString(stdio.Stdout, "enough")
		return nil
	}
	var stdout screen
	require.NoError(t, executor(t, "spdy", attachURL(t, s, "app", true, false)).StreamWithContext(within(t),
		remotecommand.StreamOptions{Stdin: io.LimitReader(zeros{}, 4<<20), Stdout: &stdout, Stderr: io.Discard}))
	require.Equal(t, "enough", stdout.String())
}
