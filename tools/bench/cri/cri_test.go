package cri

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercentileIsTheNearestRank(t *testing.T) {
	sorted := []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	require.Equal(t, 5.0, percentile(sorted, 0.5))
	require.Equal(t, 9.0, percentile(sorted, 0.9))
	require.Equal(t, 10.0, percentile(sorted, 0.99))
	require.Equal(t, 7.0, percentile([]float64{7}, 0.5))
}

// results has one call measured, with each contender.
func results(nspawnTook, leanTook, peerTook float64) *Results {
	r := &Results{Figures: map[string]map[string][]float64{}}
	for c, v := range map[string]float64{nspawn: nspawnTook, lean: leanTook, containerd: peerTook} {
		r.add(c, "RunPodSandbox, "+bridgeNetwork, v)
	}
	return r
}

func TestGoalsNameWhatWasMissed(t *testing.T) {
	require.NoError(t, results(0.038, 0.030, 0.100).Goals())
	require.ErrorContains(t, results(0.040, 0.030, 0.100).Goals(), "RunPodSandbox, bridge CNI, nspawn: 40.0 ms, 0.40 of containerd's, goal ≤ 0.38")
	require.ErrorContains(t, results(0.030, 0.037, 0.100).Goals(), "lean is worse than nspawn: 37.0 ms and 30.0 ms")
}

func TestRatesMustReachTheirGoals(t *testing.T) {
	rate := perSecond["start"]
	r := results(0, 0, 1)
	r.add(nspawn, rate, 29)
	r.add(lean, rate, 31)
	r.add(containerd, rate, 10)
	err := r.Goals()
	require.ErrorContains(t, err, "nspawn: 29.0, 2.90 of containerd's, goal ≥ 3.00")
	require.NotContains(t, err.Error(), "lean: 31.0")
}

func TestAGoalOfNothingIsMissedByWork(t *testing.T) {
	r := results(0, 0, 1)
	r.add(nspawn, idleCPU, 0.02)
	r.add(lean, idleCPU, 0.0001)
	err := r.Goals()
	require.ErrorContains(t, err, "idle CPU with N pods, agent and helpers, nspawn")
	require.NotContains(t, err.Error(), "lean")
}

// The smallest program that can be run must be one: it sleeps until it is killed.
func TestPauseRuns(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("there is no pause program for " + runtime.GOARCH)
	}
	path := filepath.Join(t.TempDir(), "pause")
	require.NoError(t, os.WriteFile(path, pause(nil), 0o755))
	cmd := exec.Command(path)
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		call, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "syscall"))
		return err == nil && len(call) > 3 && string(call[:3]) == "34 "
	}, time.Minute, time.Millisecond, "it does not sleep in pause(2)")
	require.NoError(t, cmd.Process.Kill())
	cmd.Wait() //nolint:errcheck // it was killed
	require.Equal(t, syscall.SIGKILL, cmd.ProcessState.Sys().(syscall.WaitStatus).Signal())
}
