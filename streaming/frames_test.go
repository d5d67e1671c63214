package streaming

import (
	"bytes"
	"testing"

	"github.com/moby/spdystream/spdy"
	"github.com/stretchr/testify/require"
)

// writes remembers what was written, call by call.
type writes [][]byte

func (w *writes) Write(b []byte) (int, error) {
	*w = append(*w, bytes.Clone(b))
	return len(b), nil
}

func TestFramesGoOutWhole(t *testing.T) {
	var plain bytes.Buffer
	var out writes
	frames := &frames{to: &out}
	for _, size := range []int{0, 1, 100, frameHold, 64 << 10} {
		frame := &spdy.DataFrame{StreamId: 3, Flags: spdy.DataFlagFin, Data: bytes.Repeat([]byte{7}, size)}
		for _, f := range []spdy.Frame{frame, &spdy.PingFrame{Id: 8}, &spdy.RstStreamFrame{StreamId: 5, Status: spdy.Cancel}} {
			framer, err := spdy.NewFramer(&plain, nil)
			require.NoError(t, err)
			require.NoError(t, framer.WriteFrame(f))
			framer, err = spdy.NewFramer(frames, nil)
			require.NoError(t, err)
			require.NoError(t, framer.WriteFrame(f))
		}
	}
	require.Equal(t, plain.Bytes(), bytes.Join(out, nil))
	require.Empty(t, frames.held)
}

func TestFrameInPiecesIsOneWrite(t *testing.T) {
	var out writes
	f := &frames{to: &out}
	frame := append([]byte{0, 0, 0, 1, 0, 0, 0, 10}, "0123456789"...)
	for i := range frame {
		n, err := f.Write(frame[i : i+1])
		require.NoError(t, err)
		require.Equal(t, 1, n)
		if i < len(frame)-1 {
			require.Empty(t, out)
		}
	}
	require.Equal(t, frame, bytes.Join(out, nil))
	// Several at once, and a piece of the next.
	out = nil
	n, err := f.Write(append(append(bytes.Clone(frame), frame...), frame[:5]...))
	require.NoError(t, err)
	require.Equal(t, 2*len(frame)+5, n)
	require.Equal(t, append(bytes.Clone(frame), frame...), bytes.Join(out, nil))
	require.Equal(t, frame[:5], f.held)
	// One that is long and comes in pieces is not kept.
	out, f.held = nil, nil
	_, err = f.Write([]byte{0, 0, 0, 1, 0, 1, 0, 0})
	require.NoError(t, err)
	for range 64 {
		_, err = f.Write(make([]byte, 1<<10))
		require.NoError(t, err)
		require.LessOrEqual(t, cap(f.held), 2*frameHold)
	}
	require.Len(t, bytes.Join(out, nil), frameHeader+64<<10)
}
