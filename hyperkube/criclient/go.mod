module k8s.io/cri-client

go 1.26.0

require (
	github.com/rktnetes/rktshim/hyperkube/upstream/cri-client v0.36.3
	go.opentelemetry.io/otel/trace v1.41.0
	k8s.io/cri-api v0.36.3
)

// Only the main module's replaces count in a build; this one lets the tools work
// here too.
replace github.com/rktnetes/rktshim/hyperkube/upstream/cri-client => k8s.io/cri-client v0.36.3
