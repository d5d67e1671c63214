package e2e

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/rktnetes/rktshim/internal/registrytest"
)

// addFile puts a file of this machine into a layer, at its own path. What a link
// leads to is taken in its place.
func addFile(w *tar.Writer, path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	st, err := os.Stat(path)
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: path[1:], Mode: int64(st.Mode().Perm()), Size: int64(len(b)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}

// addTree puts a folder of this machine into a layer, links as links.
func addTree(w *tar.Writer, root string) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir():
			return w.WriteHeader(&tar.Header{Name: path[1:] + "/", Mode: 0o755, Typeflag: tar.TypeDir})
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return w.WriteHeader(&tar.Header{Name: path[1:], Linkname: to, Typeflag: tar.TypeSymlink})
		case d.Type().IsRegular():
			return addFile(w, path)
		}
		return fmt.Errorf("%s is neither file nor folder nor link", path)
	})
}

// addLibraries puts in what the dynamic linker loads for a program.
func addLibraries(w *tar.Writer, program string) error {
	out, err := exec.Command("ldd", program).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ldd %s: %w: %s", program, err, out)
	}
	for line := range strings.Lines(string(out)) { // name => /path (address), or: /path (address)
		for _, field := range strings.Fields(line) {
			if strings.HasPrefix(field, "/") {
				if err := addFile(w, field); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// nginxImage is Debian's nginx-light as it is installed on this machine, with
// Debian's configuration, modules and page.
func nginxImage() registrytest.Image {
	const program = "/usr/sbin/nginx"
	layer := func(w *tar.Writer) error {
		for _, dir := range []string{"/etc/nginx", "/usr/share/nginx", "/usr/lib/nginx", "/var/www/html", "/var/lib/nginx"} {
			if err := addTree(w, dir); err != nil {
				return err
			}
		}
		for _, dir := range []string{"var/log/nginx/", "run/", "tmp/"} {
			if err := w.WriteHeader(&tar.Header{Name: dir, Mode: 0o1777, Typeflag: tar.TypeDir}); err != nil {
				return err
			}
		}
		for _, file := range []string{program, "/etc/passwd", "/etc/group", "/bin/busybox"} {
			if err := addFile(w, file); err != nil {
				return err
			}
		}
		return addLibraries(w, program)
	}
	return registrytest.Image{
		Layers: []registrytest.Layer{{Tar: layer}},
		Config: v1.Image{Config: v1.ImageConfig{Entrypoint: []string{program}, Cmd: []string{"-g", "daemon off;"}, StopSignal: "SIGQUIT"}},
	}
}
