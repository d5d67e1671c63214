package image

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

func TestALayerIsTheSameEachTime(t *testing.T) {
	dir := t.TempDir()
	l := layerSpec{seed: 7, bytes: 300_000}
	first, diff, err := l.write(dir)
	require.NoError(t, err)
	again, diffAgain, err := l.write(dir)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Equal(t, diff, diffAgain)
	data, err := os.ReadFile(filepath.Join(dir, first.Digest.Encoded()))
	require.NoError(t, err)
	require.Equal(t, first.Digest, digest.FromBytes(data))
	require.EqualValues(t, len(data), first.Size)
	other, _, err := layerSpec{seed: 8, bytes: 300_000}.write(dir)
	require.NoError(t, err)
	require.NotEqual(t, first.Digest, other.Digest)
}

func results(our, their time.Duration, agent int64) *Results {
	r := &Results{samples: map[key][]sample{}, have: []string{ours{}.name(), containerd{}.name()}}
	for _, p := range cases {
		r.samples[key{p.name, ours{}.name()}] = []sample{{took: our, agent: agent}}
		r.samples[key{p.name, containerd{}.name()}] = []sample{{took: their}}
	}
	return r
}

func TestGoalsNameWhatWasMissed(t *testing.T) {
	require.NoError(t, results(time.Second, time.Second, 1e6).Goals())
	require.ErrorContains(t, results(2*time.Second, time.Second, 1e6).Goals(), "rktshim takes 2.00 of the time of containerd")
	require.ErrorContains(t, results(time.Second, time.Second, 41e6).Goals(), "the agent's memory grows by 41.0 MB")
}

func TestTheMeterSeesWhatAProcessAndItsChildrenUse(t *testing.T) {
	file := filepath.Join(t.TempDir(), "out")
	m := &meter{}
	before, err := m.usage()
	require.NoError(t, err)
	require.NoError(t, m.run(exec.Command("sh", "-c", "head -c 3000000 /dev/zero | cat > "+file)))
	after, err := m.usage()
	require.NoError(t, err)
	require.Greater(t, after.cpu, before.cpu)
	require.InDelta(t, 3e6, after.written-before.written, 1e6)
	require.ErrorContains(t, m.run(exec.Command("sh", "-c", "echo no luck; exit 3")), "no luck")
}
