package decompress

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"
	"slices"

	"github.com/ulikunitz/xz/lzma"
)

// The xz library reads whole files too, but it allocates whatever dictionary a
// block asks for, up to 4 GiB. So the container is read here and the library
// decodes the blocks' LZMA2. Sections below are of the xz file format 1.1.0,
// https://tukaani.org/xz/xz-file-format.txt.

var (
	xzMagic    = []byte{0xfd, '7', 'z', 'X', 'Z', 0}
	xzEndMagic = []byte("YZ")
	errXZ      = errors.New("damaged xz stream")
)

// xzReader reads the streams of an xz file one after the other.
type xzReader struct {
	in    *counted
	sums  func() hash.Hash // of the blocks' check, nil for none
	flags [2]byte          // of the stream

	block   io.Reader // decoded; nil between blocks
	sum     hash.Hash
	started int64     // where the block's header began
	data    int64     // where its data began
	size    int64     // bytes decoded
	said    [2]uint64 // sizes of data, packed and not, where sized has the bit
	sized   byte

	blocks  uint64
	records hash.Hash // of the blocks' sizes, to compare with the index
	err     error
}

// counted counts what has been read, and sums it up where sum is set.
type counted struct {
	*bufio.Reader
	n   int64
	sum hash.Hash32
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	if c.sum != nil {
		c.sum.Write(p[:n])
	}
	return n, err
}

// ReadByte implements io.ByteReader.
func (c *counted) ReadByte() (byte, error) {
	b, err := c.Reader.ReadByte()
	if err == nil {
		c.n++
		if c.sum != nil {
			c.sum.Write([]byte{b})
		}
	}
	return b, err
}

func newXZReader(in *bufio.Reader) (*xzReader, error) {
	x := &xzReader{in: &counted{Reader: in}}
	if err := x.startStream(); err != nil {
		return nil, noEOF(err)
	}
	x.err = x.next()
	return x, nil
}

// Read implements io.Reader.
func (x *xzReader) Read(p []byte) (int, error) {
	for x.err == nil && len(p) > 0 {
		n, err := x.block.Read(p)
		x.size += int64(n)
		if x.sum != nil {
			x.sum.Write(p[:n])
		}
		switch {
		case errors.Is(err, io.EOF):
			if x.err = noEOF(x.endBlock()); x.err == nil {
				x.err = x.next()
			}
		case err != nil:
			x.err = err
		}
		if n > 0 {
			return n, nil
		}
	}
	if len(p) == 0 {
		return 0, nil
	}
	return 0, x.err
}

// startStream reads a stream header (2.1.1).
func (x *xzReader) startStream() error {
	var head [12]byte
	if _, err := io.ReadFull(x.in, head[:]); err != nil {
		return err
	}
	if !bytes.HasPrefix(head[:], xzMagic) || head[6] != 0 || crc32.ChecksumIEEE(head[6:8]) != binary.LittleEndian.Uint32(head[8:]) {
		return fmt.Errorf("%w: bad stream header", errXZ)
	}
	switch copy(x.flags[:], head[6:8]); x.flags[1] {
	case 0:
		x.sums = nil
	case 1:
		x.sums = func() hash.Hash { return crc32.NewIEEE() }
	case 4:
		x.sums = func() hash.Hash { return crc64.New(crc64.MakeTable(crc64.ECMA)) }
	case 10:
		x.sums = sha256.New
	default:
		return fmt.Errorf("xz stream with an unknown kind of check, %d", x.flags[1])
	}
	x.blocks, x.records = 0, sha256.New()
	return nil
}

// next goes on to the next block, over the ends and starts of streams. io.EOF
// is the end of the file.
func (x *xzReader) next() error {
	for {
		x.started = x.in.n
		size, err := x.in.ReadByte()
		if err != nil {
			return noEOF(err)
		}
		if size != 0 {
			return noEOF(x.startBlock(size))
		}
		if err := x.endStream(); err != nil {
			return noEOF(err)
		}
		if more, err := x.padding(); err != nil || !more {
			return err
		}
		if err := x.startStream(); err != nil {
			return noEOF(err)
		}
	}
}

// startBlock reads a block header (3.1), whose size byte has been read, and
// refuses one that asks for too much memory.
func (x *xzReader) startBlock(size byte) error {
	head := make([]byte, (int(size)+1)*4)
	head[0] = size
	if _, err := io.ReadFull(x.in, head[1:]); err != nil {
		return err
	}
	end := len(head) - 4
	if crc32.ChecksumIEEE(head[:end]) != binary.LittleEndian.Uint32(head[end:]) {
		return fmt.Errorf("%w: bad block header", errXZ)
	}
	flags, rest := head[1], bytes.NewReader(head[2:end])
	x.sized = flags
	for i, has := range []byte{0x40, 0x80} {
		if flags&has == 0 {
			continue
		}
		said, err := binary.ReadUvarint(rest)
		if err != nil {
			return fmt.Errorf("%w: bad block header", errXZ)
		}
		x.said[i] = said
	}
	var filter [3]byte // one, LZMA2, with one byte of properties
	if _, err := io.ReadFull(rest, filter[:]); err != nil || flags&0x3f != 0 || filter[0] != 0x21 || filter[1] != 1 {
		return errors.New("xz stream with filters other than LZMA2")
	}
	for rest.Len() > 0 {
		if b, _ := rest.ReadByte(); b != 0 {
			return fmt.Errorf("%w: bad block header", errXZ)
		}
	}
	dict, err := lzma.DecodeDictCap(filter[2])
	if err != nil {
		return fmt.Errorf("%w: %w", errXZ, err)
	}
	if dict > MaxWindow {
		return fmt.Errorf("xz stream that asks for a dictionary of %d bytes, the limit is %d", dict, MaxWindow)
	}
	x.data, x.size, x.sum = x.in.n, 0, nil
	if x.sums != nil {
		x.sum = x.sums()
	}
	x.block, err = lzma.Reader2Config{DictCap: int(dict)}.NewReader2(x.in)
	return err
}

// endBlock reads what follows a block's data: padding and check (3.3, 3.4).
func (x *xzReader) endBlock() error {
	for i, n := range []int64{x.in.n - x.data, x.size} {
		if x.sized&(0x40<<i) != 0 && x.said[i] != uint64(n) {
			return fmt.Errorf("%w: a block has another size than its header says", errXZ)
		}
	}
	padding := -(x.in.n - x.data) & 3
	if err := x.zeros(padding); err != nil {
		return err
	}
	if x.sum != nil {
		want := x.sum.Sum(nil)
		if x.flags[1] != 10 { // CRCs are stored the other way round
			slices.Reverse(want)
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(x.in, got); err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("%w: wrong checksum of its content", errXZ)
		}
	}
	x.block = nil
	x.blocks++
	record(x.records, uint64(x.in.n-x.started-padding), uint64(x.size))
	return nil
}

// record adds the sizes of one block.
func record(to hash.Hash, unpadded, size uint64) {
	var sizes [16]byte
	binary.LittleEndian.PutUint64(sizes[:8], unpadded)
	binary.LittleEndian.PutUint64(sizes[8:], size)
	to.Write(sizes[:])
}

// endStream reads the index (4), whose first byte has been read, and the stream
// footer (2.1.2), and compares them with what came before.
func (x *xzReader) endStream() error {
	x.in.sum = crc32.NewIEEE()
	defer func() { x.in.sum = nil }()
	x.in.sum.Write([]byte{0})
	blocks, err := binary.ReadUvarint(x.in)
	if err != nil || blocks != x.blocks {
		return fmt.Errorf("%w: its index is of other blocks", errors.Join(errXZ, err))
	}
	records := sha256.New()
	for range blocks {
		unpadded, err := binary.ReadUvarint(x.in)
		if err != nil {
			return err
		}
		size, err := binary.ReadUvarint(x.in)
		if err != nil {
			return err
		}
		record(records, unpadded, size)
	}
	if !bytes.Equal(records.Sum(nil), x.records.Sum(nil)) {
		return fmt.Errorf("%w: its index is of other blocks", errXZ)
	}
	if err := x.zeros(-(x.in.n - x.started) & 3); err != nil {
		return err
	}
	sum := x.in.sum.Sum32()
	var end [4 + 12]byte
	if _, err := io.ReadFull(x.in, end[:]); err != nil {
		return err
	}
	index, foot := x.in.n-12-x.started, end[4:]
	if binary.LittleEndian.Uint32(end[:]) != sum {
		return fmt.Errorf("%w: wrong checksum of its index", errXZ)
	}
	if crc32.ChecksumIEEE(foot[4:10]) != binary.LittleEndian.Uint32(foot) || !bytes.Equal(foot[10:], xzEndMagic) ||
		!bytes.Equal(foot[8:10], x.flags[:]) || (int64(binary.LittleEndian.Uint32(foot[4:]))+1)*4 != index {
		return fmt.Errorf("%w: bad stream footer", errXZ)
	}
	return nil
}

// padding passes over zeros between streams (2.2), and tells whether a stream follows.
func (x *xzReader) padding() (more bool, err error) {
	for {
		next, err := x.in.Peek(4)
		switch {
		case len(next) == 0 && errors.Is(err, io.EOF):
			return false, io.EOF
		case err != nil:
			return false, noEOF(err)
		case !bytes.Equal(next, []byte{0, 0, 0, 0}):
			return true, nil
		}
		if err := x.zeros(4); err != nil {
			return false, err
		}
	}
}

// zeros reads n bytes, which must be 0.
func (x *xzReader) zeros(n int64) error {
	for range n {
		b, err := x.in.ReadByte()
		if err != nil {
			return noEOF(err)
		}
		if b != 0 {
			return fmt.Errorf("%w: padding that is not zero", errXZ)
		}
	}
	return nil
}

// noEOF makes an end that comes too early an error.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
