package rktshim

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/rktnetes/rktshim/pod"
	"github.com/rktnetes/rktshim/stage1/flavors"
)

// metrics are what the runtime tells of itself, in a registry of its own. What is
// counted elsewhere is read when it is asked for. docs/metrics.md lists them.
type metrics struct {
	registry    *prometheus.Registry
	calls       *prometheus.CounterVec
	callTimes   *prometheus.HistogramVec
	pullTimes   *prometheus.HistogramVec
	pulledBytes prometheus.Counter
	cniTimes    *prometheus.HistogramVec
}

// Bounds of the histograms, in seconds: calls answer in 20 µs or in seconds, network
// plugins take 3 ms to their timeout, pulls a tenth of a second to many minutes.
var (
	callBounds = []float64{.0001, .0005, .001, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60, 240}
	cniBounds  = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 90}
	pullBounds = []float64{.05, .1, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800}
)

func newMetrics() *metrics {
	histogram := func(name, help string, bounds []float64, label ...string) *prometheus.HistogramVec {
		return prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: Name, Name: name, Help: help, Buckets: bounds}, label)
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: Name, Name: "operations_total",
			Help: "CRI calls that have ended, by method and gRPC code."}, []string{"method", "code"}),
		callTimes: histogram("operation_duration_seconds", "How long CRI calls took, by method.", callBounds, "method"),
		pullTimes: histogram("image_pull_duration_seconds", "How long pulls of images took, by their result.", pullBounds, "result"),
		pulledBytes: prometheus.NewCounter(prometheus.CounterOpts{Namespace: Name, Name: "image_pulled_bytes_total",
			Help: "Bytes of layers that pulls have fetched, as they came: compressed."}),
		cniTimes: histogram("cni_duration_seconds", "How long the plugins of a network took together, by verb and result.", cniBounds, "verb", "result"),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Namespace: Name, Name: "info",
		Help: "Always 1; the version is in the label.", ConstLabels: prometheus.Labels{"version": Version}})
	info.Set(1)
	m.registry.MustRegister(m.calls, m.callTimes, m.pullTimes, m.pulledBytes, m.cniTimes, info)
	return m
}

// Metrics is the runtime's own registry: a gatherer to be served, or a collector to
// be registered with another one. Every name in it begins with "rktshim_". The
// metrics of pods are there once Ready is closed.
func (s *Shim) Metrics() *prometheus.Registry { return s.metrics.registry }

func (m *metrics) called(method, code string, took time.Duration) {
	m.calls.WithLabelValues(method, code).Inc()
	m.callTimes.WithLabelValues(method).Observe(took.Seconds())
}

func (m *metrics) pulled(fetched int64, took time.Duration, err error) {
	m.pullTimes.WithLabelValues(result(err)).Observe(took.Seconds())
	m.pulledBytes.Add(float64(fetched))
}

func (m *metrics) attached(verb string, took time.Duration, err error) {
	m.cniTimes.WithLabelValues(verb, result(err)).Observe(took.Seconds())
}

func result(err error) string {
	if err != nil {
		return "error"
	}
	return "ok"
}

// engineMetrics reads an engine when it is asked for.
type engineMetrics struct{ engine *pod.Engine }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(prometheus.BuildFQName(Name, "", name), help, labels, nil)
}

var (
	podsDesc        = desc("pods", "Pods by state and stage1.", "state", "stage1")
	appsDesc        = desc("apps", "Apps by state and by the stage1 of their pods.", "state", "stage1")
	supervisorsDesc = desc("supervisor_events_total", "Supervisors of running pods that this process found living (adopted), lost, or whose connection broke (reconnected).", "event")
	undosDesc       = desc("undos_total", "Acts taken back: launches and creates that failed half way, and what an earlier process left half done (recovered).", "act")
	undoErrorsDesc  = desc("undo_errors_total", "Launches and creates that could not be taken back at once.")
	sweepsDesc      = desc("garbage_collections_total", "Searches for things that no record explains.")
	garbageDesc     = desc("garbage_removed_total", "Things that no record explained, removed.", "kind")
)

// Describe implements prometheus.Collector.
func (engineMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{podsDesc, appsDesc, supervisorsDesc, undosDesc, undoErrorsDesc, sweepsDesc, garbageDesc} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (m engineMetrics) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n int, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	counter := func(d *prometheus.Desc, n uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	pods, apps := m.population()
	for of, n := range pods {
		gauge(podsDesc, n, string(of.state), of.stage1)
	}
	for of, n := range apps {
		gauge(appsDesc, n, string(of.state), of.stage1)
	}
	c := m.engine.Counts()
	counter(supervisorsDesc, c.Supervisors.Adopted, "adopted")
	counter(supervisorsDesc, c.Supervisors.Lost, "lost")
	counter(supervisorsDesc, c.Supervisors.Reconnected, "reconnected")
	counter(undosDesc, c.Undone.Launches, "launch")
	counter(undosDesc, c.Undone.Creates, "create")
	counter(undosDesc, c.Undone.Recovered, "recovered")
	counter(undoErrorsDesc, c.Undone.Failed)
	counter(sweepsDesc, c.Garbage.Runs)
	counter(garbageDesc, c.Garbage.Groups, "cgroup")
	counter(garbageDesc, c.Garbage.Folders, "folder")
	counter(garbageDesc, c.Garbage.Namespaces, "netns")
	counter(garbageDesc, c.Garbage.Roots, "root")
}

// kind is what pods and apps are counted by.
type kind struct {
	state  pod.State
	stage1 string
}

// population counts pods and apps. What there is none of is counted too, so that
// its series does not come and go.
func (m engineMetrics) population() (pods, apps map[kind]int) {
	pods, apps = map[kind]int{}, map[kind]int{}
	for stage1 := range flavors.All() {
		for _, s := range []pod.State{pod.Booting, pod.Running, pod.Exited} {
			pods[kind{s, stage1}] = 0
		}
		for _, s := range []pod.State{pod.Created, pod.Running, pod.Exited} {
			apps[kind{s, stage1}] = 0
		}
	}
	flavorOf := map[pod.ID]string{}
	for _, p := range m.engine.Pods(nil) {
		flavorOf[p.ID] = p.Spec.Flavor
		pods[kind{p.State, p.Spec.Flavor}]++
	}
	for _, a := range m.engine.Apps(nil) {
		if flavor, ok := flavorOf[a.Pod]; ok { // else its pod has gone, or come, since
			apps[kind{a.State, flavor}]++
		}
	}
	return pods, apps
}
