package rundir

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func TestDefaultFolderHasTheDefaultRunFolder(t *testing.T) {
	dir, err := Of(DefaultDir + "/")

	require.NoError(t, err)
	require.Equal(t, "/run/rkt", dir)
}

func TestFolderHasOneRunFolderByAllItsNames(t *testing.T) {
	parent := t.TempDir()
	node, link := filepath.Join(parent, "node"), filepath.Join(parent, "link")
	require.NoError(t, os.Mkdir(node, 0o755))
	require.NoError(t, os.Symlink(node, link))

	byName, err := Of(node)
	require.NoError(t, err)
	byLink, err := Of(link)
	require.NoError(t, err)
	other, err := Of(parent)
	require.NoError(t, err)

	require.Equal(t, byName, byLink)
	require.Regexp(t, `^/run/rkt-[0-9a-f]{12}$`, byName)
	require.NotEqual(t, byName, other)
}

func TestFolderThatIsStillToBeMadeHasTheSameRunFolderAsOnceItIsThere(t *testing.T) {
	parent := t.TempDir()
	real, link := filepath.Join(parent, "real"), filepath.Join(parent, "link")
	require.NoError(t, os.Mkdir(real, 0o755))
	require.NoError(t, os.Symlink(real, link))

	before, err := Of(filepath.Join(link, "new/node"))
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(real, "new/node"), 0o755))
	after, err := Of(filepath.Join(link, "new/node"))
	require.NoError(t, err)

	require.Equal(t, after, before)
}

func TestFindChangesNothing(t *testing.T) {
	parent := t.TempDir()

	_, err := Find(filepath.Join(parent, "node"), filepath.Join(parent, "run"))

	require.NoError(t, err)
	left, err := os.ReadDir(parent)
	require.NoError(t, err)
	require.Empty(t, left)
}

// recorded is a node whose run folder was chosen.
func recorded(t *testing.T) Folders {
	t.Helper()
	parent := t.TempDir()
	f, err := Find(filepath.Join(parent, "node"), filepath.Join(parent, "run"))
	require.NoError(t, err)
	require.NoError(t, f.Record())
	return f
}

func TestChosenRunFolderIsFoundByTheDataFolderAlone(t *testing.T) {
	f := recorded(t)
	require.NoError(t, f.Record(), "again")

	found, err := Find(f.Dir, "")
	require.NoError(t, err)
	require.Equal(t, f, found)

	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink(filepath.Dir(f.Run), link))
	found, err = Find(filepath.Join(link, "node"), filepath.Join(link, "run"))
	require.NoError(t, err)
	require.Equal(t, f, found)
}

func TestAnotherRunFolderIsRefusedUntilTheRecordedOneHasVanished(t *testing.T) {
	f := recorded(t)
	other := f.Run + "-other"

	_, err := Find(f.Dir, other)
	require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
	require.ErrorContains(t, err, "it is "+f.Run+", by the file "+f.Dir+"/run-dir, and cannot be "+other+" before a reboot")
	require.ErrorIs(t, Folders{f.Dir, other}.Record(), errdefs.ErrFailedPrecondition, "two that start at once")
	require.NoDirExists(t, other)

	require.NoError(t, os.Remove(f.Run)) // as a reboot does
	found, err := Find(f.Dir, "")
	require.NoError(t, err)
	require.Equal(t, f, found, "nothing else was chosen")
	found, err = Find(f.Dir, other)
	require.NoError(t, err)
	require.NoError(t, found.Record())
	found, err = Find(f.Dir, "")
	require.NoError(t, err)
	require.Equal(t, other, found.Run)
}

func TestOneOfManyThatStartAtOnceChooses(t *testing.T) {
	parent := t.TempDir()
	errs := make(chan error)
	const many = 8
	for i := range many {
		go func() { errs <- Folders{filepath.Join(parent, "node"), filepath.Join(parent, fmt.Sprint(i))}.Record() }()
	}
	done := 0
	for range many {
		if err := <-errs; err == nil {
			done++
		} else {
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		}
	}
	require.Equal(t, 1, done)
	left, err := os.ReadDir(filepath.Join(parent, "node"))
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary file")
}

func TestUnreadableRecordIsNotTakenForNone(t *testing.T) {
	f := recorded(t)
	for text, want := range map[string]string{"": `run-dir: "" is not an absolute path`, "run\n": `"run" is not an absolute path, remove the file`} {
		require.NoError(t, os.WriteFile(filepath.Join(f.Dir, recordFile), []byte(text), 0o600))
		_, err := Find(f.Dir, "")
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, f.Record(), want)
	}
	require.NoError(t, os.Remove(filepath.Join(f.Dir, recordFile)))
	require.NoError(t, os.Mkdir(filepath.Join(f.Dir, recordFile), 0o700))
	_, err := Find(f.Dir, "")
	require.ErrorContains(t, err, "is a directory")
}

func TestFoldersThatCannotBeMadeAreNamed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorContains(t, Folders{file + "/node", t.TempDir()}.Record(), "make the data folder: mkdir "+file)
	require.ErrorContains(t, Folders{t.TempDir(), file + "/run"}.Record(), "mkdir "+file)

	loop := filepath.Join(t.TempDir(), "loop")
	require.NoError(t, os.Symlink(loop, loop))
	_, err := Of(loop)
	require.ErrorContains(t, err, "find the run folder of "+loop)
	_, err = Find(t.TempDir(), loop)
	require.ErrorContains(t, err, "too many links")
}
