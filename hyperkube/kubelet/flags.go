package kubelet

import (
	"errors"
	"fmt"

	"github.com/spf13/pflag"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/kubernetes/cmd/kubelet/app/options"

	"github.com/rktnetes/rktshim/rktshim"
)

// flags are the kubelet's flags that are ours, and what was given of them.
type flags struct {
	set              *pflag.FlagSet
	containerRuntime string
	config           rktshim.Config
	endpointGiven    bool // --container-runtime-endpoint is on the command line
}

// Values of --container-runtime.
const (
	runtimeRkt    = "rkt"
	runtimeRemote = "remote"
)

// flagOf names the flag that sets a field of the runtime's config, so that a bad
// value is reported by the name that the user typed.
var flagOf = map[string]string{
	"Dir":              "rkt-dir",
	"RunDir":           "rkt-run-dir",
	"RktPath":          "rkt-path",
	"Stage1":           "rkt-stage1-image",
	"CgroupDriver":     "rkt-cgroup-driver",
	"APIEndpoint":      "rkt-api-endpoint",
	"CRISocket":        "rkt-cri-socket",
	"PinnedImages":     "rkt-pinned-images",
	"PullStallTimeout": "rkt-pull-stall-timeout",
	"CNIConfDir":       "cni-conf-dir",
	"CNIBinDir":        "cni-bin-dir",
}

func newFlags() *flags {
	f := &flags{set: newFlagSet(), config: rktshim.DefaultConfig()}
	c := &f.config
	f.set.StringVar(&f.containerRuntime, "container-runtime", "", "Where the container runtime is: \"rkt\" is the one in this process, the same as --feature-gates=RktShim=true; \"remote\" is the one behind --container-runtime-endpoint, as without this flag.")
	f.set.StringVar(&c.Dir, "rkt-dir", c.Dir, "Folder of the pods and images of the runtime in this process.")
	f.set.StringVar(&c.RunDir, "rkt-run-dir", c.RunDir, "Folder of what must vanish at a reboot. Empty: the one that belongs to --rkt-dir, below /run.")
	f.set.StringVar(&c.RktPath, "rkt-path", c.RktPath, "Absolute path of the rkt command that pulls images, in a process of its own. Empty: this binary's own \"rkt\" subcommand.")
	f.set.StringVar(&c.Stage1, "rkt-stage1-image", c.Stage1, "How pods are isolated that do not choose it themselves: nspawn, lean or fly, or one of rkt's names for them (coreos.com/rkt/stage1-coreos, .../stage1-lean, .../stage1-fly).")
	f.set.StringVar(&c.CgroupDriver, "rkt-cgroup-driver", c.CgroupDriver, "Who makes the pods' cgroups: systemd, whose pods are units in slices, or cgroupfs. The kubelet follows, whatever its own cgroupDriver says. Empty: systemd where it is the init.")
	f.set.StringVar(&c.APIEndpoint, "rkt-api-endpoint", c.APIEndpoint, "Host and port of rkt's read-only API. Checked, but not served yet.")
	f.set.StringVar(&c.CRISocket, "rkt-cri-socket", c.CRISocket, "Unix socket on which the runtime serves CRI beside memory, for crictl, e.g. /run/rktshim/cri.sock. Empty: none.")
	f.set.StringSliceVar(&c.PinnedImages, "rkt-pinned-images", c.PinnedImages, "Patterns of image tags that the kubelet's garbage collection leaves alone, e.g. registry.k8s.io/*.")
	f.set.DurationVar(&c.PullStallTimeout, "rkt-pull-stall-timeout", c.PullStallTimeout, "How long a registry may send nothing before a pull fails.")
	f.set.StringVar(&c.CNIConfDir, "cni-conf-dir", c.CNIConfDir, "Folder of the CNI network configurations.")
	f.set.StringVar(&c.CNIBinDir, "cni-bin-dir", c.CNIBinDir, "Folder of the CNI plugins.")
	return f
}

func newFlagSet() *pflag.FlagSet {
	set := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	set.SetNormalizeFunc(cliflag.WordSepNormalizeFunc)
	return set
}

// given lists the flags that were given and make no sense without our runtime.
func (f *flags) given() []string {
	var names []string
	f.set.Visit(func(fl *pflag.Flag) {
		if fl.Name != "container-runtime" {
			names = append(names, "--"+fl.Name)
		}
	})
	return names
}

// take sets the flags that are ours from args and returns the rest for the
// kubelet's own command, which would refuse ours.
func (f *flags) take(args []string) (rest []string, err error) {
	all, err := f.withKubelets()
	if err != nil {
		return nil, err
	}
	err = all.ParseAll(args, func(fl *pflag.Flag, value string) error {
		if f.set.Lookup(fl.Name) == nil {
			f.endpointGiven = f.endpointGiven || fl.Name == "container-runtime-endpoint"
			rest = append(rest, "--"+fl.Name+"="+value)
			return nil
		}
		return f.set.Set(fl.Name, value)
	})
	if err != nil {
		return nil, fmt.Errorf("parse kubelet flags: %w", err)
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return append(rest, all.Args()...), nil
}

// withKubelets is our flags and the kubelet's in one set. It is only used to tell
// flags from their values; the kubelet's command parses its own again.
func (f *flags) withKubelets() (*pflag.FlagSet, error) {
	set := newFlagSet()
	options.NewKubeletFlags().AddFlags(set)
	config, err := options.NewKubeletConfiguration()
	if err != nil {
		return nil, fmt.Errorf("make the kubelet's default configuration: %w", err)
	}
	options.AddKubeletConfigFlags(set, config)
	options.AddGlobalFlags(set)
	set.BoolP("help", "h", false, "")
	set.AddFlagSet(f.set)
	return set, nil
}

// check names each bad value of a flag of ours.
func (f *flags) check() error {
	var errs []error
	switch f.containerRuntime {
	case "", runtimeRkt, runtimeRemote:
	default:
		errs = append(errs, fmt.Errorf("--container-runtime=%s: must be %q or %q", f.containerRuntime, runtimeRkt, runtimeRemote))
	}
	if err := f.config.Validate(); err != nil {
		errs = append(errs, renamed(err))
	}
	return errors.Join(errs...)
}

// renamed turns the runtime's errors about fields into errors about flags.
func renamed(err error) error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return err
	}
	var errs []error
	for _, e := range joined.Unwrap() {
		var fe *rktshim.FieldError
		if errors.As(e, &fe) && flagOf[fe.Field] != "" {
			e = fmt.Errorf("--%s=%v: %s", flagOf[fe.Field], fe.Value, fe.Problem)
		}
		errs = append(errs, e)
	}
	return errors.Join(errs...)
}
