// Package fly runs a pod's apps in the host's namespaces, confined by nothing but
// the root of their image: for node software. The instance is empty.
package fly

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/stage1"
)

// Isolator is the flavor "fly".
type Isolator struct{}

// Check finds every node fit.
func (Isolator) Check() error { return nil }

// Boot implements stage1.Isolator. A spec that asks for any namespace of the pod's
// own is refused: whoever chose fly must have asked for the host's.
func (Isolator) Boot(_ context.Context, spec stage1.Spec, _ stage1.Host) (stage1.Instance, error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		field string
		set   bool
	}{
		{"network", spec.Network != ""},
		{"ownIPC", spec.OwnIPC},
		{"ownUTS", spec.OwnUTS},
		{"sharedPID", spec.SharedPID},
		{"shmBytes", spec.ShmBytes != 0},
	} {
		if f.set {
			return nil, fmt.Errorf("stage1 spec: %s: flavor fly has the host's namespaces only: %w", f.field, errdefs.ErrInvalidArgument)
		}
	}
	return instance{}, nil
}

// Sweep implements stage1.Isolator: fly leaves nothing.
func (Isolator) Sweep(stage1.Spec) error { return nil }

type instance struct{}

func (instance) Namespace(stage1.Kind) *os.File { return nil }
func (instance) Done() <-chan struct{}          { return nil }
func (instance) Stop(context.Context) error     { return nil }
