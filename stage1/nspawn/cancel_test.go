package nspawn

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/stage1/stage1test"
)

// The script stands for a systemd-nspawn that is half way through its setup, with a
// mount of which only it knows, until its init ends.
func TestBootThatIsCanceledLetsNspawnCleanUp(t *testing.T) {
	dir := t.TempDir()
	mark, script := filepath.Join(dir, "mark"), filepath.Join(dir, "nspawn")
	text := "#!/bin/sh\n: >" + mark + "\ncat >/dev/null\nrm " + mark + "\n"
	require.NoError(t, os.WriteFile(script, []byte(text), 0o700))
	ctx, cancel := context.WithCancel(t.Context())
	i := &instance{spec: stage1.Spec{ID: "a", Dir: dir}, files: map[stage1.Kind]*os.File{}, leader: -1, done: make(chan struct{})}
	go func() {
		defer cancel()
		for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if _, err := os.Lstat(mark); err == nil {
				return
			}
		}
	}()

	_, err := i.start(ctx, script, stage1test.Host())

	require.True(t, errors.Is(err, os.ErrDeadlineExceeded), "%v", err)
	require.FileExists(t, mark)
	require.NoError(t, i.Stop(t.Context()))
	require.NoFileExists(t, mark)
	require.NoError(t, i.Stop(t.Context()), "it may be called again")
}
