package pull

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"

	"github.com/docker/distribution/registry/api/errcode"
	"go.podman.io/image/v5/docker"
	"go.podman.io/image/v5/signature"
	crierrors "k8s.io/cri-api/pkg/errors"
)

// errStalled is the cause of a cancelled transfer that sent nothing for too long.
var errStalled = errors.New("no progress")

// errPolicy says that policy.json cannot be read: then nothing is accepted.
var errPolicy = errors.New("policy is unreadable")

// ErrUnavailable marks a registry that cannot be reached or fails itself, and
// ErrSignature an image that policy.json refuses. Their texts come first in
// the error, as the kubelet tests it.
var (
	ErrUnavailable = crierrors.ErrRegistryUnavailable
	ErrSignature   = crierrors.ErrSignatureValidationFailed
)

// describe makes the error of a whole pull: the kubelet's word first, then
// which image, then what happened.
func describe(image string, err error) error {
	var refused signature.PolicyRequirementError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) || errors.Is(err, errPolicy):
		return fmt.Errorf("%w: pull %s: %w", ErrSignature, image, err)
	case isUnavailable(err):
		return fmt.Errorf("%w: pull %s: %w", ErrUnavailable, image, err)
	}
	return fmt.Errorf("pull %s: %w", image, err)
}

// sourceError is a failure of the source itself, not of unpacking or storing
// what it sent: only these are the registry's fault, and worth another try.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// isUnavailable says whether the registry could not be reached, or failed itself.
func isUnavailable(err error) bool {
	var source *sourceError
	if !errors.As(err, &source) {
		return false
	}
	var op *net.OpError
	var dns *net.DNSError
	if errors.Is(err, errStalled) || errors.As(err, &op) || errors.As(err, &dns) || errors.Is(err, docker.ErrTooManyRequests) {
		return true
	}
	if status := httpStatus(err); status >= 500 || status == http.StatusTooManyRequests {
		return true
	}
	return isCut(err)
}

// isCut says whether a connection broke.
func isCut(err error) bool {
	var timeout net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, errShort) || (errors.As(err, &timeout) && timeout.Timeout() && !errors.Is(err, context.DeadlineExceeded))
}

// isTransient says whether asking again may help. What the transport has
// already tried again itself (429) is not.
func isTransient(err error) bool {
	var source *sourceError
	if !errors.As(err, &source) || errors.Is(err, errStalled) || errors.Is(err, context.Canceled) || errors.Is(err, os.ErrPermission) {
		return false
	}
	var op *net.OpError
	return isCut(err) || errors.As(err, &op) || httpStatus(err) >= 500
}

// isUnauthorized says whether the registry no longer takes our token.
func isUnauthorized(err error) bool {
	var creds docker.ErrUnauthorizedForCredentials
	return errors.As(err, &creds) || httpStatus(err) == http.StatusUnauthorized
}

// httpStatus digs the status of a registry's answer out of err, 0 if it has none.
func httpStatus(err error) int {
	var unexpected docker.UnexpectedHTTPStatusError
	if errors.As(err, &unexpected) {
		return unexpected.StatusCode
	}
	var coder errcode.ErrorCoder
	if errors.As(err, &coder) {
		return coder.ErrorCode().Descriptor().HTTPStatusCode
	}
	// The transport's error for an answer that is not the registry protocol's
	// is unexported but begins so.
	var status int
	for e := err; e != nil; e = errors.Unwrap(e) {
		if i := strings.Index(e.Error(), "StatusCode: "); i >= 0 {
			if _, serr := fmt.Sscanf(e.Error()[i:], "StatusCode: %d", &status); serr == nil {
				return status
			}
		}
	}
	return 0
}
