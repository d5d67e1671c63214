// Package cri re-exports k8s.io/cri-client/pkg.
package cri

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/trace"
	internalapi "k8s.io/cri-api/pkg/apis"
	"k8s.io/cri-client/pkg/util"

	upstream "github.com/rktnetes/rktshim/hyperkube/upstream/cri-client/pkg"
)

// CRIVersion is upstream's.
type CRIVersion = upstream.CRIVersion

// CRIVersionV1 is upstream's.
const CRIVersionV1 = upstream.CRIVersionV1

// Upstream's errors, the same values.
var (
	ErrContainerStatusNil = upstream.ErrContainerStatusNil
	ErrCommandTimedOut    = upstream.ErrCommandTimedOut
)

// NewRemoteRuntimeService is upstream's, which reaches our package util for its
// dialer. The tracer provider is kept there.
func NewRemoteRuntimeService(ctx context.Context, endpoint string, connectionTimeout time.Duration, tp trace.TracerProvider, useStreaming bool) (internalapi.RuntimeService, error) {
	util.SetTracerProvider(tp)
	return upstream.NewRemoteRuntimeService(ctx, endpoint, connectionTimeout, tp, useStreaming)
}

// NewRemoteImageService is upstream's in the same way.
func NewRemoteImageService(ctx context.Context, endpoint string, connectionTimeout time.Duration, tp trace.TracerProvider, useStreaming bool) (internalapi.ImageManagerService, error) {
	util.SetTracerProvider(tp)
	return upstream.NewRemoteImageService(ctx, endpoint, connectionTimeout, tp, useStreaming)
}
