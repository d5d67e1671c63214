// Package decompress opens a stream that may be compressed. The format is told
// by the first bytes, never by a file name. The memory that a hostile stream
// can ask for is bounded by MaxWindow.
package decompress

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip" // a quarter faster than the standard one
	"github.com/klauspost/compress/zstd"
)

// MaxWindow is the largest history, in bytes, that a compressed stream may
// demand: twice what `xz -9` asks for, and what `zstd --long` does.
const MaxWindow = 128 << 20

// Format names a compression.
type Format string

// The formats that Reader understands.
const (
	None  Format = ""
	Gzip  Format = "gzip"
	Bzip2 Format = "bzip2"
	XZ    Format = "xz"
	Zstd  Format = "zstd"
)

var magics = []struct {
	format Format
	magic  []byte
}{
	{Gzip, []byte{0x1f, 0x8b, 0x08}},
	{Bzip2, []byte("BZh")},
	{XZ, []byte{0xfd, '7', 'z', 'X', 'Z', 0}},
	{Zstd, []byte{0x28, 0xb5, 0x2f, 0xfd}},
}

// Detect tells the compression of a stream that starts with head.
func Detect(head []byte) Format {
	for _, m := range magics {
		if bytes.HasPrefix(head, m.magic) {
			return m.format
		}
	}
	return None
}

// Reader returns r decompressed, or as it is where it is not compressed.
// Closing the result releases the decoder; it does not close r.
func Reader(r io.Reader) (io.ReadCloser, Format, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	head, err := in.Peek(8)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, None, fmt.Errorf("read the first bytes: %w", err)
	}
	format := Detect(head)
	var out io.ReadCloser
	switch format {
	case Gzip:
		out, err = gzip.NewReader(in)
	case Bzip2:
		out, err = io.NopCloser(bzip2.NewReader(in)), nil
	case XZ:
		var dec *xzReader
		dec, err = newXZReader(in)
		out = io.NopCloser(dec)
	case Zstd:
		var dec *zstd.Decoder
		dec, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(MaxWindow))
		if err == nil {
			out = dec.IOReadCloser()
		}
	default:
		out, err = io.NopCloser(in), nil
	}
	if err != nil {
		return nil, format, fmt.Errorf("open the %s stream: %w", format, err)
	}
	return out, format, nil
}
