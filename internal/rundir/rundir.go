// Package rundir says where a node keeps what must vanish at a reboot. The kubelet
// and rkt must agree on it, as both know only the node's data folder.
package rundir

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
)

// The folders of a node on which nothing was set.
const (
	DefaultDir = "/var/lib/rkt"
	Default    = "/run/rkt"
)

// Of gives the run folder that belongs to a data folder: [Default] for
// [DefaultDir], and one of its own for any other, so that two nodes on one
// machine never share mount counts or sockets. Symbolic links are resolved.
func Of(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the run folder of %s: %w", dir, err)
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	if abs == DefaultDir {
		return Default, nil
	}
	sum := sha256.Sum256([]byte(abs))
	return Default + "-" + hex.EncodeToString(sum[:6]), nil
}
