package container

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/cgroupstat"
	"github.com/rktnetes/rktshim/pod"
)

// groupApps are apps whose usage is read from cgroups of this host.
type groupApps struct {
	*fakeApps
	groups map[pod.AppID]*cgroupstat.Group
}

func (g groupApps) AppUsage(id pod.AppID) (u pod.Usage, err error) {
	u.Usage, err = g.groups[id].Usage()
	return u, err
}

// BenchmarkListContainerStats lists a full node: 110 pods of one container each.
func BenchmarkListContainerStats(b *testing.B) {
	if os.Getuid() != 0 {
		b.Skip("cgroups take root")
	}
	apps := groupApps{&fakeApps{apps: map[pod.AppID]*pod.App{}}, map[pod.AppID]*cgroupstat.Group{}}
	parent := "/rktt-bench-" + strconv.Itoa(os.Getpid())
	b.Cleanup(func() { require.NoError(b, cgroup.Remove(context.Background(), parent)) })
	for i := range 110 {
		id := pod.AppID(fmt.Sprintf("app-%d", i))
		group := filepath.Join(parent, string(id))
		require.NoError(b, cgroup.Make(group))
		apps.groups[id] = cgroupstat.New(group)
		b.Cleanup(apps.groups[id].Close)
		apps.order = append(apps.order, id)
		apps.apps[id] = &pod.App{ID: id, Pod: pod.ID(fmt.Sprint(i)), State: pod.Running, Spec: &pod.AppSpec{Name: "c"}}
	}
	s := New(Node{}, apps, fakeImages{})
	b.ReportAllocs()
	for b.Loop() {
		r, err := s.ListContainerStats(b.Context(), &runtimeapi.ListContainerStatsRequest{})
		require.NoError(b, err)
		require.Len(b, r.Stats, 110)
	}
}
