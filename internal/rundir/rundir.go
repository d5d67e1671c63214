// Package rundir says where a node keeps what must vanish at a reboot. The kubelet
// and rkt must agree on it: two run folders for one store are two sets of mount
// counts, each of which unmounts what the other still uses.
//
// A program that opens a store calls [Find] and then [Folders.Record]; from then
// on everybody finds the same run folder by the data folder alone.
package rundir

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// The folders of a node on which nothing was set.
const (
	DefaultDir = "/var/lib/rkt"
	Default    = "/run/rkt"
)

// recordFile lies in the data folder and holds the path of the run folder.
const recordFile = "run-dir"

// Folders are where a node keeps its data. Both paths are absolute and without
// symbolic links, as far as they exist.
type Folders struct {
	Dir string // what must survive a reboot
	Run string // what must vanish at one
}

// hostNetNS is where network agents look for the namespaces of pods.
const hostNetNS = "/run/netns"

// Images is where the image store is.
func (f Folders) Images() string { return filepath.Join(f.Dir, "images") }

// ImagesRun holds the store's mount counts and locks.
func (f Folders) ImagesRun() string { return filepath.Join(f.Run, "images") }

// Pods holds the records of pods.
func (f Folders) Pods() string { return filepath.Join(f.Dir, "pods") }

// PodsRun holds the sockets of supervisors and what else pods have until a reboot.
func (f Folders) PodsRun() string { return filepath.Join(f.Run, "pods") }

// CNI holds what plugins have answered for pods that are being attached.
func (f Folders) CNI() string { return filepath.Join(f.Run, "cni") }

// EngineSocket is where the engine of the node listens for operators' commands.
func (f Folders) EngineSocket() string { return filepath.Join(f.Run, "engine.sock") }

// NetNS is where network namespaces are pinned: where agents look for them, but on
// a machine of several nodes, each of which sweeps its own.
func (f Folders) NetNS() string {
	if f.Run == Default {
		return hostNetNS
	}
	return filepath.Join(f.Run, "netns")
}

// Of gives the run folder that a data folder has if no other was chosen:
// [Default] for [DefaultDir], and one of its own for any other, so that two nodes
// on one machine never share mount counts or sockets. All names of a folder, by
// whatever symbolic links, give the same, whether or not it is there already.
func Of(dir string) (string, error) {
	real, err := resolve(dir)
	if err != nil {
		return "", fmt.Errorf("find the run folder of %s: %w", dir, err)
	}
	return of(real), nil
}

func of(dir string) string {
	if dir == DefaultDir {
		return Default
	}
	sum := sha256.Sum256([]byte(dir))
	return Default + "-" + hex.EncodeToString(sum[:6])
}

// Find gives the folders of the node whose data folder is dir. If run is empty
// the run folder is the recorded one, else that of [Of]. A run that is not the
// recorded one is of class FailedPrecondition, as long as the recorded one is
// there: after a reboot another may be chosen. Find changes nothing on disk.
func Find(dir, run string) (Folders, error) {
	f, err := find(dir, run)
	if err != nil {
		return Folders{}, fmt.Errorf("find the run folder of %s: %w", dir, err)
	}
	return f, nil
}

func find(dir, run string) (f Folders, err error) {
	if f.Dir, err = resolve(dir); err != nil {
		return f, err
	}
	recorded, err := f.recorded()
	if err != nil {
		return f, err
	}
	if run == "" {
		if f.Run = recorded; recorded == "" {
			f.Run = of(f.Dir)
		}
		return f, nil
	}
	if f.Run, err = resolve(run); err != nil {
		return f, err
	}
	return f, f.agree(recorded)
}

// Record makes both folders and records the run folder in the data folder. It
// may be called by many processes, and again. The error is FailedPrecondition
// if another run folder was recorded since Find.
func (f Folders) Record() error {
	if err := os.MkdirAll(f.Dir, 0o711); err != nil {
		return fmt.Errorf("make the data folder: %w", err)
	}
	if err := f.record(); err != nil {
		return fmt.Errorf("record the run folder of %s: %w", f.Dir, err)
	}
	return nil
}

func (f Folders) record() error {
	lock, err := os.Open(f.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := flock(lock); err != nil {
		return err
	}
	recorded, err := f.recorded()
	if err != nil {
		return err
	}
	if err := f.agree(recorded); err != nil {
		return err
	}
	if err := os.MkdirAll(f.Run, 0o700); err != nil {
		return err
	}
	if recorded == f.Run {
		return nil
	}
	path := filepath.Join(f.Dir, recordFile)
	if err := writeSynced(path+".new", f.Run+"\n"); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// agree refuses a run folder that is not the recorded one, if that is in use or
// may be: it is there.
func (f Folders) agree(recorded string) error {
	if recorded == "" || recorded == f.Run {
		return nil
	}
	if _, err := os.Lstat(recorded); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("it is %s, by the file %s, and cannot be %s before a reboot: %w",
		recorded, filepath.Join(f.Dir, recordFile), f.Run, errdefs.ErrFailedPrecondition)
}

// recorded is the recorded run folder, empty if there is none.
func (f Folders) recorded() (string, error) {
	path := filepath.Join(f.Dir, recordFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	run := string(bytes.TrimSuffix(raw, []byte("\n")))
	if !filepath.IsAbs(run) {
		return "", fmt.Errorf("%s: %q is not an absolute path, remove the file if no node uses the folder: %w", path, run, errdefs.ErrFailedPrecondition)
	}
	return run, nil
}

// resolve follows the symbolic links of what is there of path; the rest, which
// is still to be made, cannot have any.
func resolve(path string) (string, error) {
	there, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	for rest := ""; ; {
		real, err := filepath.EvalSymlinks(there)
		if err == nil {
			return filepath.Join(real, rest), nil
		}
		if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) || there == "/" {
			return "", err
		}
		rest = filepath.Join(filepath.Base(there), rest)
		there = filepath.Dir(there)
	}
}

// flock locks a file until it is closed.
func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("flock", err)
		}
	}
}

// writeSynced writes a file that no crash of the machine can leave empty once
// it is renamed.
func writeSynced(path, text string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.WriteString(text); err != nil {
		return err
	}
	return file.Sync()
}
