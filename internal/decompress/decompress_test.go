package decompress

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"
)

const text = "the same text, whatever the wrapping\n"

// bzipped is text as packed by bzip2(1); the standard library only unpacks.
const bzipped = "QlpoOTFBWSZTWY7R3L4AAA/RgAAQQAQi413AIAAxQ00wADU2o9QNNNCQdGItoO3UIkieyS6n1j5kwb4u5IpwoSEdo7l8"

func packed(t *testing.T, format Format) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	switch format {
	case Gzip:
		w = gzip.NewWriter(&buf)
	case XZ:
		w, err = xz.NewWriter(&buf)
	case Zstd:
		w, err = zstd.NewWriter(&buf)
	case Bzip2:
		raw, err := base64.StdEncoding.DecodeString(bzipped)
		require.NoError(t, err)
		return raw
	default:
		return []byte(text)
	}
	require.NoError(t, err)
	_, err = w.Write([]byte(text))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func TestEveryFormatIsFoundByContent(t *testing.T) {
	for _, format := range []Format{None, Gzip, Bzip2, XZ, Zstd} {
		t.Run("format="+string(format), func(t *testing.T) {
			r, got, err := Reader(iotest.OneByteReader(bytes.NewReader(packed(t, format))))
			require.NoError(t, err)
			require.Equal(t, format, got)
			out, err := io.ReadAll(r)
			require.NoError(t, err)
			require.Equal(t, text, string(out))
			require.NoError(t, r.Close())
		})
	}
}

func TestTruncatedStreamIsAnError(t *testing.T) {
	for _, format := range []Format{Gzip, Bzip2, XZ, Zstd} {
		t.Run(string(format), func(t *testing.T) {
			raw := packed(t, format)
			r, _, err := Reader(bytes.NewReader(raw[:len(raw)-3]))
			if err == nil {
				_, err = io.ReadAll(r)
			}
			require.Error(t, err)
		})
	}
}

func TestReadErrorIsReported(t *testing.T) {
	_, _, err := Reader(iotest.ErrReader(io.ErrClosedPipe))
	require.ErrorIs(t, err, io.ErrClosedPipe)
}

func TestEmptyInputIsAnEmptyStream(t *testing.T) {
	r, format, err := Reader(strings.NewReader(""))
	require.NoError(t, err)
	require.Equal(t, None, format)
	out, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Empty(t, out)
}
