package rktshim

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// running runs a shim and gives it with a client.
func running(t *testing.T) (*Shim, runtimeapi.RuntimeServiceClient) {
	t.Helper()
	s, err := New(testConfig(t))
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	conn, err := s.Endpoint().Client()
	require.NoError(t, err)
	t.Cleanup(func() {
		conn.Close()
		cancel()
		require.NoError(t, <-ended)
	})
	select {
	case <-s.Ready():
	case err := <-ended:
		ended <- nil // for the cleanup
		require.FailNow(t, "the runtime did not start", "%v", err)
	}
	return s, runtimeapi.NewRuntimeServiceClient(conn)
}

func TestCallsAreCountedByMethodAndCode(t *testing.T) {
	s, c := running(t)
	for range 2 {
		_, err := c.Version(t.Context(), &runtimeapi.VersionRequest{})
		require.NoError(t, err)
	}
	_, err := c.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: "gone"})
	require.Error(t, err)

	require.EqualValues(t, 2, testutil.ToFloat64(s.metrics.calls.WithLabelValues("Version", "OK")))
	require.EqualValues(t, 1, testutil.ToFloat64(s.metrics.calls.WithLabelValues("ContainerStats", "NotFound")))
	require.Equal(t, 2, testutil.CollectAndCount(s.metrics.callTimes), "a histogram for each method")
}

func TestResultsAreObserved(t *testing.T) {
	m := newMetrics()
	m.pulled(1000, time.Second, nil)
	m.pulled(10, time.Second, errors.New("cut off"))
	m.attached("ADD", time.Millisecond, nil)
	m.attached("DEL", time.Millisecond, errors.New("busy"))

	require.EqualValues(t, 1010, testutil.ToFloat64(m.pulledBytes))
	require.Equal(t, 2, testutil.CollectAndCount(m.pullTimes))
	require.Equal(t, 2, testutil.CollectAndCount(m.cniTimes))
}

// names are the families of a gatherer.
func names(t *testing.T, g prometheus.Gatherer) (all []string) {
	t.Helper()
	families, err := g.Gather()
	require.NoError(t, err)
	for _, f := range families {
		all = append(all, f.GetName())
	}
	return all
}

func TestMetricsAreThoseOfTheDocumentation(t *testing.T) {
	s, c := running(t)
	_, err := c.Version(t.Context(), &runtimeapi.VersionRequest{})
	require.NoError(t, err)
	s.metrics.pulled(0, 0, nil) // what has not happened has no series
	s.metrics.attached("ADD", 0, nil)
	doc, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	var documented []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(rktshim_[a-z_]+)`").FindAllSubmatch(doc, -1) {
		documented = append(documented, string(m[1]))
	}
	slices.Sort(documented)

	require.Equal(t, documented, names(t, s.Metrics()))
	problems, err := testutil.GatherAndLint(s.Metrics())
	require.NoError(t, err)
	require.Empty(t, problems)
}

// As hyperkube does: gathering fails if a series is there twice.
func TestMetricsCanBeRegisteredWithAnotherRegistry(t *testing.T) {
	s, _ := running(t)
	other := prometheus.NewRegistry()
	require.NoError(t, other.Register(s.Metrics()))

	require.Contains(t, names(t, other), "rktshim_pods")
	require.Equal(t, names(t, s.Metrics()), names(t, other))
}

func TestPodsThereAreNoneOfAreCountedToo(t *testing.T) {
	s, _ := running(t)
	for _, name := range []string{"rktshim_pods", "rktshim_apps"} {
		n, err := testutil.GatherAndCount(s.Metrics(), name)
		require.NoError(t, err)
		require.Equal(t, 9, n, name)
	}
}

func BenchmarkObserveCall(b *testing.B) {
	m := newMetrics()
	b.ReportAllocs()
	for b.Loop() {
		m.called("ContainerStatus", "OK", time.Millisecond)
	}
}
