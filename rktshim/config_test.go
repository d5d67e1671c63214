package rktshim

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

func TestDefaultsAreValid(t *testing.T) {
	cfg := DefaultConfig()
	require.NoError(t, cfg.Validate())
}

func TestBadValueIsNamedWithItsField(t *testing.T) {
	for _, c := range []struct {
		field   string
		set     func(*Config)
		problem string
	}{
		{"Dir", func(c *Config) { c.Dir = "" }, "absolute"},
		{"Dir", func(c *Config) { c.Dir = "var/lib/rkt" }, "absolute"},
		{"CNIConfDir", func(c *Config) { c.CNIConfDir = "net.d" }, "absolute"},
		{"CNIBinDir", func(c *Config) { c.CNIBinDir = "" }, "absolute"},
		{"RktPath", func(c *Config) { c.RktPath = "rkt" }, "absolute"},
		{"RktPath", func(c *Config) { c.RktPath = "/nonexistent/rkt" }, "no such file"},
		{"RktPath", func(c *Config) { c.RktPath = "/etc" }, "not an executable file"},
		{"RktPath", func(c *Config) { c.RktPath = "/etc/passwd" }, "not an executable file"},
		{"CRISocket", func(c *Config) { c.CRISocket = "cri.sock" }, "absolute"},
		{"CRISocket", func(c *Config) { c.CRISocket = "/" + strings.Repeat("x", 107) }, "at most 107"},
		{"Stage1", func(c *Config) { c.Stage1 = "" }, "known are nspawn (coreos.com/rkt/stage1-coreos), lean"},
		{"Stage1", func(c *Config) { c.Stage1 = "gvisor" }, "known are nspawn"},
		{"Stage1", func(c *Config) { c.Stage1 = "coreos.com/rkt/stage1-kvm" }, "not built yet"},
		{"CgroupDriver", func(c *Config) { c.CgroupDriver = "none" }, "known are systemd, cgroupfs"},
		{"APIEndpoint", func(c *Config) { c.APIEndpoint = "localhost" }, "host:port"},
		{"APIEndpoint", func(c *Config) { c.APIEndpoint = "localhost:0" }, "port between"},
		{"APIEndpoint", func(c *Config) { c.APIEndpoint = "localhost:http" }, "port between"},
		{"APIEndpoint", func(c *Config) { c.APIEndpoint = ":15441" }, "name a host"},
		{"Dir", func(c *Config) { c.Dir = "/srv/a:b" }, "overlayfs"},
		{"RunDir", func(c *Config) { c.RunDir = "run" }, "absolute"},
		{"PinnedImages", func(c *Config) { c.PinnedImages = []string{"ok/*", "["} }, "no pattern"},
		{"PullStallTimeout", func(c *Config) { c.PullStallTimeout = -1 }, "more than zero"},
		{"ShutdownGrace", func(c *Config) { c.ShutdownGrace = 0 }, "more than zero"},
	} {
		cfg := DefaultConfig()
		c.set(&cfg)

		_, err := New(cfg)

		var fe *FieldError
		require.ErrorAs(t, err, &fe, c.field)
		require.Equal(t, c.field, fe.Field)
		require.Contains(t, fe.Problem, c.problem)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument)
	}
}

func TestAllBadValuesAreReportedAtOnce(t *testing.T) {
	err := (&Config{}).Validate()

	joined, ok := err.(interface{ Unwrap() []error })
	require.True(t, ok)
	var fields []string
	for _, e := range joined.Unwrap() {
		var fe *FieldError
		require.True(t, errors.As(e, &fe))
		fields = append(fields, fe.Field)
	}
	require.Equal(t, []string{"Dir", "CNIConfDir", "CNIBinDir", "Stage1", "APIEndpoint", "PullStallTimeout", "ShutdownGrace"}, fields)
}

func TestStage1IsAcceptedByFlavorAndByImageName(t *testing.T) {
	for _, name := range []string{"nspawn", "lean", "fly", "coreos.com/rkt/stage1-coreos", "coreos.com/rkt/stage1-lean", "coreos.com/rkt/stage1-fly", "coreos.com/rkt/stage1-coreos:1.30.0"} {
		cfg := DefaultConfig()
		cfg.Stage1 = name
		require.NoError(t, cfg.Validate(), name)
	}
}

func TestCgroupDriverIsTheInitsOrTheOneAskedFor(t *testing.T) {
	for _, c := range []struct {
		driver string
		booted bool
		want   bool
	}{{"", false, false}, {"", true, true}, {"cgroupfs", false, false}, {"cgroupfs", true, false}, {"systemd", true, true}} {
		cfg := DefaultConfig()
		cfg.CgroupDriver = c.driver
		require.NoError(t, cfg.Validate())
		got, err := cfg.slices(c.booted)
		require.NoError(t, err)
		require.Equal(t, c.want, got, c)
	}
	_, err := (&Config{CgroupDriver: "systemd"}).slices(false)
	require.ErrorContains(t, err, "systemd is not the init")
}
