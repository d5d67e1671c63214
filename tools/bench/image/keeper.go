package image

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// scratch is where everything lies: on a disk, as nodes keep images there, and
// at a fixed place, so that what a killed run has left is found.
const scratch = "/var/tmp/rktshim-bench"

// runs is where contenders have what vanishes at reboot: a tmpfs, as /run is.
const runs = scratch + "/run"

// keeperArg makes this program the keeper: a process that serves the registry,
// so that its work is counted for nobody, and that removes the scratch folder
// when the benchmark has ended, however it did.
const keeperArg = "keep-images"

// keeper is that process, seen from the benchmark.
type keeper struct {
	cmd  *exec.Cmd
	hold *os.File // closed, or lost with this process, it makes the keeper end
	host string   // of the registry
}

// only is a name in the kernel that one process can have at a time, and that
// ends with it: there is one scratch folder, and two runs would disturb each other.
const only = "@rktshim-bench-image"

// startKeeper starts the keeper, and waits until the images are made.
func startKeeper() (*keeper, error) {
	theirIn, hold, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirIn.Close()
	cmd := exec.Command("/proc/self/exe", keeperArg)
	cmd.Stdin, cmd.Stderr = theirIn, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // an interrupt is for the benchmark
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	k := &keeper{cmd: cmd, hold: hold}
	host, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the registry: %w", err), k.close())
	}
	k.host = strings.TrimSpace(host)
	return k, nil
}

// close ends the keeper and waits until it has removed the scratch folder.
func (k *keeper) close() error {
	k.hold.Close()
	return k.cmd.Wait()
}

// keep is the keeper's main.
func keep() (err error) {
	lock, err := net.Listen("unix", only)
	if err != nil {
		return fmt.Errorf("another benchmark of images runs, or is being cleaned up: %w", err)
	}
	defer lock.Close()
	if err := removeTree(scratch); err != nil {
		return fmt.Errorf("remove what a killed benchmark has left: %w", err)
	}
	defer func() { err = errors.Join(err, removeTree(scratch)) }()
	if err := os.MkdirAll(runs, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", runs, "tmpfs", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", runs, err)
	}
	dir := filepath.Join(scratch, "registry")
	if err := generate(dir); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: registry(dir)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	fmt.Println(l.Addr())
	io.Copy(io.Discard, os.Stdin) //nolint:errcheck // whatever ends it, the benchmark is over
	err = server.Shutdown(context.Background())
	if serr := <-served; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

// registry serves the images in dir, from the page cache to the socket.
func registry(dir string) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v2/"+repo+"/manifests/{reference}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
		http.ServeFile(w, r, filepath.Join(dir, "manifests", strings.TrimPrefix(r.PathValue("reference"), "sha256:")))
	})
	mux.HandleFunc("GET /v2/"+repo+"/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		http.ServeFile(w, r, filepath.Join(dir, "blobs", strings.TrimPrefix(r.PathValue("digest"), "sha256:")))
	})
	return mux
}

// removeTree removes a folder and what is mounted below it.
func removeTree(dir string) error {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer f.Close()
	var points []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 4 && strings.HasPrefix(fields[4]+"/", dir+"/") {
			points = append(points, fields[4])
		}
	}
	for _, p := range slices.Backward(points) { // the latest first
		if err := unix.Unmount(p, unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", p, err)
		}
	}
	return os.RemoveAll(dir)
}
