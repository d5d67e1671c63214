package pod

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOwnerOfACgroup(t *testing.T) {
	h := newHost(t)
	e, _ := h.engine()
	id, err := e.Launch(t.Context(), testSpec())
	require.NoError(t, err)
	p, err := e.Pod(id)
	require.NoError(t, err)
	var early Owner
	app, err := e.CreateApp(t.Context(), id, testApp(), func(ctx context.Context, place Place) (Configured, error) {
		early, _ = e.Owner(place.Cgroup) // the OCI runtime makes it after this
		return plain(ctx, place)
	})
	require.NoError(t, err)
	require.Equal(t, app, early.App, "nobody sees the app yet, but its cgroup")
	require.Equal(t, "nginx", early.AppSpec.Name)
	require.Equal(t, id, early.Pod)

	own, ours := e.Owner(p.Cgroup + "/" + string(id))
	require.True(t, ours)
	require.Equal(t, Owner{Pod: id, Spec: p.Spec}, own)

	for _, part := range []string{"", "/stage1", "/" + string(app) + "/exec-0", "/" + string(id) + "/below", "/other"} {
		o, ours := e.Owner(p.Cgroup + part)
		require.True(t, ours, part)
		require.Equal(t, Owner{}, o, part)
	}
	for _, group := range []string{"/", "/kubepods/pod1", p.Cgroup + "x/" + string(id), "/k8s_" + string(id)} {
		_, ours := e.Owner(group)
		require.False(t, ours, group)
	}

	require.NoError(t, e.Remove(t.Context(), id))
	_, ours = e.Owner(p.Cgroup)
	require.False(t, ours)
}
