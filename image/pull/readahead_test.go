package pull

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

func TestReadAheadGivesAllBytesAndThenTheErrorOfItsSource(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789abcdef"), aheadSize/3)
	boom := errors.New("boom")
	for _, end := range []error{io.EOF, boom, io.ErrUnexpectedEOF} {
		a := readAhead(io.MultiReader(iotest.HalfReader(bytes.NewReader(content)), iotest.ErrReader(end)))
		got, err := io.ReadAll(a)
		a.Close()
		require.True(t, bytes.Equal(content, got))
		if end == io.EOF {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, end)
		}
	}
}

func TestReadAheadCanBeClosedInTheMiddle(t *testing.T) {
	r, w := io.Pipe()
	go func() {
		for {
			if _, err := w.Write(make([]byte, 1000)); err != nil {
				return
			}
		}
	}()
	a := readAhead(r)
	_, err := io.ReadFull(a, make([]byte, 10_000))
	require.NoError(t, err)
	require.NoError(t, r.Close())
	a.Close()
}
