package supervisor

import (
	"time"

	"github.com/rktnetes/rktshim/stage1"
)

// SpecName is the name of the Spec's file in the pod's folder.
const SpecName = "supervisor.json"

// ExitName is the name of an app's exit record in the app's folder.
const ExitName = "exit.json"

// Spec is all that a supervisor is told about its pod, written by the engine as
// SpecName into the pod's folder before the launch and never changed after.
type Spec struct {
	// Flavor names the isolator: "nspawn", "lean", "fly".
	Flavor string

	// Stage1 is what the isolator boots. Its Dir is <run dir>/stage1 and its
	// Cgroup <Cgroup>/stage1; both are filled in by the supervisor when empty.
	Stage1 stage1.Spec

	// Cgroup is the pod's own cgroup in cgroupfs syntax: a path from the root of
	// every hierarchy, made by the launcher or by systemd. The supervisor moves
	// itself into <Cgroup>/supervisor, and at shutdown kills everything else
	// below Cgroup.
	Cgroup string

	// Runtime is the absolute path of the OCI runtime, crun or runc.
	Runtime string

	// RuntimeArgs precede the runtime's command, for instance "--debug".
	RuntimeArgs []string
}

// AppSpec describes one app to create. Its OCI config lies in Bundle and is
// complete: namespaces of the pod are named in it by NamespacePath.
type AppSpec struct {
	// Name is unique in the pod for as long as the app is not removed, is the
	// OCI runtime's container id and must be fit for that: letters, digits,
	// '_', '-', '.'.
	Name string

	// Bundle is the folder that holds config.json.
	Bundle string

	// Dir is the app's own folder in the pod's; its exit is written there as
	// ExitName. It must exist.
	Dir string

	// Cgroup is what config.json says in linux.cgroupsPath, in cgroupfs syntax,
	// below the pod's. Needed for kill, OOM and exec.
	Cgroup string

	// Log is the absolute path of the CRI log; empty keeps none.
	Log string

	// TTY says that config.json has process.terminal set.
	TTY bool

	// Stdin keeps the app's stdin open for attach; else it is /dev/null.
	// StdinOnce closes it for good when the first attach that had it ends.
	Stdin, StdinOnce bool

	// PIDOf names another app of the pod whose PID namespace this one joins;
	// config.json names it by NamespacePath(run dir, "pid-"+Name). Empty for none.
	PIDOf string
}

// NamespacePath is how an app's config.json names a namespace of the pod's
// instance: a link in the run folder to a descriptor that the supervisor holds,
// so it names the same namespace for as long as the pod lives, and nothing after.
// kind is a stage1.Kind, or "pid-" and the name of an app with PIDOf set.
func NamespacePath(runDir, kind string) string { return runDir + "/ns/" + kind }

// AppState is where an app is in its life.
type AppState string

// An app goes created > running > exited, or created > exited.
const (
	AppCreated AppState = "created"
	AppRunning AppState = "running"
	AppExited  AppState = "exited"
)

// Exit is how an app or an exec ended. For an app it is on disk before anybody is
// told of it.
type Exit struct {
	// Code is the exit code; 128+Signal if a signal ended it.
	Code int
	// Signal is the number of the signal that ended it, else 0.
	Signal int
	// OOMKilled: it ended in error, and the kernel had killed a process of its
	// cgroup for want of memory.
	OOMKilled bool
	// TimedOut: an exec was killed because its time was up.
	TimedOut bool
	// StartedAt is by the wall clock, zero if it never started. FinishedAt is
	// StartedAt plus the time that the boot clock counted, so it is never
	// before StartedAt, whatever the wall clock did.
	StartedAt, FinishedAt time.Time
}

// AppStatus is one app in a Status.
type AppStatus struct {
	Name      string
	State     AppState
	PID       int       // of its first process on the host; 0 once it has exited
	CreatedAt time.Time // by the wall clock
	StartedAt time.Time // zero before start
	Exit      *Exit     // once State is AppExited
	LostBytes int64     // output that could not be written to the log
}

// Status is a snapshot of a pod.
type Status struct {
	Pod    string // uuid
	Flavor string
	PID    int // of the supervisor
	// Init is the pid of the pod's init on the host, 0 where there is none.
	Init int
	Apps []AppStatus
	Seq  uint64 // of the last event; the snapshot includes it
}

// EventKind says what happened.
type EventKind string

// The kinds of events. A reader ignores kinds that it does not know.
const (
	// AppHasExited: Exit of App is on disk, its log is complete.
	AppHasExited EventKind = "app-exited"
	// PodHasEnded: the instance ended without being asked to; all apps were
	// killed, their exits come before this event.
	PodHasEnded EventKind = "pod-ended"
)

// Event is something that happened to the pod by itself.
type Event struct {
	// Seq grows by one with each event and starts at 1.
	Seq  uint64
	Kind EventKind
	App  string // for AppHasExited
	Exit *Exit  // for AppHasExited
}
