// Package fake re-exports k8s.io/cri-client/pkg/fake.
package fake

import upstream "github.com/rktnetes/rktshim/hyperkube/upstream/cri-client/pkg/fake"

// RemoteRuntime is upstream's.
type RemoteRuntime = upstream.RemoteRuntime

// Upstream's functions.
var (
	NewFakeRemoteRuntime = upstream.NewFakeRemoteRuntime
	GenerateEndpoint     = upstream.GenerateEndpoint
)
