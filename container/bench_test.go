package container_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// BenchmarkLifecycle reports what each step of a pod's life takes, without CNI
// plugins and image store, which have benchmarks of their own.
func BenchmarkLifecycle(b *testing.B) {
	for _, flavor := range []string{"lean", "nspawn"} {
		b.Run(flavor, func(b *testing.B) { benchLifecycle(b, flavor) })
	}
}

func benchLifecycle(b *testing.B, flavor string) {
	n := newNode(b)
	ctx := b.Context()
	took := map[string]time.Duration{}
	step := func(name string, f func() error) {
		start := time.Now()
		require.NoError(b, f())
		took[name] += time.Since(start)
	}
	for i := 0; b.Loop(); i++ {
		var id pod.ID
		step("launch", func() error {
			id = n.launch(flavor, func(s *pod.Spec) { s.UID = fmt.Sprint(i) })
			return nil
		})
		var c string
		step("create+start", func() error { c = n.run(id, "sleep 100", nil); return nil })
		step("exec", func() error {
			_, err := n.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: c, Cmd: []string{"true"}})
			return err
		})
		step("stop", func() error {
			_, err := n.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: c})
			return err
		})
		step("remove", func() error {
			_, err := n.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: c})
			return err
		})
		step("stop-pod", func() error { return n.engine.Stop(ctx, id, 0) })
		step("remove-pod", func() error { return n.engine.Remove(ctx, id) })
	}
	for name, d := range took {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), name+"-ms/op")
	}
}
