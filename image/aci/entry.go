package aci

import (
	"archive/tar"
	"math"
	"path"
	"strings"
)

// entryName cleans the name of a tar entry and refuses one that leaves the archive.
func entryName(name string) (string, error) {
	if path.IsAbs(name) {
		return "", refuse("entry %q: the path is absolute", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", refuse("entry %q: the path leaves its directory", name)
		}
	}
	return path.Clean(name), nil
}

// linkTarget returns the target of a hard link, relative to the root. In an ACI
// it names another entry of the archive, so it starts with rootfs/ too.
func linkTarget(hdr *tar.Header) (string, error) {
	name, err := entryName(hdr.Linkname)
	if err != nil {
		return "", refuse("entry %q: hard link to %q outside of rootfs", hdr.Name, hdr.Linkname)
	}
	target, ok := strings.CutPrefix(name, "rootfs/")
	if !ok {
		return "", refuse("entry %q: hard link to %q outside of rootfs", hdr.Name, hdr.Linkname)
	}
	return target, nil
}

// checkEntry refuses what an OCI layer cannot hold as it is.
func checkEntry(hdr *tar.Header, name string) error {
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeDir, tar.TypeSymlink,
		tar.TypeLink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return refuse("entry %q: unknown type %q", hdr.Name, hdr.Typeflag)
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".wh.") {
			return refuse("entry %q: names that start with .wh. mean a deletion in an OCI layer", hdr.Name)
		}
	}
	for _, id := range []int{hdr.Uid, hdr.Gid} {
		if id < 0 || int64(id) >= math.MaxUint32 {
			return refuse("entry %q: owner %d:%d is out of range", hdr.Name, hdr.Uid, hdr.Gid)
		}
	}
	return nil
}

// whitelist is a manifest's pathWhitelist: the paths themselves and the
// directories that lead to them. A nil one allows all.
type whitelist struct {
	allowed map[string]bool
}

func newWhitelist(paths []string) *whitelist {
	if len(paths) == 0 {
		return nil
	}
	w := &whitelist{allowed: map[string]bool{"": true}}
	for _, p := range paths {
		for p = strings.Trim(p, "/"); p != "" && p != "." && !w.allowed[p]; p = strings.TrimPrefix(path.Dir("/"+p), "/") {
			w.allowed[p] = true
		}
	}
	return w
}

func (w *whitelist) allows(name string) bool { return w == nil || w.allowed[name] }
