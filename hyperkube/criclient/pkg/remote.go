// Package cri re-exports k8s.io/cri-client/pkg.
package cri

import upstream "github.com/rktnetes/rktshim/hyperkube/upstream/cri-client/pkg"

// CRIVersion is upstream's.
type CRIVersion = upstream.CRIVersion

// CRIVersionV1 is upstream's.
const CRIVersionV1 = upstream.CRIVersionV1

// Upstream's errors, the same values.
var (
	ErrContainerStatusNil = upstream.ErrContainerStatusNil
	ErrCommandTimedOut    = upstream.ErrCommandTimedOut
)

// Upstream's constructors. They reach our package util for their dialers.
var (
	NewRemoteRuntimeService = upstream.NewRemoteRuntimeService
	NewRemoteImageService   = upstream.NewRemoteImageService
)
