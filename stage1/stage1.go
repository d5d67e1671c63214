// Package stage1 is the contract of the layer that isolates a pod.
//
// An Isolator boots an Instance from plain data. The instance owns the pod's
// namespaces; apps are started beside it by the OCI runtime, on the host, and
// join the namespaces that their own config names. An isolator runs in the pod's
// supervisor; its Check and Sweep also run in the engine.
//
// Every isolator passes the suite of package stage1test. What only some flavors
// can do is a second interface, asserted at run time, never a stub.
package stage1

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/reap"
)

// Isolator boots instances of one flavor. It holds no state and is safe for
// concurrent use; nothing that it needs to know survives outside Spec.
type Isolator interface {
	// Check says whether this node can boot the flavor. The error names what is
	// missing and what to do about it, and is of class FailedPrecondition.
	Check() error

	// Boot makes the namespaces that spec asks for, with hostname, sysctls and
	// shared memory in place, and returns once an app may join. A spec that the
	// flavor cannot serve is refused as InvalidArgument with nothing made. After
	// an error nothing is left behind. ctx bounds the boot, not the instance.
	// What it runs ends when this process dies.
	Boot(ctx context.Context, spec Spec, host Host) (Instance, error)

	// Sweep removes what an instance of spec may have left on the host when it
	// was killed together with its supervisor: mounts and files, not processes,
	// which the pod's cgroup takes. Nothing to remove is no error. The instance
	// must be dead.
	Sweep(spec Spec) error
}

// Instance is one booted pod. Its methods are safe for concurrent use.
type Instance interface {
	// Namespace returns the open namespace of one kind for apps to join, or nil
	// if the pod uses the host's (or, for PID, if each app has its own). The
	// file belongs to the instance and is closed by Stop.
	Namespace(kind Kind) *os.File

	// Done is closed when the instance has ended without being asked to: its
	// namespaces may still be open, but the pod has lost its init and is over.
	// An instance without a process of its own never closes it.
	Done() <-chan struct{}

	// Stop kills what the instance itself runs, waits for it, releases the
	// namespaces and removes all that Boot made. Apps must have been killed
	// before. Stopping twice returns nil. After an error it may be called again.
	Stop(ctx context.Context) error
}

// InitHolder is an instance with an init: a process that is pid 1 of the pod.
type InitHolder interface {
	// InitPID returns the init's pid on the host; 0 once it has ended.
	InitPID() int
}

// Host is what the process that holds an instance lends to it.
type Host struct {
	// Reaper starts processes and collects their exits: its owner waits for all
	// children of the process, so nobody else may.
	Reaper *reap.Reaper

	// Init is the command of our init, pid 1 of a PID namespace: it reaps
	// orphans, writes a byte to its stdout when it is up, and exits when its
	// stdin ends. Its first element is the absolute path of a static binary.
	Init []string
}

// Kind names one kind of namespace, as the OCI runtime spec does.
type Kind string

// The kinds that an instance can own. Mount and cgroup namespaces belong to apps.
const (
	Network Kind = "network"
	IPC     Kind = "ipc"
	UTS     Kind = "uts"
	PID     Kind = "pid"
)

// Kinds lists every kind, in the order in which they are joined.
var Kinds = []Kind{Network, IPC, UTS, PID}

// CloneFlag returns the CLONE_NEW… flag of the kind.
func (k Kind) CloneFlag() int {
	switch k {
	case Network:
		return unix.CLONE_NEWNET
	case IPC:
		return unix.CLONE_NEWIPC
	case UTS:
		return unix.CLONE_NEWUTS
	case PID:
		return unix.CLONE_NEWPID
	}
	return 0
}

// Proc returns the kind's name below /proc/<pid>/ns.
func (k Kind) Proc() string {
	if k == Network {
		return "net"
	}
	return string(k)
}

// Spec asks for one instance. It is plain data and survives in the pod's record.
type Spec struct {
	// ID is the pod's uuid in lower case. Everything on the host that bears a
	// name for the instance bears this one.
	ID string

	// Network is the path of the network namespace to join, made and pinned by
	// the engine before the boot, with its loopback up; the isolator opens it
	// and never unmounts it. CNI may be at work on it while the instance boots.
	// Empty means the host's network.
	Network string

	// OwnIPC asks for an IPC namespace of the pod's own; else the host's.
	OwnIPC bool

	// OwnUTS asks for a UTS namespace of the pod's own; else the host's.
	OwnUTS bool

	// SharedPID asks for one PID namespace shared by all apps of the pod, with
	// an init of ours as pid 1. Without it the instance offers no PID namespace:
	// each app gets one of its own from the OCI runtime, or the host's.
	SharedPID bool

	// Hostname is set in the pod's UTS namespace. Without OwnUTS it must be
	// empty. At most 64 bytes.
	Hostname string

	// Sysctls are written below /proc/sys inside the pod's namespaces, names
	// with dots. net.* needs Network; kernel.shm*, kernel.msg*, kernel.sem and
	// fs.mqueue.* need OwnIPC; any other name is refused. Which of these are
	// allowed on the node is decided before.
	Sysctls map[string]string

	// ShmBytes is the size of the tmpfs that the instance mounts at ShmPath for
	// apps to bind at /dev/shm. 0 mounts none.
	ShmBytes int64

	// Dir is the instance's own folder, absolute, on a tmpfs, made by the
	// supervisor and empty at boot. What lies in it may vanish at reboot.
	Dir string

	// Cgroup is the cgroup that processes of the instance are put into (not the
	// apps), in cgroupfs syntax: a path from the root of every hierarchy.
	// Whoever boots has made it. Empty leaves them where the supervisor is.
	Cgroup string

	// Shares are host folders that a flavor with a kernel of its own must carry
	// into the guest for apps to mount. Flavors on the host's kernel ignore it.
	Shares []Share
}

// Share is one folder of the host that apps of the pod will mount.
type Share struct {
	Tag      string // unique in the pod
	Source   string // absolute path on the host
	ReadOnly bool
}

// ShmPath is where the pod's shared memory is mounted on the host, for apps to
// bind at /dev/shm; it exists only while an instance with ShmBytes > 0 is booted.
func (s Spec) ShmPath() string { return filepath.Join(s.Dir, "shm") }

// Validate checks the fields against each other; every isolator calls it first.
// The error is of class InvalidArgument and names the field.
func (s Spec) Validate() error {
	for _, rule := range []func(Spec) error{idIsName, pathsAreAbsolute, hostnameFits, shmFits, sysctlsAreOwned} {
		if err := rule(s); err != nil {
			return err
		}
	}
	return nil
}

func idIsName(s Spec) error {
	if s.ID == "" || strings.Trim(s.ID, "0123456789abcdefghijklmnopqrstuvwxyz-") != "" {
		return invalid("id", "%q: want lower case letters, digits and dashes", s.ID)
	}
	return nil
}

func pathsAreAbsolute(s Spec) error {
	if s.Network != "" && !filepath.IsAbs(s.Network) {
		return invalid("network", "%q: want an absolute path", s.Network)
	}
	if s.Cgroup != "" && !filepath.IsAbs(s.Cgroup) {
		return invalid("cgroup", "%q: want an absolute path", s.Cgroup)
	}
	if !filepath.IsAbs(s.Dir) {
		return invalid("dir", "%q: want an absolute path", s.Dir)
	}
	return nil
}

func hostnameFits(s Spec) error {
	switch {
	case s.Hostname != "" && !s.OwnUTS:
		return invalid("hostname", "%q would rename the host: ask for ownUTS, or leave it empty", s.Hostname)
	case len(s.Hostname) > 64:
		return invalid("hostname", "%d bytes: the kernel takes 64", len(s.Hostname))
	}
	return nil
}

func shmFits(s Spec) error {
	if s.ShmBytes < 0 {
		return invalid("shmBytes", "%d: want 0 or more", s.ShmBytes)
	}
	return nil
}

func sysctlsAreOwned(s Spec) error {
	for name := range s.Sysctls {
		kind, ok := sysctlKind(name)
		switch {
		case !ok:
			return invalid("sysctls", "%q belongs to no namespace of a pod", name)
		case kind == Network && s.Network == "", kind == IPC && !s.OwnIPC:
			return invalid("sysctls", "%q would change the host: the pod shares its %s namespace", name, kind)
		}
	}
	return nil
}

// sysctlKind returns the namespace that a sysctl belongs to (kernel facts:
// net/*/sysctl*.c register per netns, ipc/ipc_sysctl.c and mq_sysctl.c per ipcns).
func sysctlKind(name string) (Kind, bool) {
	name = SysctlFile(name)
	for _, part := range strings.Split(name, "/") {
		if part == "" || part == "." || part == ".." {
			return "", false
		}
	}
	switch name = strings.ReplaceAll(name, "/", "."); name {
	case "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall",
		"kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced":
		return IPC, true
	}
	switch {
	case strings.HasPrefix(name, "net."):
		return Network, true
	case strings.HasPrefix(name, "fs.mqueue."):
		return IPC, true
	}
	return "", false
}

// SysctlFile returns the path of a sysctl below /proc/sys. Names separate their
// parts by dots, or by slashes if a slash comes first (as sysctl(8) has it): then
// dots are part of a name, like that of an interface.
func SysctlFile(name string) string {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '/' {
		return name
	}
	swap := strings.NewReplacer(".", "/", "/", ".")
	return swap.Replace(name)
}

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("stage1 spec: %s %s: %w", field, fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument)
}
