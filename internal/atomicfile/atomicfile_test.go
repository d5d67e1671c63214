package atomicfile_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/internal/atomicfile"
)

func names(t *testing.T, dir string) (out []string) {
	entries, err := os.ReadDir(dir)
	assert.NoError(t, err)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func TestWriteReplacesContentAndModeAndLeavesNothingElse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	require.NoError(t, os.WriteFile(path, []byte("a much longer old content"), 0o644))
	require.NoError(t, atomicfile.Write(path, []byte("new"), 0o640))

	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "new", string(got))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o640), info.Mode())
	require.Equal(t, []string{"record.json"}, names(t, filepath.Dir(path)))
}

func TestWriteTakesAPathWithoutAFolder(t *testing.T) {
	t.Chdir(t.TempDir())
	require.NoError(t, atomicfile.Write("record", []byte("new"), 0o600))
	require.Equal(t, []string{"record"}, names(t, "."))
}

func TestAFullDiskLeavesTheOldContentAndNoTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	inMountNamespace(t, func() {
		if !assert.NoError(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k")) {
			return
		}
		path := filepath.Join(dir, "record")
		assert.NoError(t, atomicfile.Write(path, []byte("old"), 0o600))

		err := atomicfile.Write(path, []byte(strings.Repeat("x", 1<<20)), 0o600)
		assert.ErrorIs(t, err, syscall.ENOSPC)
		assert.ErrorContains(t, err, "write "+path)
		got, err := os.ReadFile(path)
		assert.NoError(t, err)
		assert.Equal(t, "old", string(got))
		assert.Equal(t, []string{"record"}, names(t, dir))
	})
}

// inMountNamespace runs f where its mounts end with it, even when the test is
// killed: on a thread that is never used again. f must not call t.FailNow.
func inMountNamespace(t *testing.T, f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		if syscall.Gettid() == syscall.Getpid() { // the main thread never ends; locked, it leaves the next goroutine another
			defer runtime.UnlockOSThread()
			inMountNamespace(t, f)
			return
		}
		err := syscall.Unshare(syscall.CLONE_FS | syscall.CLONE_NEWNS)
		if err == nil {
			err = syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")
		}
		if assert.NoError(t, err, "needs root") {
			f()
		}
	}()
	<-done
}

func TestAFailedRenameLeavesNoTemporaryFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "record")
	require.NoError(t, os.MkdirAll(filepath.Join(path, "child"), 0o755)) // a folder cannot be replaced by a file
	require.Error(t, atomicfile.Write(path, []byte("new"), 0o600))
	require.Equal(t, []string{"record"}, names(t, dir))
}

func TestAMissingFolderIsNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone", "record")
	err := atomicfile.Write(path, nil, 0o600)
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.ErrorContains(t, err, "gone")
}
