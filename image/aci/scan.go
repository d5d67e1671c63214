package aci

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/internal/decompress"
)

// Limits bounds what one ACI may make its reader do. All are bytes after
// decompression.
type Limits struct {
	Manifest       int64 // size of the manifest
	BeforeManifest int64 // files in front of the manifest (many builders write it last)
	Layer          int64 // all files together
	Trailing       int64 // whatever follows the end of the tar
}

// DefaultLimits are generous for every image that was ever published.
var DefaultLimits = Limits{
	Manifest:       1 << 20,
	BeforeManifest: 10 << 30,
	Layer:          256 << 30,
	Trailing:       1 << 20,
}

// scanner reads an ACI and is itself a reader: of the tar of the OCI layer,
// which is the ACI's rootfs with that prefix taken off. It holds no more than
// one block of a file, and starts no goroutine. Files that the manifest's
// pathWhitelist leaves out are dropped when the manifest is known in time.
type scanner struct {
	ctx    context.Context // of the one call that reads; checked with each block
	limits Limits

	stream io.ReadCloser // decompressed
	in     *tar.Reader
	out    *tar.Writer
	buf    bytes.Buffer // written by out, not yet read
	file   int64        // bytes of the current file still to copy
	err    error        // sticky; io.EOF at the end

	manifest *Manifest // given, or found on the way
	seen     bool      // the archive's own manifest was met
	late     bool      // files came in front of it
	hasRoot  bool
	total    int64
	keep     *whitelist
	owners   map[string]*owner // paths whose owner app.user or app.group asks for
	block    []byte
}

type owner struct {
	uid, gid int
	found    bool
}

// newScanner reads an ACI from r. known is the archive's manifest where an
// earlier scan has found it, else nil.
func newScanner(ctx context.Context, r io.Reader, limits Limits, known *Manifest) (*scanner, error) {
	stream, _, err := decompress.Reader(r)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	s := &scanner{
		ctx: ctx, limits: limits, stream: stream, in: tar.NewReader(stream),
		owners: map[string]*owner{}, block: make([]byte, 64<<10),
	}
	s.out = tar.NewWriter(&s.buf)
	if known != nil {
		s.use(known)
	}
	return s, nil
}

// Close releases the decompressor.
func (s *scanner) Close() error { return s.stream.Close() }

// use takes the manifest into account for the files still to come.
func (s *scanner) use(m *Manifest) {
	s.manifest = m
	s.keep = newWhitelist(m.PathWhitelist)
	if m.App == nil {
		return
	}
	for _, id := range []string{m.App.User, m.App.Group} {
		if strings.HasPrefix(id, "/") {
			s.owners[strings.Trim(id, "/")] = &owner{}
		}
	}
}

// incomplete tells whether files were passed on before the manifest said what
// to do with them: then the archive must be scanned again.
func (s *scanner) incomplete() bool {
	return s.late && (s.keep != nil || len(s.owners) > 0)
}

// Read yields the layer's tar.
func (s *scanner) Read(p []byte) (int, error) {
	for s.buf.Len() == 0 && s.err == nil {
		s.buf.Reset()
		s.err = s.step()
	}
	if s.buf.Len() > 0 {
		return s.buf.Read(p)
	}
	return 0, s.err
}

// step moves on by one block of a file, or by one header. io.EOF is the end.
func (s *scanner) step() error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if s.file > 0 {
		return s.copyBlock()
	}
	hdr, err := s.in.Next()
	if errors.Is(err, io.EOF) {
		return s.finish()
	}
	if err != nil {
		return refuse("read the archive: %w", err)
	}
	return s.entry(hdr)
}

func (s *scanner) copyBlock() error {
	n, err := io.ReadFull(s.in, s.block[:min(s.file, int64(len(s.block)))])
	if err != nil {
		return refuse("read the archive: %w", noEOF(err))
	}
	s.file -= int64(n)
	_, err = s.out.Write(s.block[:n])
	return err
}

// entry decides about one entry of the archive.
func (s *scanner) entry(hdr *tar.Header) error {
	if hdr.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	name, err := entryName(hdr.Name)
	if err != nil {
		return err
	}
	switch {
	case name == ".":
		return nil
	case name == "manifest":
		return s.readManifest(hdr)
	case name == "rootfs" && hdr.Typeflag != tar.TypeDir:
		return refuse("rootfs is not a directory")
	case name == "rootfs", strings.HasPrefix(name, "rootfs/"):
		return s.rootfsEntry(hdr, strings.TrimPrefix(strings.TrimPrefix(name, "rootfs"), "/"))
	}
	return refuse("entry %q: an ACI holds nothing but manifest and rootfs", hdr.Name)
}

func (s *scanner) readManifest(hdr *tar.Header) error {
	switch {
	case s.seen:
		return refuse("it has a second manifest")
	case hdr.Typeflag != tar.TypeReg:
		return refuse("its manifest is not a regular file")
	case hdr.Size > s.limits.Manifest:
		return refuse("its manifest has %d bytes, the limit is %d", hdr.Size, s.limits.Manifest)
	}
	s.seen = true
	raw, err := io.ReadAll(s.in)
	if err != nil {
		return refuse("read the manifest: %w", noEOF(err))
	}
	if s.manifest != nil { // known from the scan before
		return nil
	}
	m, err := ParseManifest(raw)
	if err != nil {
		return err
	}
	s.late = s.hasRoot
	s.use(m)
	return nil
}

// rootfsEntry passes on one entry, named relative to the root, "" for the root.
func (s *scanner) rootfsEntry(hdr *tar.Header, name string) error {
	s.hasRoot = true
	if err := checkEntry(hdr, name); err != nil {
		return err
	}
	if s.total += hdr.Size + 512; s.total > s.limits.Layer {
		return refuse("its files take more than %d bytes", s.limits.Layer)
	}
	if !s.seen && s.total > s.limits.BeforeManifest {
		return refuse("no manifest within the first %d bytes of files", s.limits.BeforeManifest)
	}
	if o := s.owners[name]; o != nil {
		*o = owner{uid: hdr.Uid, gid: hdr.Gid, found: true}
	}
	if !s.keep.allows(name) {
		return nil
	}
	out, err := s.layerHeader(hdr, name)
	if err != nil {
		return err
	}
	if err := s.out.WriteHeader(out); err != nil {
		return refuse("entry %q: %w", hdr.Name, err)
	}
	s.file = out.Size
	return nil
}

// layerHeader rebuilds the header from the fields that OCI layers carry, so
// that nothing else (sparse maps, user names, vendor records) slips through.
func (s *scanner) layerHeader(hdr *tar.Header, name string) (*tar.Header, error) {
	out := &tar.Header{
		Typeflag: hdr.Typeflag, Name: name, Linkname: hdr.Linkname,
		Mode: hdr.Mode & 0o7777, Uid: hdr.Uid, Gid: hdr.Gid, ModTime: hdr.ModTime,
		Devmajor: hdr.Devmajor, Devminor: hdr.Devminor, Format: tar.FormatPAX,
	}
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		out.Typeflag, out.Size = tar.TypeReg, hdr.Size
	case tar.TypeDir:
		out.Name = path.Clean("./"+name) + "/"
	case tar.TypeLink:
		target, err := linkTarget(hdr)
		if err != nil {
			return nil, err
		}
		if !s.keep.allows(target) {
			return nil, refuse("pathWhitelist keeps /%s, a hard link to /%s, but not that", name, target)
		}
		out.Linkname = target
	}
	for k, v := range hdr.PAXRecords {
		if strings.HasPrefix(k, "SCHILY.xattr.") {
			if out.PAXRecords == nil {
				out.PAXRecords = map[string]string{}
			}
			out.PAXRecords[k] = v
		}
	}
	return out, nil
}

// finish tests that the archive was whole, checksum of the compression included.
func (s *scanner) finish() error {
	switch {
	case !s.seen:
		return refuse("it has no manifest")
	case !s.hasRoot:
		return refuse("it has no rootfs")
	}
	n, err := io.Copy(io.Discard, io.LimitReader(s.stream, s.limits.Trailing+1))
	if err != nil {
		return refuse("read the end of the archive: %w", noEOF(err))
	}
	if n > s.limits.Trailing {
		return refuse("more than %d bytes follow the end of the tar", s.limits.Trailing)
	}
	if err := s.out.Close(); err != nil {
		return fmt.Errorf("end the layer: %w", err)
	}
	return io.EOF
}

// refuse is an error of class InvalidArgument about the archive.
func refuse(format string, args ...any) error {
	return fmt.Errorf("not a usable ACI: %w: %w", fmt.Errorf(format, args...), errdefs.ErrInvalidArgument)
}

// noEOF keeps an end that comes too early from being taken for the regular one.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
