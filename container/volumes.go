package container

import (
	"fmt"
	"os"
	"path"
	"slices"

	securejoin "github.com/cyphar/filepath-securejoin"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// withVolumes adds the image's volumes to the base mounts: folders that stay writable
// where the root is not, with what the image has in them. The container's root is its
// own, so a volume is that root's folder, mounted over itself, and lives as long. One
// whose place is taken by a base mount is none.
func withVolumes(base []specs.Mount, image *Image, root string) ([]specs.Mount, error) {
	taken := map[string]bool{"/": true}
	for _, m := range base {
		taken[m.Destination] = true
	}
	volumes := slices.Clone(image.Volumes)
	slices.Sort(volumes)
	for _, volume := range volumes {
		at := path.Clean("/" + volume)
		if taken[at] {
			continue
		}
		taken[at] = true
		source, err := securejoin.SecureJoin(root, at)
		if err != nil {
			return nil, fmt.Errorf("volume %s of the image: %w", at, err)
		}
		if err := os.MkdirAll(source, 0o755); err != nil {
			return nil, invalid("image", "its volume %s: %v", at, err)
		}
		base = append(base, specs.Mount{Destination: at, Type: "bind", Source: source, Options: []string{"rbind", "rprivate", "rw"}})
	}
	return base, nil
}
