package supervisor

import (
	"fmt"
	"slices"
	"time"

	"github.com/rktnetes/rktshim/internal/tinyjson"
	"github.com/rktnetes/rktshim/stage1"
)

// object writes members, leaving out those that are zero.
type object struct{ *tinyjson.Encoder }

func (o object) str(k, v string) {
	if v != "" {
		o.Key(k).String(v)
	}
}

func (o object) num(k string, v int64) {
	if v != 0 {
		o.Key(k).Int(v)
	}
}

func (o object) flag(k string, v bool) {
	if v {
		o.Key(k).Bool(v)
	}
}

func (o object) strs(k string, v []string) {
	if len(v) > 0 {
		o.Key(k).Array(func() {
			for _, s := range v {
				o.String(s)
			}
		})
	}
}

func (o object) time(k string, t time.Time) {
	if !t.IsZero() {
		o.Key(k).String(t.UTC().Format(time.RFC3339Nano))
	}
}

func readTime(d *tinyjson.Decoder) time.Time {
	s := d.String()
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		d.Fail("want a time as in RFC 3339")
	}
	return t
}

func readStrings(d *tinyjson.Decoder) (out []string) {
	d.Array(func() { out = append(out, d.String()) })
	return out
}

func document(write func(object)) []byte {
	var e tinyjson.Encoder
	e.Object(func() { write(object{&e}) })
	return e.Bytes()
}

// MarshalJSON writes the spec as it lies on disk.
func (s Spec) MarshalJSON() ([]byte, error) {
	return document(func(o object) {
		o.Key("version").Int(recordVersion)
		o.str("flavor", s.Flavor)
		o.Key("stage1").Object(func() { writeStage1(o, s.Stage1) })
		o.str("cgroup", s.Cgroup)
		o.str("runtime", s.Runtime)
		o.strs("runtimeArgs", s.RuntimeArgs)
	}), nil
}

// UnmarshalJSON reads what MarshalJSON wrote; a newer version is refused.
func (s *Spec) UnmarshalJSON(doc []byte) error {
	*s = Spec{}
	d := tinyjson.NewDecoder(doc)
	version := int64(0)
	d.Object(func(k string) {
		switch k {
		case "version":
			version = d.Int()
		case "flavor":
			s.Flavor = d.String()
		case "stage1":
			s.Stage1 = readStage1(d)
		case "cgroup":
			s.Cgroup = d.String()
		case "runtime":
			s.Runtime = d.String()
		case "runtimeArgs":
			s.RuntimeArgs = readStrings(d)
		default:
			d.Skip()
		}
	})
	return checkVersion(d, version)
}

func writeStage1(o object, s stage1.Spec) {
	o.str("id", s.ID)
	o.str("network", s.Network)
	o.flag("ownIPC", s.OwnIPC)
	o.flag("ownUTS", s.OwnUTS)
	o.flag("sharedPID", s.SharedPID)
	o.str("hostname", s.Hostname)
	o.num("shmBytes", s.ShmBytes)
	o.str("dir", s.Dir)
	o.str("cgroup", s.Cgroup)
	if len(s.Sysctls) > 0 {
		o.Key("sysctls").Object(func() {
			for _, name := range sortedKeys(s.Sysctls) {
				o.Key(name).String(s.Sysctls[name])
			}
		})
	}
	if len(s.Shares) > 0 {
		o.Key("shares").Array(func() {
			for _, sh := range s.Shares {
				o.Object(func() {
					o.str("tag", sh.Tag)
					o.str("source", sh.Source)
					o.flag("readOnly", sh.ReadOnly)
				})
			}
		})
	}
}

func sortedKeys(m map[string]string) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func readStage1(d *tinyjson.Decoder) (s stage1.Spec) {
	d.Object(func(k string) {
		switch k {
		case "id":
			s.ID = d.String()
		case "network":
			s.Network = d.String()
		case "ownIPC":
			s.OwnIPC = d.Bool()
		case "ownUTS":
			s.OwnUTS = d.Bool()
		case "sharedPID":
			s.SharedPID = d.Bool()
		case "hostname":
			s.Hostname = d.String()
		case "shmBytes":
			s.ShmBytes = d.Int()
		case "dir":
			s.Dir = d.String()
		case "cgroup":
			s.Cgroup = d.String()
		case "sysctls":
			s.Sysctls = map[string]string{}
			d.Object(func(name string) { s.Sysctls[name] = d.String() })
		case "shares":
			d.Array(func() { s.Shares = append(s.Shares, readShare(d)) })
		default:
			d.Skip()
		}
	})
	return s
}

func readShare(d *tinyjson.Decoder) (sh stage1.Share) {
	d.Object(func(k string) {
		switch k {
		case "tag":
			sh.Tag = d.String()
		case "source":
			sh.Source = d.String()
		case "readOnly":
			sh.ReadOnly = d.Bool()
		default:
			d.Skip()
		}
	})
	return sh
}

// recordVersion is the version of Spec and Exit on disk.
const recordVersion = 1

func checkVersion(d *tinyjson.Decoder, version int64) error {
	if err := d.End(); err != nil {
		return err
	}
	if version < 1 || version > recordVersion {
		return fmt.Errorf("version %d, this program reads 1 to %d", version, recordVersion)
	}
	return nil
}

// MarshalJSON writes the exit as it lies on disk and crosses the socket.
func (e Exit) MarshalJSON() ([]byte, error) {
	return document(func(o object) { writeExit(o, e) }), nil
}

// UnmarshalJSON reads what MarshalJSON wrote; a newer version is refused.
func (e *Exit) UnmarshalJSON(doc []byte) error {
	d := tinyjson.NewDecoder(doc)
	version := int64(0)
	*e, version = readExit(d)
	return checkVersion(d, version)
}

func writeExit(o object, e Exit) {
	o.Key("version").Int(recordVersion)
	o.Key("code").Int(int64(e.Code))
	o.num("signal", int64(e.Signal))
	o.flag("oomKilled", e.OOMKilled)
	o.flag("timedOut", e.TimedOut)
	o.time("startedAt", e.StartedAt)
	o.time("finishedAt", e.FinishedAt)
}

func readExit(d *tinyjson.Decoder) (e Exit, version int64) {
	d.Object(func(k string) {
		switch k {
		case "version":
			version = d.Int()
		case "code":
			e.Code = int(d.Int())
		case "signal":
			e.Signal = int(d.Int())
		case "oomKilled":
			e.OOMKilled = d.Bool()
		case "timedOut":
			e.TimedOut = d.Bool()
		case "startedAt":
			e.StartedAt = readTime(d)
		case "finishedAt":
			e.FinishedAt = readTime(d)
		default:
			d.Skip()
		}
	})
	return e, version
}
