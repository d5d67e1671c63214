// Package atomicfile replaces a file so that a reader, and the next boot after a
// power loss, find either the old content or the new, never a part.
package atomicfile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write makes data the content of the file at path, with exactly the mode perm.
// It writes and syncs a temporary file beside it, renames that over path and
// syncs the folder: when it returns nil, the new content survives a power loss.
// A symbolic link at path is replaced, not followed.
//
// On an error before the rename the old file stands and the temporary one is
// gone; if only the last sync failed, the new content is in place but may not
// survive a power loss. A crash in between leaves a file named
// ".<name>.tmp-<number>", which nobody reads and whoever owns the folder may
// delete.
func Write(path string, data []byte, perm os.FileMode) (err error) {
	dir, name := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", path, err)
		}
	}()
	tmp, err := os.CreateTemp(dir, "."+name+".tmp-*")
	if err != nil {
		return err
	}
	if err := fill(tmp, data, perm); err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return syncFolder(dir)
}

// fill closes f, also when it fails.
func fill(f *os.File, data []byte, perm os.FileMode) error {
	_, err := f.Write(data)
	if err == nil {
		err = f.Chmod(perm)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
