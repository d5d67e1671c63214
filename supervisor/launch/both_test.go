package launch

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// asked is a launcher that notes what it is asked for.
type asked struct {
	name string
	log  *[]string
}

func (a asked) note(what string) { *a.log = append(*a.log, a.name+" "+what) }

func (a asked) Cgroup(parent, _ string) (string, error) {
	a.note("cgroup " + parent)
	return "", nil
}

func (a asked) Launch(_ context.Context, spec Spec) error {
	a.note("launch " + spec.Parent)
	return nil
}

func (a asked) Kill(_ context.Context, parent, _ string) error {
	a.note("kill " + parent)
	return nil
}

func (a asked) List(_ context.Context, _ string, parents []string) ([]string, error) {
	for _, p := range parents {
		a.note("list " + p)
	}
	return []string{a.name}, nil
}

func (a asked) Find(context.Context, string) ([]string, error) { return []string{"of " + a.name}, nil }

func TestFindAsksBoth(t *testing.T) {
	found, err := both{systemd: asked{name: "systemd"}, detached: asked{name: "detached"}}.Find(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, []string{"of detached", "of systemd"}, found)
}

func TestParentTellsWhoLaunches(t *testing.T) {
	var log []string
	b := both{systemd: asked{"systemd", &log}, detached: asked{"detached", &log}}
	for parent, want := range map[string]string{
		"":                                     "systemd",
		"kubepods-burstable-pod1.slice":        "systemd",
		"/kubepods.slice/kubepods-pod1.slice":  "systemd",
		"/kubepods/burstable/pod1":             "detached",
		"/kubepods.slice/kubepods-pod1.sliced": "detached",
	} {
		log = nil
		_, err := b.Cgroup(parent, "a")
		require.NoError(t, err)
		require.NoError(t, b.Launch(t.Context(), Spec{Parent: parent}))
		require.NoError(t, b.Kill(t.Context(), parent, "a"))
		require.Equal(t, []string{want + " cgroup " + parent, want + " launch " + parent, want + " kill " + parent}, log)
	}
}

func TestListAsksWhoeverMayHavePods(t *testing.T) {
	for _, c := range []struct{ parents, pods, log []string }{
		{[]string{"/a"}, []string{"detached"}, []string{"detached list /a"}},
		{[]string{"a.slice"}, []string{"detached", "systemd"}, []string{"systemd list a.slice"}},
		{[]string{"/a", "a.slice"}, []string{"detached", "systemd"}, []string{"detached list /a", "systemd list /a", "systemd list a.slice"}},
	} {
		var log []string
		b := both{systemd: asked{"systemd", &log}, detached: asked{"detached", &log}}

		pods, err := b.List(t.Context(), "/dir", c.parents)

		require.NoError(t, err)
		require.Equal(t, c.pods, pods)
		require.Equal(t, c.log, log)
	}
}
