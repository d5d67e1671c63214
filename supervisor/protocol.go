// Package supervisor is the engine's side of a pod's supervisor: the protocol, the
// wire types and records, and the Client. The other side is supervisor/server,
// launching is supervisor/launch.
//
// # Protocol
//
// One unix socket of type SOCK_SEQPACKET per pod, <run dir>/supervisor.sock, mode
// 0600; a peer that is not root is closed without an answer. A message is one
// packet of at most MaxMessage bytes holding one JSON object. Unknown members are
// ignored by both sides. Any number of connections may be open; requests of one
// connection run side by side and are answered in any order.
//
//	engine > supervisor  {"id":7, "op":"<op>", …}     id: positive, unique among those open
//	supervisor > engine  {"id":7, …}                   done
//	supervisor > engine  {"id":7, "class":"not-found", "error":"…"}
//	supervisor > engine  {"seq":3, "event":{…}}        only after subscribe
//
// The ops, with the files that ride along by SCM_RIGHTS (both sides close their
// copies of what they send and own what they receive):
//
//	hello{min,max,name}        > {version, pod, flavor, pid, ready}
//	                             first on every connection; answered once the pod is
//	                             booted, or with the error of the boot, after which the
//	                             supervisor exits. version is the highest both know.
//	create-app{app}            > {pid}       the OCI runtime has created it; it has not run yet
//	start-app{name}            > {startedAt}
//	signal-app{name,signal}    > {}          to the app's first process
//	stop-app{name,signal,graceMS} > {exit}   signal, wait, kill the cgroup; exit is on disk
//	                             a later stop-app may shorten the grace, never lengthen it
//	remove-app{name}           > {}          of an app that has exited or never started
//	update-app{name}  fd: resources.json > {}   linux.resources of the OCI spec
//	exec{name,tty,timeoutMS}   fds: process.json, stdin, stdout, stderr (tty: process.json only)
//	                           > {session}   fd: pty master if tty       (started)
//	                           > {exit}                                  (same id: ended)
//	resize{name|session,rows,cols} > {}
//	attach{name,stdin}         fds: [stdin], stdout, stderr > {}  answered when it ends
//	reopen-log{name}           > {}          the old file is left as it is
//	status{}                   > {pod, apps, seq}
//	subscribe{after}           > {}          then every event kept with seq > after, then new ones
//	ack{seq}                   > {}          events up to seq are forgotten
//	cancel{target}             > {}          ends the request with that id on this connection
//	shutdown{}                 > {}          kills all apps, stops the instance, then the supervisor exits
//
// An exec or attach belongs to its connection: when the connection ends, the exec's
// whole process tree is killed. All else goes on: apps belong to the pod.
//
// The version grows only when an old supervisor would misread a message; a new op
// or a new member is no new version: an op that the supervisor does not know is
// answered with class not-implemented.
package supervisor

// The protocol versions that this package speaks.
const (
	VersionMin = 1
	VersionMax = 1
)

// MaxMessage is the largest packet in bytes. Anything larger travels as a file.
const MaxMessage = 64 << 10

// MaxFiles is the largest number of files that ride along with one message.
const MaxFiles = 4

// SocketName is the name of the socket in the pod's run folder.
const SocketName = "supervisor.sock"

// The ops of the protocol; see the package comment.
const (
	OpHello     = "hello"
	OpCreateApp = "create-app"
	OpStartApp  = "start-app"
	OpSignalApp = "signal-app"
	OpStopApp   = "stop-app"
	OpRemoveApp = "remove-app"
	OpUpdateApp = "update-app"
	OpExec      = "exec"
	OpResize    = "resize"
	OpAttach    = "attach"
	OpReopenLog = "reopen-log"
	OpStatus    = "status"
	OpSubscribe = "subscribe"
	OpAck       = "ack"
	OpCancel    = "cancel"
	OpShutdown  = "shutdown"
)
