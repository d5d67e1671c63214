// Package supervisorbin holds the binary rkt-supervisor inside this one, so that
// a node is one file.
package supervisorbin

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// The Makefile builds the binary into this folder before hyperkube.
//
//go:embed bin
var files embed.FS

const name = "rkt-supervisor"

// Unpack puts the binary into dir and gives its path. The name carries its hash:
// running pods keep the file that they were started with when a newer one comes.
// A file that is there is used if its content is right, else replaced.
func Unpack(dir string) (string, error) {
	content, err := files.ReadFile("bin/" + name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", errors.New("this binary was built without rkt-supervisor: build it by \"make build\"")
	}
	if err != nil {
		return "", err
	}
	return unpack(dir, content)
}

func unpack(dir string, content []byte) (string, error) {
	sum := sha256.Sum256(content)
	path := filepath.Join(dir, name+"-"+hex.EncodeToString(sum[:6]))
	if have, err := os.ReadFile(path); err == nil && sha256.Sum256(have) == sum {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	tmp, err := os.CreateTemp(dir, ".new-")
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Chmod(0o755), unix.Fsync(int(tmp.Fd())), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("unpack %s: %w", name, err)
	}
	return path, nil
}
