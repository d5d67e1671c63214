// Package kubelet is the kubelet's own command with our runtime behind the
// feature gate RktShim.
//
// The command is upstream's, neither copied nor patched. Three of its seams are
// used: the process-wide feature gates, which get one more; the replaced module
// k8s.io/cri-client, through which every CRI client of the kubelet gets its
// dialer, at a moment when the gates are final; and healthz.PingHealthz, a
// variable, which both of the kubelet's health servers and its systemd watchdog
// ask.
package kubelet

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/apimachinery/pkg/util/version"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	"k8s.io/cri-client/pkg/util"
	"k8s.io/kubernetes/cmd/kubelet/app"
)

// Gate is the feature gate that makes the kubelet use the runtime in its own
// process.
const Gate = "RktShim"

// NewCommand makes the kubelet's command. It may be called once in a process, as
// it adds to the process-wide feature gates.
func NewCommand(ctx context.Context) *cobra.Command {
	utilruntime.Must(utilfeature.DefaultMutableFeatureGate.AddVersioned(map[featuregate.Feature]featuregate.VersionedSpecs{
		Gate: {{Version: version.MustParse("1.36"), Default: false, PreRelease: featuregate.Alpha}},
	}))
	cmd := app.NewKubeletCommand(ctx)
	f := newFlags()

	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rest, err := f.take(args)
		if err != nil {
			return err
		}
		if f.containerRuntime == runtimeRkt {
			if err := utilfeature.DefaultMutableFeatureGate.OverrideDefault(Gate, true); err != nil {
				return fmt.Errorf("turn on the feature gate %s: %w", Gate, err)
			}
		}
		rt := newRuntime(f)
		if err := rt.cadvisor.Register(); err != nil {
			return err
		}
		util.Intercept(rt.intercept)
		defer util.Intercept(nil)
		err = run(cmd, rest)
		return errors.Join(err, rt.stop())
	}
	help, usage := cmd.HelpFunc(), cmd.UsageFunc()
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		help(cmd, args)
		fmt.Fprint(cmd.OutOrStdout(), f.usage())
	})
	cmd.SetUsageFunc(func(cmd *cobra.Command) error {
		if err := usage(cmd); err != nil {
			return err
		}
		fmt.Fprint(cmd.OutOrStderr(), f.usage())
		return nil
	})
	return cmd
}

func (f *flags) usage() string {
	return "\nFlags of the runtime in this process (feature gate " + Gate + "):\n" + f.set.FlagUsagesWrapped(2)
}
