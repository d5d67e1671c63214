// Package hellobin holds the web server of the demo (cmd/hello) inside this
// binary, so that the demo needs no registry.
package hellobin

import (
	"embed"
	"errors"
	"io/fs"
)

// The Makefile builds the binary into this folder before hyperkube.
//
//go:embed bin
var files embed.FS

// Binary is a static executable that serves a page on port 8080.
func Binary() ([]byte, error) {
	b, err := files.ReadFile("bin/hello")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("this binary was built without the demo: build it by \"make build\"")
	}
	return b, err
}
