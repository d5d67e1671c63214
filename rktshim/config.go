package rktshim

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"go.opentelemetry.io/otel/trace"

	"github.com/rktnetes/rktshim/internal/rundir"
	"github.com/rktnetes/rktshim/sandbox"
	"github.com/rktnetes/rktshim/transport"
)

// Config is what an operator sets. [DefaultConfig] has values that work;
// [Config.Validate] says what is wrong with others.
type Config struct {
	// Dir holds what must survive a reboot: pods, images, records.
	Dir string
	// RunDir holds what must vanish at a reboot: sockets, mount counts. Empty:
	// the one that belongs to Dir. It is recorded in Dir, where rkt finds it,
	// and cannot be changed before a reboot (internal/rundir).
	RunDir string
	// RktPath is the rkt command that pulls images, in a process of its own.
	// Empty: this binary's own "rkt" subcommand, which hyperkube has.
	RktPath string
	// Supervisor is the absolute path of rkt-supervisor, of which each pod gets a
	// process. Empty: the file of that name beside this program's.
	Supervisor string
	// Stage1 is the isolation of pods that choose none, by flavor ("nspawn") or
	// by rkt's image name ("coreos.com/rkt/stage1-coreos").
	Stage1 string
	// CgroupDriver is who makes the pods' cgroups: "systemd", whose pods are units in
	// slices, or "cgroupfs". Empty: systemd where it is the init.
	CgroupDriver string
	// APIEndpoint is the TCP host and port of rkt's own read-only API. It is
	// checked but not served yet.
	APIEndpoint string
	// CRISocket is a unix socket on which CRI is served beside memory. Empty: none.
	CRISocket string
	// PinnedImages are patterns (path.Match) of image tags that the kubelet's
	// garbage collection must leave alone, e.g. "registry.k8s.io/*".
	PinnedImages []string
	// PullStallTimeout ends a pull whose registry sends nothing for so long.
	// Slow pulls that move go on.
	PullStallTimeout time.Duration
	// CNIConfDir and CNIBinDir hold the node's CNI configurations and plugins.
	CNIConfDir, CNIBinDir string
	// ShutdownGrace is how long running calls may go on at shutdown, before they
	// are cancelled.
	ShutdownGrace time.Duration
	// TracerProvider gets a span for each call. Nil: no tracing.
	TracerProvider trace.TracerProvider
}

// DefaultConfig is a configuration for a node on which nothing was set.
func DefaultConfig() Config {
	return Config{
		Dir:              rundir.DefaultDir,
		Stage1:           "nspawn",
		APIEndpoint:      "localhost:15441",
		PullStallTimeout: time.Minute,
		CNIConfDir:       "/etc/cni/net.d",
		CNIBinDir:        "/opt/cni/bin",
		ShutdownGrace:    5 * time.Second,
	}
}

// FieldError is one bad value of a [Config]. It is an errdefs.ErrInvalidArgument.
type FieldError struct {
	Field   string // the Go name of the field
	Value   any    // what it was set to
	Problem string // what is wrong, and what would be right
}

// Error implements error.
func (e *FieldError) Error() string {
	return fmt.Sprintf("config field %s: %q: %s", e.Field, fmt.Sprint(e.Value), e.Problem)
}

// Unwrap makes errdefs.IsInvalidArgument true.
func (e *FieldError) Unwrap() error { return errdefs.ErrInvalidArgument }

// checks are all rules of a Config.
var checks = []func(*Config) error{
	absolute("Dir", func(c *Config) string { return c.Dir }),
	dirFitsOverlay,
	absoluteOrEmpty("RunDir", func(c *Config) string { return c.RunDir }),
	absolute("CNIConfDir", func(c *Config) string { return c.CNIConfDir }),
	absolute("CNIBinDir", func(c *Config) string { return c.CNIBinDir }),
	absoluteOrEmpty("Supervisor", func(c *Config) string { return c.Supervisor }),
	absoluteOrEmpty("RktPath", func(c *Config) string { return c.RktPath }),
	rktRuns,
	absoluteOrEmpty("CRISocket", func(c *Config) string { return c.CRISocket }),
	socketFits,
	stage1Known,
	driverKnown,
	apiEndpointParses,
	pinsMatch,
	positive("PullStallTimeout", func(c *Config) time.Duration { return c.PullStallTimeout }),
	positive("ShutdownGrace", func(c *Config) time.Duration { return c.ShutdownGrace }),
}

// Validate runs every check and joins what they find, each a [*FieldError].
func (c *Config) Validate() error {
	var errs []error
	for _, check := range checks {
		errs = append(errs, check(c))
	}
	return errors.Join(errs...)
}

func absolute(field string, get func(*Config) string) func(*Config) error {
	return func(c *Config) error {
		if v := get(c); !filepath.IsAbs(v) {
			return &FieldError{field, v, "must be an absolute path"}
		}
		return nil
	}
}

func absoluteOrEmpty(field string, get func(*Config) string) func(*Config) error {
	isAbsolute := absolute(field, get)
	return func(c *Config) error {
		if get(c) == "" {
			return nil
		}
		return isAbsolute(c)
	}
}

// dirFitsOverlay: the two characters separate folders and options in the options of
// an overlay mount, below which containers' roots lie.
func dirFitsOverlay(c *Config) error {
	if strings.ContainsAny(c.Dir, ":,") {
		return &FieldError{"Dir", c.Dir, "must not contain a colon or a comma: overlayfs takes them for separators"}
	}
	return nil
}

func rktRuns(c *Config) error {
	if !filepath.IsAbs(c.RktPath) {
		return nil // absoluteOrEmpty has said so
	}
	fi, err := os.Stat(c.RktPath)
	switch {
	case err != nil:
		return &FieldError{"RktPath", c.RktPath, "cannot be used: " + err.Error()}
	case !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0:
		return &FieldError{"RktPath", c.RktPath, "is not an executable file"}
	}
	return nil
}

func socketFits(c *Config) error {
	if len(c.CRISocket) > transport.MaxSocketPath {
		return &FieldError{"CRISocket", c.CRISocket, fmt.Sprintf("has %d bytes, a unix socket's path has at most %d", len(c.CRISocket), transport.MaxSocketPath)}
	}
	return nil
}

func stage1Known(c *Config) error {
	if _, problem := sandbox.Flavor(c.Stage1); problem != "" {
		return &FieldError{"Stage1", c.Stage1, problem}
	}
	return nil
}

// driverKnown does not look whether systemd is the init: the kubelet's flags are
// checked on other machines too.
func driverKnown(c *Config) error {
	switch c.CgroupDriver {
	case "", driverSystemd, driverCgroupfs:
		return nil
	}
	return &FieldError{"CgroupDriver", c.CgroupDriver, "is unknown; known are systemd, cgroupfs"}
}

// Values of Config.CgroupDriver.
const (
	driverSystemd  = "systemd"
	driverCgroupfs = "cgroupfs"
)

// slices says whether pods are units in slices of systemd, which booted says is the
// init.
func (c *Config) slices(booted bool) (bool, error) {
	if c.CgroupDriver == driverSystemd && !booted {
		return false, &FieldError{"CgroupDriver", c.CgroupDriver, "cannot be used: systemd is not the init of this machine"}
	}
	return booted && c.CgroupDriver != driverCgroupfs, nil
}

func apiEndpointParses(c *Config) error {
	host, port, err := net.SplitHostPort(c.APIEndpoint)
	if err != nil {
		return &FieldError{"APIEndpoint", c.APIEndpoint, "must be host:port"}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return &FieldError{"APIEndpoint", c.APIEndpoint, "must have a port between 1 and 65535"}
	}
	if host == "" {
		return &FieldError{"APIEndpoint", c.APIEndpoint, "must name a host; localhost keeps the API on this machine"}
	}
	return nil
}

func positive(field string, get func(*Config) time.Duration) func(*Config) error {
	return func(c *Config) error {
		if v := get(c); v <= 0 {
			return &FieldError{field, v, "must be more than zero"}
		}
		return nil
	}
}

func pinsMatch(c *Config) error {
	for _, pattern := range c.PinnedImages {
		if _, err := path.Match(pattern, ""); err != nil {
			return &FieldError{"PinnedImages", pattern, "is no pattern of path.Match"}
		}
	}
	return nil
}
