// Package launch starts supervisors, one per pod, in a way that outlives the
// engine: as transient systemd units, or detached in a session and cgroup of
// their own where systemd is not the init. The supervisor's binary never links it.
package launch

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/supervisor"
)

// prefix begins the name of every unit and cgroup of a pod.
const prefix = "k8s_"

// environment is all that a supervisor inherits: one thread of work, set so that
// the Go runtime is small from the start.
var environment = []string{"GOMAXPROCS=1", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// Launcher starts supervisors and is the last resort against what they leave.
// Implementations are Systemd and Detached; New picks by what runs the host and by
// the form of a pod's cgroup parent.
type Launcher interface {
	// Cgroup returns the cgroup that Launch will make for the pod below parent,
	// in cgroupfs syntax (a path from the root of every hierarchy). The engine
	// writes it into supervisor.Spec before the launch.
	Cgroup(parent, pod string) (string, error)

	// Launch starts the pod's supervisor. When it returns nil, supervisor.Dial
	// finds the socket; Dial then waits for the boot and reports its failure.
	// A pod that has one already is class AlreadyExists. After an error nothing
	// is left running.
	Launch(ctx context.Context, spec Spec) error

	// Kill kills everything in the pod's cgroup, the supervisor included, waits
	// until it is empty and removes it and the unit. Nothing to kill is no error.
	Kill(ctx context.Context, parent, pod string) error

	// List returns the pods that have a unit or a cgroup below any parent that
	// still exists, living or not: what garbage collection compares with the
	// records. parents are the cgroup parents to look below. Units of pods whose
	// folders do not lie in dir are another engine's, and left out.
	List(ctx context.Context, dir string, parents []string) ([]string, error)

	// Find returns the parents below which a pod has a unit or a cgroup, wherever
	// on the host they are: for pods of which no record is left to tell.
	Find(ctx context.Context, pod string) (parents []string, err error)
}

// Spec says what to launch.
type Spec struct {
	// Pod is the pod's uuid.
	Pod string

	// Binary is the absolute path of rkt-supervisor.
	Binary string

	// PodDir is the pod's folder, which holds supervisor.json; the supervisor
	// locks it. RunDir is the pod's run folder, for the socket. Both exist.
	PodDir, RunDir string

	// Parent is the cgroup to launch below: for Systemd the name or path of a
	// slice ("kubepods-burstable-pod1.slice"), for Detached a path from the
	// root of every hierarchy ("/kubepods/burstable/pod1").
	Parent string
}

// New returns the launcher that fits the host: Systemd where systemd is the init,
// but for pods whose parent is a path that names no slice, else Detached. close ends
// its connection to the init system.
func New(ctx context.Context) (l Launcher, close func(), err error) {
	if _, err := os.Lstat("/run/systemd/system"); err != nil { // as sd_booted(3) has it
		return &Detached{}, func() {}, nil
	}
	s, err := NewSystemd(ctx)
	if err != nil {
		return nil, nil, err
	}
	return both{systemd: s, detached: &Detached{}}, s.Close, nil
}

// checkPod refuses what is no uuid, because it becomes part of paths and of names
// of units.
func checkPod(pod string) error {
	if pod == "" || strings.Trim(pod, "0123456789abcdefghijklmnopqrstuvwxyz-") != "" {
		return fmt.Errorf("pod %q: want lower case letters, digits and dashes: %w", pod, errdefs.ErrInvalidArgument)
	}
	return nil
}

// listen makes the supervisor's socket. It is handed over as stdin, so that Dial
// finds it from the moment of the launch.
func listen(spec Spec) (*os.File, error) {
	fd, err := supervisor.Listen(filepath.Join(spec.RunDir, supervisor.SocketName))
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "supervisor socket"), nil
}
