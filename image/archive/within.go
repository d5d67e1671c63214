package archive

import (
	"context"

	"go.podman.io/image/v5/types"
)

// Within is ref, except that what must be unpacked to be read (an OCI tar, a
// compressed tar of docker save) goes into dir, and not into /var/tmp, where
// nobody would find it after the process was killed.
func Within(ref types.ImageReference, dir string) types.ImageReference {
	return within{ImageReference: ref, dir: dir}
}

type within struct {
	types.ImageReference
	dir string
}

// NewImageSource implements types.ImageReference.
func (w within) NewImageSource(ctx context.Context, sys *types.SystemContext) (types.ImageSource, error) {
	local := types.SystemContext{}
	if sys != nil {
		local = *sys
	}
	local.BigFilesTemporaryDir = w.dir
	return w.ImageReference.NewImageSource(ctx, &local)
}
