package pull

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	tstar "github.com/vbatts/tar-split/archive/tar"
	"github.com/vbatts/tar-split/tar/asm"
	tsstorage "github.com/vbatts/tar-split/tar/storage"
	graphdriver "go.podman.io/storage/drivers"
	"go.podman.io/storage/pkg/archive"
	"go.podman.io/storage/pkg/tarlog"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/store"
)

// unpacker unpacks one layer's blob as it arrives. It is the storage library's
// Differ: the library makes the folder, and moves it to its place later.
type unpacker struct {
	blob io.Reader
	l    layer
	// rec is what was counted; valid once ApplyDiff has returned without error.
	rec store.LayerRecord
}

var _ graphdriver.Differ = (*unpacker)(nil)

// Close is part of the library's interface; the blob is closed by who opened it.
func (u *unpacker) Close() error { return nil }

// ApplyDiff unpacks into dest, and checks both digests.
func (u *unpacker) ApplyDiff(dest string, options *archive.TarOptions, differ *graphdriver.DifferOptions) (out graphdriver.DriverWithDifferOutput, err error) {
	split, err := unnamedFile(differ.StagingDirectory)
	if err != nil {
		return out, fmt.Errorf("unpack layer %s: %w", u.l.blob.Digest, err)
	}
	defer func() {
		if err != nil {
			split.Close()
			err = fmt.Errorf("unpack layer %s: %w", u.l.blob.Digest, err)
		}
	}()
	compressed := u.l.blob.Digest.Verifier()
	in := io.TeeReader(u.blob, compressed)
	plain, err := decompress(in)
	if err != nil {
		return out, err
	}
	defer plain.Close()
	content := digest.Canonical.Digester()
	ahead := readAhead(io.TeeReader(plain, content.Hash()))
	defer ahead.Close()
	counts := newCounter()
	size := &countingWriter{}
	packed := bufio.NewWriterSize(split, 1<<16)
	stream := io.TeeReader(ahead, io.MultiWriter(size, counts))
	err = u.extract(stream, tsstorage.NewJSONPacker(packed), dest, options)
	counts.close()
	ahead.Close() // nothing reads the blob now
	if err == nil {
		err = packed.Flush()
	}
	if err == nil { // what follows the compressed stream counts for its digest
		_, err = io.Copy(io.Discard, in)
	}
	if err != nil {
		return out, err
	}
	if !compressed.Verified() {
		return out, fmt.Errorf("the source sent content of another digest")
	}
	if got := content.Digest(); got != u.l.diff {
		return out, fmt.Errorf("it unpacks to content of digest %s, the config says %s", got, u.l.diff)
	}
	u.rec = store.LayerRecord{Bytes: counts.bytes, Inodes: counts.inodes}
	return graphdriver.DriverWithDifferOutput{
		Differ:             u,
		Size:               size.n,
		UncompressedDigest: u.l.diff,
		CompressedDigest:   u.l.blob.Digest,
		TarSplit:           split,
		RootDirMode:        counts.rootMode,
		UIDs:               counts.owners(counts.uids),
		GIDs:               counts.owners(counts.gids),
	}, nil
}

// extract writes the files, and records beside them what it takes to rebuild
// the stream bit for bit.
func (u *unpacker) extract(stream io.Reader, packer tsstorage.Packer, dest string, options *archive.TarOptions) error {
	payload, done, err := asm.NewInputTarStreamWithDone(stream, packer, tsstorage.NewDiscardFilePutter())
	if err != nil {
		return err
	}
	err = unpackInside(dest, payload, options)
	if err == nil { // padding after the end of the archive belongs to the stream
		_, err = io.Copy(io.Discard, payload)
	}
	payload.Close()
	// If unpacking failed, the other end fails for that reason too; if reading
	// did, unpacking has its error. The first to fail knows best.
	if derr := <-done; err == nil {
		err = derr
	}
	return err
}

// unpackInside unpacks with dest as the root folder, so that no name or link in
// the archive leads out of it.
func unpackInside(dest string, payload io.Reader, options *archive.TarOptions) error {
	return onLostThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("unshare filesystem attributes: %w", err)
		}
		unix.Umask(0o022) // for folders that the archive only implies
		if err := unix.Chroot(dest); err != nil {
			return fmt.Errorf("change root to %s: %w", dest, err)
		}
		if err := unix.Chdir("/"); err != nil {
			return fmt.Errorf("change folder: %w", err)
		}
		return archive.Unpack(payload, "/", options)
	})
}

// onLostThread runs f on a thread that ends with it: its goroutine stays locked
// to the thread. The main thread cannot end, and what it is, /proc/self shows
// of the whole process; should the goroutine come to run there, it keeps that
// thread busy while another one runs f.
func onLostThread(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			result <- f()
			return
		}
		result <- onLostThread(f)
		runtime.UnlockOSThread()
	}()
	return <-result
}

// unnamedFile is a file that vanishes when it is closed.
func unnamedFile(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open unnamed file in", Path: dir, Err: err}
	}
	return os.NewFile(uintptr(fd), dir+"/(unnamed)"), nil
}

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// zstdMemory bounds the window of a zstd layer; zstd --long=27 needs 128 MiB.
const zstdMemory = 128 << 20

// decompress finds out by content how a layer is compressed, as the types in
// manifests are not always right.
func decompress(in io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(in, 1<<16)
	start, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(start, gzipMagic):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(start, zstdMagic) || isSkippable(start):
		d, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdMemory))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(buffered), nil
}

// isSkippable knows a zstd frame without content, which may come first.
func isSkippable(start []byte) bool {
	return len(start) == 4 && start[0]&0xf0 == 0x50 && bytes.Equal(start[1:], []byte{0x2a, 0x4d, 0x18})
}

// counter reads the headers of the stream that is written to it.
type counter struct {
	log           io.WriteCloser
	bytes, inodes int64
	rootMode      *os.FileMode
	uids, gids    map[uint32]struct{}
}

const block = 4096

func newCounter() *counter {
	c := &counter{uids: map[uint32]struct{}{}, gids: map[uint32]struct{}{}}
	log, err := tarlog.NewLogger(c.count)
	if err != nil {
		panic(err) // it has no way to fail
	}
	c.log = log
	return c
}

func (c *counter) Write(p []byte) (int, error) { return c.log.Write(p) }

// close waits until all headers are counted.
func (c *counter) close() { c.log.Close() }

func (c *counter) count(h *tstar.Header) {
	name := path.Clean("/" + h.Name)
	if name == "/" {
		mode := h.FileInfo().Mode()
		c.rootMode = &mode
	}
	base := path.Base(name)
	if strings.HasPrefix(base, archive.WhiteoutPrefix) {
		if base != archive.WhiteoutOpaqueDir {
			c.inodes++ // a device 0:0 takes its place
		}
		return
	}
	c.uids[uint32(h.Uid)] = struct{}{}
	c.gids[uint32(h.Gid)] = struct{}{}
	switch h.Typeflag {
	case tstar.TypeLink:
		return
	case tstar.TypeReg, tstar.TypeRegA:
		c.bytes += (h.Size + block - 1) / block * block
	case tstar.TypeDir:
		c.bytes += block
	}
	c.inodes++
}

func (c *counter) owners(set map[uint32]struct{}) []uint32 {
	ids := make([]uint32, 0, len(set))
	for id := range set {
		ids = append(ids, id)
	}
	return ids
}

type countingWriter struct{ n int64 }

func (w *countingWriter) Write(p []byte) (int, error) {
	w.n += int64(len(p))
	return len(p), nil
}
