package cli

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnOutputAppearsWholeOrNotAtAll(t *testing.T) {
	for how, open := range map[string]func(string) (*output, error){"without a name": newOutput, "where each file needs a name": namedOutput} {
		t.Run(how, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "x")
			write := func(text string, end func(*output) error) error {
				o, err := open(path)
				require.NoError(t, err)
				_, err = o.WriteString(text)
				require.NoError(t, err)
				require.True(t, os.IsNotExist(lstat(path)) || text != "first", "not yet")
				err = end(o)
				require.NoError(t, o.Close())
				return err
			}
			names := func() (out []string) {
				entries, err := os.ReadDir(dir)
				require.NoError(t, err)
				for _, e := range entries {
					out = append(out, e.Name())
				}
				return out
			}

			if how == "without a name" {
				o, err := open(path)
				require.NoError(t, err)
				require.Empty(t, names(), "nothing to be left of it if it is killed now")
				require.NoError(t, o.Close())
			}
			require.NoError(t, write("given up", func(*output) error { return nil }))
			require.Empty(t, names())
			require.NoError(t, write("first", func(o *output) error { return o.commit(false) }))
			require.ErrorIs(t, write("second", func(o *output) error { return o.commit(false) }), os.ErrExist)
			got, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, "first", string(got), "another export was quicker")
			require.NoError(t, write("third", func(o *output) error { return o.commit(true) }))
			got, err = os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, "third", string(got))
			info, err := os.Stat(path)
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o644), info.Mode())
			require.Equal(t, []string{"x"}, names())

			require.NoError(t, os.Remove(path))
			require.NoError(t, os.Mkdir(path, 0o700))
			require.Error(t, write("fourth", func(o *output) error { return o.commit(true) }), "a folder is not replaced")
			require.Equal(t, []string{"x"}, names())
		})
	}
}

func lstat(path string) error {
	_, err := os.Lstat(path)
	return err
}

func TestAnOutputThatCannotBeMadeNamesItsFolder(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	_, err := newOutput(filepath.Join(gone, "x"))
	require.ErrorIs(t, err, os.ErrNotExist)
	require.ErrorContains(t, err, gone)
	_, err = namedOutput(filepath.Join(gone, "x"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
