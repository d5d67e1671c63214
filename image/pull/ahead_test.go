package pull

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestReadingAheadChangesNothing(t *testing.T) {
	for _, size := range []int{0, 1, aheadSize - 1, aheadSize, aheadSize + 1, 3*aheadBuffers*aheadSize + 7} {
		want := make([]byte, size)
		rand.NewChaCha8([32]byte{}).Read(want)
		for name, src := range map[string]io.Reader{
			"":                      bytes.NewReader(want),
			"in halves":             iotest.HalfReader(bytes.NewReader(want)),
			"with the end and data": iotest.DataErrReader(bytes.NewReader(want)),
		} {
			a := readAhead(src)
			got, err := io.ReadAll(a)
			require.NoError(t, err, name)
			require.True(t, bytes.Equal(want, got), "%d bytes %s", size, name)
			_, err = a.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			require.NoError(t, a.Close())
		}
	}
}

func TestAnErrorOfTheStreamComesAfterTheDataBeforeIt(t *testing.T) {
	for _, want := range []error{errors.New("cut"), io.ErrUnexpectedEOF} {
		data := make([]byte, aheadSize+5)
		a := readAhead(io.MultiReader(bytes.NewReader(data), iotest.ErrReader(want)))
		got, err := io.ReadAll(a)
		require.ErrorIs(t, err, want)
		require.Len(t, got, len(data))
		require.NoError(t, a.Close())
	}
}

// endless counts what is read of it.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	return len(p), nil
}

func TestNothingReadsTheStreamAfterClose(t *testing.T) {
	src := &endless{}
	a := readAhead(src)
	_, err := a.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, a.Close())
	require.NoError(t, a.Close())
	require.LessOrEqual(t, src.read, aheadBuffers*aheadSize, "it stays within its buffers")
}
