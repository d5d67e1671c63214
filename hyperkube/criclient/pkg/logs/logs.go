// Package logs re-exports k8s.io/cri-client/pkg/logs.
package logs

import upstream "github.com/rktnetes/rktshim/hyperkube/upstream/cri-client/pkg/logs"

// Upstream's time formats.
const (
	RFC3339NanoFixed   = upstream.RFC3339NanoFixed
	RFC3339NanoLenient = upstream.RFC3339NanoLenient
)

// LogOptions is upstream's.
type LogOptions = upstream.LogOptions

// ReadLogs is upstream's.
var ReadLogs = upstream.ReadLogs
