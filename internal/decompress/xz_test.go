package decompress

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/ulikunitz/xz"
)

// tool packs content with xz(1).
func tool(t testing.TB, content []byte, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("xz", append([]string{"-c"}, args...)...)
	cmd.Stdin = bytes.NewReader(content)
	out, err := cmd.Output()
	require.NoError(t, err, "xz is needed")
	return out
}

func unpack(raw []byte) ([]byte, error) {
	r, _, err := Reader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// mixed is content that packs well in parts and not at all in others.
func mixed() []byte {
	rnd := rand.New(rand.NewSource(1))
	content := make([]byte, 300_000)
	rnd.Read(content[100_000:200_000])
	return content
}

func TestXZOfEveryShapeIsRead(t *testing.T) {
	content := mixed()
	for _, args := range [][]string{
		{"-0"}, {"-9"}, {"--check=none"}, {"--check=crc32"}, {"--check=crc64"}, {"--check=sha256"},
		{"--block-size=50000"}, {"-T2", "--block-size=70001"},
	} {
		got, err := unpack(tool(t, content, args...))
		require.NoError(t, err, args)
		require.True(t, bytes.Equal(content, got), args)
	}
	for n := range 9 { // every padding
		got, err := unpack(tool(t, content[:n]))
		require.NoError(t, err)
		require.Equal(t, content[:n:n], append([]byte{}, got...))
	}
}

func TestSeveralXZStreamsAreOneFile(t *testing.T) {
	a, b := tool(t, []byte("one, "), "--check=none"), tool(t, []byte("two"))
	got, err := unpack(bytes.Join([][]byte{a, b, make([]byte, 8), a, make([]byte, 4)}, nil))
	require.NoError(t, err)
	require.Equal(t, "one, twoone, ", string(got))

	for _, bad := range [][]byte{append(a, 0), append(a, make([]byte, 6)...), append(a, []byte("rest")...), append(a, b[:20]...)} {
		_, err := unpack(bad)
		require.Error(t, err)
		require.NotErrorIs(t, err, io.EOF)
	}
}

func TestEveryDamagedByteOfXZIsNoticed(t *testing.T) {
	content := []byte("some content, some content, some content")
	for _, check := range []string{"crc32", "crc64", "sha256"} {
		raw := tool(t, content, "-0", "--check="+check, "--block-size=16")
		for i := range raw {
			damaged := bytes.Clone(raw)
			damaged[i] ^= 0x55
			_, err := unpack(damaged)
			require.Equal(t, i < len(xzMagic), err == nil, "byte %d of %d, %s: %v", i, len(raw), check, err)
		}
		for i := len(xzMagic); i < len(raw); i++ {
			_, err := unpack(raw[:i])
			require.Error(t, err, "cut after %d of %d bytes", i, len(raw))
		}
	}
}

// withDictionary replaces the dictionary size of the block whose header is at i.
func withDictionary(t *testing.T, raw []byte, i int, code byte) []byte {
	raw = bytes.Clone(raw)
	end := i + (int(raw[i])+1)*4 - 4
	at := bytes.Index(raw[i:end], []byte{0x21, 1})
	require.Positive(t, at)
	raw[i+at+2] = code
	binary.LittleEndian.PutUint32(raw[end:], crc32.ChecksumIEEE(raw[i:end]))
	return raw
}

func TestXZThatAsksForTooMuchMemoryIsRefusedInEveryBlock(t *testing.T) {
	one := tool(t, []byte(text))
	_, err := unpack(withDictionary(t, one, 12, 40))
	require.ErrorContains(t, err, "asks for a dictionary of 4294967295 bytes, the limit is 134217728")
	_, err = unpack(append(bytes.Clone(one), withDictionary(t, one, 12, 31)...))
	require.ErrorContains(t, err, "asks for a dictionary of 201326592 bytes")
	got, err := unpack(withDictionary(t, one, 12, 30))
	require.NoError(t, err)
	require.Equal(t, text, string(got))
	_, err = unpack(withDictionary(t, one, 12, 41))
	require.ErrorIs(t, err, errXZ)
}

func TestOtherFiltersThanLZMA2AreRefused(t *testing.T) {
	_, err := unpack(tool(t, mixed(), "--x86", "--lzma2"))
	require.ErrorContains(t, err, "filters other than LZMA2")
}

func FuzzXZ(f *testing.F) {
	for _, args := range [][]string{{}, {"--check=none", "--block-size=9"}, {"--check=sha256"}} {
		f.Add(tool(f, []byte("some content, some content"), args...))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if Detect(raw) != XZ {
			return
		}
		r, _, err := Reader(bytes.NewReader(raw))
		if err != nil {
			return
		}
		got, err := io.ReadAll(io.LimitReader(r, 1<<20))
		if err != nil || len(got) == 1<<20 {
			return
		}
		// What is accepted here, the library reads the same.
		ref, err := xz.NewReader(bytes.NewReader(raw))
		require.NoError(t, err)
		want, err := io.ReadAll(ref)
		require.NoError(t, err, fmt.Sprintf("%x", raw))
		require.True(t, bytes.Equal(want, got))
	})
}
