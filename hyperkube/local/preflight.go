package local

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"github.com/rktnetes/rktshim/hyperkube/preflight"
)

// NewPreflightCommand makes the command preflight, which checks what local-up with
// the same flags would.
func NewPreflightCommand() *cobra.Command {
	return preflight.NewCommand(func(cmd *cobra.Command) func() (preflight.Config, error) {
		getDir, getOptions := dirFlag(cmd), addFlags(cmd)
		return func() (preflight.Config, error) {
			n, err := getDir()
			if err != nil {
				return preflight.Config{}, err
			}
			o, err := getOptions()
			if err == nil {
				o.nodeIP, err = chooseIP(o.nodeIP)
			}
			return n.preflight(o), err
		}
	})
}

// preflight is what the machine has to be able to.
func (n node) preflight(o options) preflight.Config {
	_, err := os.Stat(n.sysctlsFile()) // written after the first start's check
	return preflight.Config{
		Dir: n.dir, NodeIP: o.nodeIP, Remote: o.runtime == runtimeRemote, Endpoint: o.endpoint,
		Stage1: o.stage1, RktPath: o.rktPath, Again: !errors.Is(err, os.ErrNotExist), Ports: ports(o.nodeIP),
	}
}
