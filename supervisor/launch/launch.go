// Package launch starts supervisors, one per pod, in a way that outlives the
// engine: as transient systemd units, or detached in a session and cgroup of
// their own where systemd is not the init. The supervisor's binary never links it.
package launch

import (
	"context"
)

// Launcher starts supervisors and is the last resort against what they leave.
// Implementations are Systemd and Detached; New picks by what runs the host.
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
	// records. parents are the cgroup parents to look below.
	List(ctx context.Context, parents []string) ([]string, error)
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
