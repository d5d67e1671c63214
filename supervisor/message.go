package supervisor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/internal/tinyjson"
)

// Request is one message of the engine; which members count depends on Op.
type Request struct {
	ID      uint64
	Op      string
	Min     int           // hello: oldest version spoken
	Max     int           // hello: newest version spoken
	Client  string        // hello: who asks, for the log
	App     *AppSpec      // create-app
	Name    string        // the app concerned
	Session uint64        // resize: the exec concerned, instead of Name
	Signal  int           // signal-app, stop-app
	Grace   time.Duration // stop-app
	Timeout time.Duration // exec; 0 means none
	TTY     bool          // exec
	Stdin   bool          // attach
	Rows    int           // resize
	Cols    int           // resize
	Seq     uint64        // subscribe: after it; ack: up to it
	Target  uint64        // cancel: the request to end
}

// Reply is one message of the supervisor: an answer (ID > 0) or an event.
type Reply struct {
	ID        uint64
	Class     string // of the error, from errdefs
	Error     string // empty: done
	Version   int
	Pod       string
	Flavor    string
	PID       int
	StartedAt time.Time
	Session   uint64
	Exit      *Exit
	Status    *Status
	Event     *Event
}

// Encode returns the message's packet.
func (r Request) Encode() []byte {
	return document(func(o object) {
		o.num("id", int64(r.ID))
		o.str("op", r.Op)
		o.num("min", int64(r.Min))
		o.num("max", int64(r.Max))
		o.str("client", r.Client)
		if r.App != nil {
			o.Key("app").Object(func() { writeApp(o, *r.App) })
		}
		o.str("name", r.Name)
		o.num("session", int64(r.Session))
		o.num("signal", int64(r.Signal))
		o.num("graceMS", r.Grace.Milliseconds())
		o.num("timeoutMS", r.Timeout.Milliseconds())
		o.flag("tty", r.TTY)
		o.flag("stdin", r.Stdin)
		o.num("rows", int64(r.Rows))
		o.num("cols", int64(r.Cols))
		o.num("seq", int64(r.Seq))
		o.num("target", int64(r.Target))
	})
}

// DecodeRequest reads a packet of the engine.
func DecodeRequest(doc []byte) (r Request, err error) {
	d := tinyjson.NewDecoder(doc)
	d.Object(func(k string) {
		switch k {
		case "id":
			r.ID = uint64(d.Int())
		case "op":
			r.Op = d.String()
		case "min":
			r.Min = int(d.Int())
		case "max":
			r.Max = int(d.Int())
		case "client":
			r.Client = d.String()
		case "app":
			app := readApp(d)
			r.App = &app
		case "name":
			r.Name = d.String()
		case "session":
			r.Session = uint64(d.Int())
		case "signal":
			r.Signal = int(d.Int())
		case "graceMS":
			r.Grace = time.Duration(d.Int()) * time.Millisecond
		case "timeoutMS":
			r.Timeout = time.Duration(d.Int()) * time.Millisecond
		case "tty":
			r.TTY = d.Bool()
		case "stdin":
			r.Stdin = d.Bool()
		case "rows":
			r.Rows = int(d.Int())
		case "cols":
			r.Cols = int(d.Int())
		case "seq":
			r.Seq = uint64(d.Int())
		case "target":
			r.Target = uint64(d.Int())
		default:
			d.Skip()
		}
	})
	return r, d.End()
}

func writeApp(o object, a AppSpec) {
	o.str("name", a.Name)
	o.str("bundle", a.Bundle)
	o.str("dir", a.Dir)
	o.str("cgroup", a.Cgroup)
	o.str("log", a.Log)
	o.flag("tty", a.TTY)
	o.flag("stdin", a.Stdin)
	o.flag("stdinOnce", a.StdinOnce)
	o.str("pidOf", a.PIDOf)
}

func readApp(d *tinyjson.Decoder) (a AppSpec) {
	d.Object(func(k string) {
		switch k {
		case "name":
			a.Name = d.String()
		case "bundle":
			a.Bundle = d.String()
		case "dir":
			a.Dir = d.String()
		case "cgroup":
			a.Cgroup = d.String()
		case "log":
			a.Log = d.String()
		case "tty":
			a.TTY = d.Bool()
		case "stdin":
			a.Stdin = d.Bool()
		case "stdinOnce":
			a.StdinOnce = d.Bool()
		case "pidOf":
			a.PIDOf = d.String()
		default:
			d.Skip()
		}
	})
	return a
}

// Encode returns the message's packet.
func (r Reply) Encode() []byte {
	return document(func(o object) {
		o.num("id", int64(r.ID))
		o.str("class", r.Class)
		o.str("error", r.Error)
		o.num("version", int64(r.Version))
		o.str("pod", r.Pod)
		o.str("flavor", r.Flavor)
		o.num("pid", int64(r.PID))
		o.time("startedAt", r.StartedAt)
		o.num("session", int64(r.Session))
		if r.Exit != nil {
			o.Key("exit").Object(func() { writeExit(o, *r.Exit) })
		}
		if r.Status != nil {
			o.Key("status").Object(func() { writeStatus(o, *r.Status) })
		}
		if r.Event != nil {
			o.Key("event").Object(func() { writeEvent(o, *r.Event) })
		}
	})
}

// DecodeReply reads a packet of the supervisor.
func DecodeReply(doc []byte) (r Reply, err error) {
	d := tinyjson.NewDecoder(doc)
	d.Object(func(k string) {
		switch k {
		case "id":
			r.ID = uint64(d.Int())
		case "class":
			r.Class = d.String()
		case "error":
			r.Error = d.String()
		case "version":
			r.Version = int(d.Int())
		case "pod":
			r.Pod = d.String()
		case "flavor":
			r.Flavor = d.String()
		case "pid":
			r.PID = int(d.Int())
		case "startedAt":
			r.StartedAt = readTime(d)
		case "session":
			r.Session = uint64(d.Int())
		case "exit":
			e, _ := readExit(d)
			r.Exit = &e
		case "status":
			st := readStatus(d)
			r.Status = &st
		case "event":
			ev := readEvent(d)
			r.Event = &ev
		default:
			d.Skip()
		}
	})
	return r, d.End()
}

func writeStatus(o object, s Status) {
	o.str("pod", s.Pod)
	o.str("flavor", s.Flavor)
	o.num("pid", int64(s.PID))
	o.num("init", int64(s.Init))
	o.num("seq", int64(s.Seq))
	o.Key("apps").Array(func() {
		for _, a := range s.Apps {
			o.Object(func() {
				o.str("name", a.Name)
				o.str("state", string(a.State))
				o.num("pid", int64(a.PID))
				o.time("createdAt", a.CreatedAt)
				o.time("startedAt", a.StartedAt)
				o.num("lostBytes", a.LostBytes)
				if a.Exit != nil {
					o.Key("exit").Object(func() { writeExit(o, *a.Exit) })
				}
			})
		}
	})
}

func readStatus(d *tinyjson.Decoder) (s Status) {
	d.Object(func(k string) {
		switch k {
		case "pod":
			s.Pod = d.String()
		case "flavor":
			s.Flavor = d.String()
		case "pid":
			s.PID = int(d.Int())
		case "init":
			s.Init = int(d.Int())
		case "seq":
			s.Seq = uint64(d.Int())
		case "apps":
			d.Array(func() { s.Apps = append(s.Apps, readAppStatus(d)) })
		default:
			d.Skip()
		}
	})
	return s
}

func readAppStatus(d *tinyjson.Decoder) (a AppStatus) {
	d.Object(func(k string) {
		switch k {
		case "name":
			a.Name = d.String()
		case "state":
			a.State = AppState(d.String())
		case "pid":
			a.PID = int(d.Int())
		case "createdAt":
			a.CreatedAt = readTime(d)
		case "startedAt":
			a.StartedAt = readTime(d)
		case "lostBytes":
			a.LostBytes = d.Int()
		case "exit":
			e, _ := readExit(d)
			a.Exit = &e
		default:
			d.Skip()
		}
	})
	return a
}

func writeEvent(o object, e Event) {
	o.num("seq", int64(e.Seq))
	o.str("kind", string(e.Kind))
	o.str("app", e.App)
	if e.Exit != nil {
		o.Key("exit").Object(func() { writeExit(o, *e.Exit) })
	}
}

func readEvent(d *tinyjson.Decoder) (e Event) {
	d.Object(func(k string) {
		switch k {
		case "seq":
			e.Seq = uint64(d.Int())
		case "kind":
			e.Kind = EventKind(d.String())
		case "app":
			e.App = d.String()
		case "exit":
			x, _ := readExit(d)
			e.Exit = &x
		default:
			d.Skip()
		}
	})
	return e
}

// classes are the error classes that cross the socket, by the names they cross
// under. An error of another class crosses as text only.
var classes = []struct {
	name string
	err  error
}{
	{"not-found", errdefs.ErrNotFound},
	{"invalid-argument", errdefs.ErrInvalidArgument},
	{"already-exists", errdefs.ErrAlreadyExists},
	{"failed-precondition", errdefs.ErrFailedPrecondition},
	{"not-implemented", errdefs.ErrNotImplemented},
	{"unavailable", errdefs.ErrUnavailable},
	{"out-of-range", errdefs.ErrOutOfRange},
	{"resource-exhausted", errdefs.ErrResourceExhausted},
	{"permission-denied", errdefs.ErrPermissionDenied},
	{"deadline-exceeded", context.DeadlineExceeded},
	{"canceled", context.Canceled},
}

// Fail makes r report err: its class and its text.
func (r *Reply) Fail(err error) {
	r.Error = err.Error()
	if r.Error == "" {
		r.Error = "unknown error"
	}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			r.Class = c.name
			return
		}
	}
}

// Err returns the error that the reply reports, of the same class as on the other
// side, or nil.
func (r Reply) Err() error {
	if r.Error == "" {
		return nil
	}
	for _, c := range classes {
		if r.Class == c.name {
			return &remoteError{text: r.Error, class: c.err}
		}
	}
	return errors.New(r.Error)
}

// remoteError reads like the error of the other side and is of its class.
type remoteError struct {
	text  string
	class error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.class }

// tooLarge is the error for a message over MaxMessage.
func tooLarge(n int) error {
	return fmt.Errorf("message of %d bytes, at most %d fit: %w", n, MaxMessage, errdefs.ErrInvalidArgument)
}
