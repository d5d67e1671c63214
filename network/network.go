// Package network attaches pods to the node's network by CNI plugins, and makes
// and removes the network namespaces that they are attached in.
//
// The plugins and their configuration are the host's (Debian: package
// containernetworking-plugins). The package execs plugins and nothing else; it
// knows neither CRI nor Kubernetes.
//
// # What survives a crash
//
// [CNI.Attach] has everything that a DEL needs recorded before the first plugin
// runs: the plugins' configuration, arguments and capability arguments. So
// [CNI.Detach] needs the record alone. It works after a reboot, with the pod's
// namespace gone, and after the configuration was changed or deleted. The result
// goes into the record after ADD. libcni's own cache of results is not used: it
// would be a second truth, kept by other rules.
//
// A plugin may outlive a node agent that was killed. Each pod therefore has a
// file in Config.RunDir whose flock the pod's plugins inherit: whoever gets the
// lock knows that none of them runs any more. The file also holds what the
// plugins of an unfinished ADD have answered so far, which some of them need to
// find what they must delete. It is lost at a reboot, like the rules that it
// tells of.
//
// # Order
//
// Calls for different pods run side by side; no lock is held while a plugin
// runs, but for the pod's own file. Calls for one pod are ordered by the caller.
package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// DefaultTimeout leaves room for an ADD that hangs and the DEL that follows it
// within the 4 minutes that a kubelet gives RunPodSandbox.
const DefaultTimeout = 90 * time.Second

// Config is set by the node's operator.
type Config struct {
	// ConfDir holds the network configuration, /etc/cni/net.d by custom. It need
	// not exist: pods can be attached as soon as it does.
	ConfDir string
	// BinDirs are searched for plugins in this order, /opt/cni/bin by custom,
	// /usr/lib/cni on Debian.
	BinDirs []string
	// RunDir holds one small file for each pod that is being attached or is
	// attached. It must not outlive a reboot: a folder of its own under /run.
	RunDir string
	// Timeout bounds one ADD, and one DEL, of all plugins of a network. Plugins
	// that take longer are killed.
	Timeout time.Duration
	// Observe is told of each ADD, DEL and CHECK of all plugins of a network, also
	// of one that failed. Nil: nobody is told.
	Observe func(verb string, took time.Duration, err error)
}

func (c *Config) check() error {
	var errs []error
	absolute := func(field, path string) {
		if !filepath.IsAbs(path) {
			errs = append(errs, fmt.Errorf("%s %q is not an absolute path: %w", field, path, errdefs.ErrInvalidArgument))
		}
	}
	absolute("CNI conf folder", c.ConfDir)
	absolute("CNI run folder", c.RunDir)
	if len(c.BinDirs) == 0 {
		errs = append(errs, fmt.Errorf("no CNI plugin folder is given: %w", errdefs.ErrInvalidArgument))
	}
	for _, dir := range c.BinDirs {
		absolute("CNI plugin folder", dir)
	}
	if c.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("CNI timeout %v is not positive: %w", c.Timeout, errdefs.ErrInvalidArgument))
	}
	return errors.Join(errs...)
}

// Save keeps the record of a pod's attachment, durably when it returns nil. The
// record is JSON with a version in it, opaque to whoever keeps it. It holds the
// network's configuration, which may hold secrets: only root may read it. A nil
// record means that nothing is attached.
type Save func(ctx context.Context, record json.RawMessage) error

// CNI attaches pods by the plugins of one host.
type CNI struct {
	config Config

	mu       sync.Mutex     // held for moments only
	host     hostState      // guarded by mu
	podCIDRs []netip.Prefix // guarded by mu
}

// New returns a CNI that knows no network before Run reads the configuration.
// Detach and Check work without Run.
func New(config Config) (*CNI, error) {
	if err := config.check(); err != nil {
		return nil, err
	}
	config.BinDirs = slices.Clone(config.BinDirs)
	return &CNI{config: config, host: hostState{reason: errNotRead}}, nil
}

// SetPodCIDRs tells from which ranges pods get their addresses, one for each
// address family. Networks whose plugins declare the ipRanges capability use
// them for the pods attached from now on.
func (n *CNI) SetPodCIDRs(cidrs []netip.Prefix) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.podCIDRs = slices.Clone(cidrs)
}

// network returns the network in use and the ranges for its pods.
func (n *CNI) network() (*conf, []netip.Prefix, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.host.conf == nil {
		return nil, nil, fmt.Errorf("%w: %w", n.host.reason, errdefs.ErrUnavailable)
	}
	return n.host.conf, n.podCIDRs, nil
}
