package pod

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/network"
	"github.com/rktnetes/rktshim/stage1"
)

// ID is a pod's uuid in lower case.
type ID string

// AppID is an app's id: 64 hexadecimal digits, because log collectors and cAdvisor
// know containers by names of that form. It is also the OCI runtime's.
type AppID string

// Spec says what pod to launch. It is plain data, kept in the pod's record, and
// must not be changed after it was handed over.
type Spec struct {
	// UID and Attempt are the pod's identity: two requests with the same ones are
	// one request.
	UID     string `json:"uid"`
	Attempt uint32 `json:"attempt"`

	Name      string `json:"name"`
	Namespace string `json:"namespace"`

	// Flavor is a key of Config.Flavors.
	Flavor string `json:"flavor"`

	// Hostname of the pod; must be empty with HostUTS.
	Hostname string `json:"hostname,omitempty"`

	HostNetwork bool `json:"hostNetwork,omitempty"`
	HostIPC     bool `json:"hostIPC,omitempty"`
	HostUTS     bool `json:"hostUTS,omitempty"`
	SharedPID   bool `json:"sharedPID,omitempty"` // one PID namespace for all apps

	Sysctls    map[string]string `json:"sysctls,omitempty"`
	ShmBytes   int64             `json:"shmBytes,omitempty"`   // 0: no shared memory of the pod's own
	ResolvConf string            `json:"resolvConf,omitempty"` // content; empty: apps see their image's

	// CgroupParent is in the launcher's syntax, see launch.Spec.Parent.
	CgroupParent string `json:"cgroupParent"`

	// LogDir holds the apps' logs; the engine makes it.
	LogDir string `json:"logDir,omitempty"`

	Ports     []network.PortMapping `json:"ports,omitempty"`
	Bandwidth network.Bandwidth     `json:"bandwidth,omitzero"`
	DNS       network.DNS           `json:"dns,omitzero"`

	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	// Extra is the caller's own; the engine keeps it and does not read it.
	Extra json.RawMessage `json:"extra,omitempty"`
}

// AppSpec says what app to create. It is plain data, kept in the app's record, and
// must not be changed after it was handed over.
type AppSpec struct {
	// Name and Attempt are the app's identity in its pod.
	Name    string `json:"name"`
	Attempt uint32 `json:"attempt"`

	Image   string `json:"image"`   // as the user named it
	ImageID string `json:"imageID"` // what the root is made from

	Log string `json:"log,omitempty"` // absolute path of the CRI log; empty: none

	TTY       bool `json:"tty,omitempty"`
	Stdin     bool `json:"stdin,omitempty"`
	StdinOnce bool `json:"stdinOnce,omitempty"`

	PIDOf AppID `json:"pidOf,omitempty"` // app whose PID namespace it joins

	StopSignal int `json:"stopSignal,omitempty"` // 0: SIGTERM

	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`

	// Extra is the caller's own; the engine keeps it and does not read it.
	Extra json.RawMessage `json:"extra,omitempty"`
}

// identity makes two requests for a pod the same.
type identity struct {
	uid     string
	attempt uint32
}

// appIdentity makes two requests for an app the same.
type appIdentity struct {
	pod     ID
	name    string
	attempt uint32
}

func (s *Spec) identity() identity { return identity{s.UID, s.Attempt} }

// check finds what can be found wrong before anything is made.
func (e *Engine) check(s *Spec) error {
	if e.cfg.Supervisor == "" {
		return fmt.Errorf("launch pod %s: this engine has no supervisor: %w", s.UID, errdefs.ErrFailedPrecondition)
	}
	if s.UID == "" {
		return fmt.Errorf("launch pod: uid is empty: %w", errdefs.ErrInvalidArgument)
	}
	flavor, ok := e.cfg.Flavors[s.Flavor]
	if !ok {
		known := slices.Sorted(maps.Keys(e.cfg.Flavors))
		return fmt.Errorf("launch pod %s: flavor %q is unknown; known are %s: %w",
			s.UID, s.Flavor, strings.Join(known, ", "), errdefs.ErrInvalidArgument)
	}
	if s.LogDir != "" && !filepath.IsAbs(s.LogDir) {
		return fmt.Errorf("launch pod %s: log directory %q: want an absolute path: %w", s.UID, s.LogDir, errdefs.ErrInvalidArgument)
	}
	probe := e.stage1Spec("probe", s)
	probe.Dir = e.cfg.RunDir
	if err := probe.Validate(); err != nil {
		return fmt.Errorf("launch pod %s: %w", s.UID, err)
	}
	if err := flavor.Check(); err != nil {
		return fmt.Errorf("launch pod %s: flavor %s: %w", s.UID, s.Flavor, err)
	}
	return nil
}

// stage1Spec is what the isolator is asked for.
func (e *Engine) stage1Spec(id ID, s *Spec) stage1.Spec {
	spec := stage1.Spec{
		ID:        string(id),
		OwnIPC:    !s.HostIPC,
		OwnUTS:    !s.HostUTS,
		SharedPID: s.SharedPID,
		Hostname:  s.Hostname,
		Sysctls:   s.Sysctls,
		ShmBytes:  s.ShmBytes,
		Dir:       filepath.Join(e.runDir(id), "stage1"),
	}
	if !s.HostNetwork {
		spec.Network = e.netnsPath(id)
	}
	return spec
}

// newID returns a random uuid (RFC 9562, version 4).
func newID() ID {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return ID(fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:]))
}

func newAppID() AppID {
	var b [32]byte
	_, _ = rand.Read(b[:])
	return AppID(hex.EncodeToString(b[:]))
}
