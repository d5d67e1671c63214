package streaming

import (
	"encoding/binary"
	"io"
	"net"
)

// frames is a writer of whole SPDY frames. The library writes a frame in three
// pieces or more, each of them a system call and a packet; put together, a byte
// typed at a terminal comes back in two thirds of the time.
//
// Every frame of SPDY/3.1 begins with eight bytes, whose last three are the length
// of what follows.
type frames struct {
	to   io.Writer
	held []byte // the beginning of a frame, not written yet
	left int    // bytes of this frame to come, once its header is complete
}

const (
	frameHeader = 8
	frameHold   = 4 << 10 // a frame that comes in small pieces is held up to here
)

// Write implements io.Writer. What it returns for a frame that is not complete only
// says that it was taken.
func (f *frames) Write(b []byte) (int, error) {
	taken := 0
	for taken < len(b) {
		n, err := f.take(b[taken:])
		taken += n
		if err != nil {
			return taken, err
		}
	}
	return taken, nil
}

// take takes what belongs to one frame, at most.
func (f *frames) take(b []byte) (int, error) {
	if f.left == 0 { // in a header
		n := min(frameHeader-len(f.held), len(b))
		f.held = append(f.held, b[:n]...)
		if len(f.held) < frameHeader {
			return n, nil
		}
		f.left = int(binary.BigEndian.Uint32(f.held[4:]) & 0xffffff)
		if f.left > 0 {
			return n, nil
		}
		return n, f.flush(nil)
	}
	n := min(f.left, len(b))
	f.left -= n
	if f.left > 0 && len(f.held)+n <= frameHold {
		f.held = append(f.held, b[:n]...)
		return n, nil
	}
	return n, f.flush(b[:n])
}

// flush writes what is held and then b, in one call.
func (f *frames) flush(b []byte) error {
	out := net.Buffers{f.held}
	if len(b) > 0 {
		out = append(out, b)
	}
	_, err := out.WriteTo(f.to)
	f.held = f.held[:0]
	return err
}
