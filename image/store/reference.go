package store

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"go.podman.io/image/v5/docker/reference"
)

// minBarePrefix is how many hex digits an id prefix needs when it lacks
// "sha256:". Shorter ones are names only: were "cafe" an id prefix, a pod that
// names the image cafe could be given any image whose id happens to begin so.
const minBarePrefix = 12

var hexDigits = regexp.MustCompile(`^[0-9a-f]{1,64}$`)

// ParseReference resolves an image name as containerd and CRI-O do by default:
// a name without registry is Docker Hub's, without namespace in "library", and
// without tag or digest "latest". A name with both tag and digest loses its
// tag: the digest says it all. Errors are InvalidArgument.
func ParseReference(s string) (reference.Named, error) {
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return nil, fmt.Errorf("parse image name %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return named, nil
}

// idPrefix gives the hex digits of s if s may be an image id or the start of one.
func idPrefix(s string) (string, bool) {
	digits, explicit := strings.CutPrefix(s, "sha256:")
	if !hexDigits.MatchString(digits) || (!explicit && len(digits) < minBarePrefix) {
		return "", false
	}
	return digits, true
}

func checkPins(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("pinned pattern %q: %w: %w", p, err, errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

func (s *Store) pinned(tags []string) bool {
	for _, tag := range tags {
		for _, p := range s.cfg.Pinned {
			if ok, err := path.Match(p, tag); err == nil && ok {
				return true
			}
		}
	}
	return false
}
