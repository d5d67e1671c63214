package store

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"hash/crc64"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	tsstorage "github.com/vbatts/tar-split/tar/storage"
	"go.podman.io/storage"
	"go.podman.io/storage/pkg/archive"
	"golang.org/x/sys/unix"
)

// verifyLayer rebuilds the layer's tar stream from the files on the disk and
// the headers kept beside them.
func (s *Store) verifyLayer(ctx context.Context, layer *storage.Layer) ([]Damage, error) {
	c := &layerCheck{ctx: ctx, root: s.diffPath(layer.ID), found: map[string]string{}, sum: digest.Canonical.Digester()}
	damage := func(path, problem string) []Damage {
		return []Damage{{Layer: layer.ID, Path: path, Problem: problem}}
	}
	f, err := os.Open(s.tarSplitPath(layer.ID))
	if errors.Is(err, fs.ErrNotExist) {
		return damage("/", "the record of its headers is missing"), nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if there, err := s.layerExists(layer.ID); err != nil || !there {
		return damage("/", "its folder is missing"), err
	}
	if err := c.run(f); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return damage("/", fmt.Sprintf("the record of its headers is unreadable: %v", err)), nil
	}
	var found []Damage
	for _, path := range c.order {
		if problem, bad := c.found[path]; bad {
			found = append(found, Damage{Layer: layer.ID, Path: path, Problem: problem})
			delete(c.found, path)
		}
	}
	if got := c.sum.Digest(); len(found) == 0 && !c.overwritten && got != layer.UncompressedDigest {
		return damage("/", fmt.Sprintf("has digest %s, not %s", got, layer.UncompressedDigest)), nil
	}
	return found, nil
}

// layerCheck rebuilds one layer's stream. A path may be in it twice; the last
// one is what the disk holds.
type layerCheck struct {
	ctx         context.Context // of the one call that made it
	root        string
	sum         digest.Digester
	found       map[string]string // path to problem
	order       []string          // paths that were ever in found, as they came up
	overwritten bool              // a problem was taken back because a later entry replaced the file
	done        func(name, problem string)
}

func (c *layerCheck) run(split io.Reader) error {
	gz, err := gzip.NewReader(split)
	if err != nil {
		return err
	}
	defer gz.Close()
	stream := io.TeeReader(&assembly{check: c, entries: tsstorage.NewJSONUnpacker(gz)}, c.sum.Hash())
	if err := c.compareHeaders(tar.NewReader(stream)); err != nil {
		return err
	}
	c.done = c.note
	_, err = io.Copy(io.Discard, stream) // padding after the end, or what the tar reader gave up on
	return err
}

// note records a problem with a path, or that its last entry has none.
func (c *layerCheck) note(name, problem string) {
	name = path.Clean("/" + name)
	_, known := c.found[name]
	switch {
	case problem != "" && !known:
		c.found[name] = problem
		c.order = append(c.order, name)
	case problem == "" && known:
		delete(c.found, name)
		c.overwritten = true
	}
}

// assembly is the layer's tar stream: headers and padding from the record,
// contents from the disk. Contents that are not what they were are noted and
// made up to their length with zeros, so that the rest can still be checked.
type assembly struct {
	check   *layerCheck
	entries tsstorage.Unpacker
	segment bytes.Reader

	file    io.ReadCloser // nil when between files
	left    int64         // bytes of the file still to come
	crc     hash.Hash64
	entry   *tsstorage.Entry
	problem string
}

func (a *assembly) Read(p []byte) (int, error) {
	for {
		if err := a.check.ctx.Err(); err != nil {
			return 0, err
		}
		if a.segment.Len() > 0 {
			return a.segment.Read(p)
		}
		if a.entry != nil {
			return a.readFile(p)
		}
		entry, err := a.entries.Next()
		if err != nil {
			return 0, err
		}
		if entry.Type == tsstorage.SegmentType {
			a.segment.Reset(entry.Payload)
		} else if entry.Size > 0 {
			a.open(entry)
		}
	}
}

var crcTable = crc64.MakeTable(crc64.ISO) // tar-split's

func (a *assembly) open(entry *tsstorage.Entry) {
	a.entry, a.left, a.crc, a.problem = entry, entry.Size, crc64.New(crcTable), ""
	f, err := openBeneath(a.check.root, entry.GetName())
	if err != nil {
		a.problem = err.Error()
		a.file = io.NopCloser(zeros{})
		return
	}
	a.file = f
}

func (a *assembly) readFile(p []byte) (int, error) {
	if int64(len(p)) > a.left {
		p = p[:a.left]
	}
	n, err := a.file.Read(p)
	if err != nil { // the end comes too early, or the disk fails
		if a.problem == "" {
			a.problem = fmt.Sprintf("%d bytes are missing: %v", a.left-int64(n), err)
		}
		a.file.Close()
		a.file = io.NopCloser(zeros{})
	}
	a.crc.Write(p[:n])
	if a.left -= int64(n); a.left > 0 {
		return n, nil
	}
	a.file.Close()
	if a.problem == "" && !bytes.Equal(a.crc.Sum(nil), a.entry.Payload) {
		a.problem = "content has changed"
	}
	a.check.done(a.entry.GetName(), a.problem)
	a.entry = nil
	return n, nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// parentBeneath opens the folder of a layer's path and gives the path's last
// element. Symlinks on the way are followed as the layer's own processes would:
// root is their "/", and none leads out of it. The caller closes the folder.
func parentBeneath(root, name string) (fd int, base string, err error) {
	dir, base := path.Split(path.Clean("/" + name))
	if base == "" { // the root itself
		base = "."
	}
	fd, err = dirBeneath(root, dir, unix.O_PATH)
	return fd, base, err
}

// dirBeneath opens a folder of a layer, which may be named through symlinks.
func dirBeneath(root, dir string, flags uint64) (int, error) {
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(at)
	return unix.Openat2(at, dir, &unix.OpenHow{Flags: flags | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
}

// openBeneath opens a layer's file for reading; its path leads nowhere else.
func openBeneath(root, name string) (*os.File, error) {
	dir, base, err := parentBeneath(root, name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("is not a regular file")
	}
	fd, err := unix.Openat(dir, base, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// lstatBeneath is unix.Lstat below root, with the target if it is a symlink.
func lstatBeneath(root, name string) (unix.Stat_t, string, error) {
	var st unix.Stat_t
	dir, base, err := parentBeneath(root, name)
	if err != nil {
		return st, "", err
	}
	defer unix.Close(dir)
	if err := unix.Fstatat(dir, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return st, "", err
	}
	target := ""
	if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(dir, base, buf)
		if err != nil {
			return st, "", err
		}
		target = string(buf[:n])
	}
	return st, target, nil
}

// compareHeaders checks each entry of the stream against the file on the disk.
// It gives up without an error at what it cannot parse: extraction was more lenient.
func (c *layerCheck) compareHeaders(tr *tar.Reader) error {
	for {
		content := ""
		c.done = func(_, problem string) { content = problem }
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, tar.ErrHeader) {
			return nil
		}
		if err != nil {
			return err
		}
		problem := c.compare(hdr)
		if _, err := io.Copy(io.Discard, tr); err != nil {
			return err
		}
		if content != "" {
			problem = content
		}
		c.note(hdr.Name, problem)
		c.undelete(hdr.Name)
	}
}

// undelete takes back that a deletion is lost: its name has a later entry,
// which took the place of the mark.
func (c *layerCheck) undelete(name string) {
	dir, base := path.Split(path.Clean("/" + name))
	delete(c.found, dir+archive.WhiteoutPrefix+base)
}

const opaqueXattr = "trusted.overlay.opaque"

// compare tells how the file of one entry differs from it.
func (c *layerCheck) compare(hdr *tar.Header) string {
	dir, base := path.Split(path.Clean("/" + hdr.Name))
	if base == archive.WhiteoutOpaqueDir {
		return c.compareOpaque(dir)
	}
	if strings.HasPrefix(base, archive.WhiteoutMetaPrefix) {
		return "" // aufs leftovers, never unpacked
	}
	if gone, ok := strings.CutPrefix(base, archive.WhiteoutPrefix); ok {
		st, _, err := lstatBeneath(c.root, dir+gone)
		if err != nil {
			return fmt.Sprintf("its deletion is lost: %v", err)
		}
		if st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != 0 {
			return "its deletion is lost"
		}
		return ""
	}
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return ""
	}
	st, target, err := lstatBeneath(c.root, hdr.Name)
	if err != nil {
		return err.Error()
	}
	return compareStat(hdr, st, target)
}

func (c *layerCheck) compareOpaque(dir string) string {
	fd, err := dirBeneath(c.root, dir, unix.O_RDONLY)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(fd)
	buf := make([]byte, 1)
	if n, err := unix.Fgetxattr(fd, opaqueXattr, buf); err != nil || n != 1 || buf[0] != 'y' {
		return "no longer hides the folder below it"
	}
	return ""
}

var fileTypes = map[byte]uint32{
	tar.TypeReg: unix.S_IFREG, tar.TypeSymlink: unix.S_IFLNK, tar.TypeDir: unix.S_IFDIR,
	tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO,
}

func compareStat(hdr *tar.Header, st unix.Stat_t, target string) string {
	if hdr.Typeflag == tar.TypeLink {
		return "" // its target has an entry, and it has no metadata of its own
	}
	want, known := fileTypes[hdr.Typeflag]
	switch {
	case !known:
		return ""
	case st.Mode&unix.S_IFMT != want:
		return "is a file of another type"
	case want == unix.S_IFLNK && target != hdr.Linkname:
		return fmt.Sprintf("links to %q, not %q", target, hdr.Linkname)
	case want == unix.S_IFREG && st.Nlink > 1:
		// The entry of a later link may have changed its mode and owner.
		if st.Size != hdr.Size {
			return fmt.Sprintf("has %d bytes, not %d", st.Size, hdr.Size)
		}
	case want != unix.S_IFLNK && st.Mode&0o7777 != uint32(hdr.Mode)&0o7777:
		return fmt.Sprintf("has mode %o, not %o", st.Mode&0o7777, hdr.Mode&0o7777)
	case int(st.Uid) != hdr.Uid || int(st.Gid) != hdr.Gid:
		return fmt.Sprintf("is owned by %d:%d, not %d:%d", st.Uid, st.Gid, hdr.Uid, hdr.Gid)
	case want == unix.S_IFREG && st.Size != hdr.Size:
		return fmt.Sprintf("has %d bytes, not %d", st.Size, hdr.Size)
	}
	return ""
}

// replaceTarSplit writes the record of a layer's headers anew, in one step.
func replaceTarSplit(dst string, from *os.File) error {
	if _, err := from.Seek(0, io.SeekStart); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(dst), ".tar-split-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	gz, err := gzip.NewWriterLevel(tmp, gzip.BestSpeed)
	if err != nil {
		return err
	}
	if _, err := io.Copy(gz, from); err != nil {
		return err
	}
	if err := gz.Close(); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), dst)
}
