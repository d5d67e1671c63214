package pull

import (
	"io"
	"sync"
)

// A stream is read up to aheadBuffers times aheadSize bytes ahead.
const (
	aheadBuffers = 4
	aheadSize    = 256 << 10
)

// buffers are kept for the next layer: images have many small ones.
var buffers = sync.Pool{New: func() any { return new([aheadSize]byte) }}

// ahead reads a stream in a goroutine of its own before it is asked to, so that
// fetching, checking and decompressing go on while files are written.
type ahead struct {
	full  chan chunk
	empty chan struct{} // one for each buffer that may be filled
	now   chunk         // what Read gives next
	rest  []byte        // of now

	stop  chan struct{}
	once  sync.Once
	ended sync.WaitGroup
}

// chunk is a piece of the stream, and the error that came after it.
type chunk struct {
	buf *[aheadSize]byte
	n   int
	err error
}

// readAhead starts reading. The caller must Close.
func readAhead(src io.Reader) *ahead {
	a := &ahead{full: make(chan chunk, aheadBuffers), empty: make(chan struct{}, aheadBuffers), stop: make(chan struct{})}
	for range aheadBuffers {
		a.empty <- struct{}{}
	}
	a.ended.Go(func() { a.fill(src) })
	return a
}

func (a *ahead) fill(src io.Reader) {
	for {
		select {
		case <-a.empty:
		case <-a.stop:
			return
		}
		c := read(src, buffers.Get().(*[aheadSize]byte))
		a.full <- c // it has room for all buffers
		if c.err != nil {
			return
		}
	}
}

// read fills buf as far as the stream goes.
func read(src io.Reader, buf *[aheadSize]byte) chunk {
	c := chunk{buf: buf}
	for c.n < len(buf) && c.err == nil {
		var n int
		n, c.err = src.Read(buf[c.n:])
		c.n += n
	}
	return c
}

// Read blocks until the goroutine has read on.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.now.err != nil {
			return 0, a.now.err
		}
		if a.now.buf != nil {
			buffers.Put(a.now.buf)
			a.empty <- struct{}{} // it has room for all buffers
		}
		a.now = <-a.full
		a.rest = a.now.buf[:a.now.n]
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends reading and waits until nothing reads the stream any more, which
// takes as long as a read of it that is under way. Read must not be called after it.
func (a *ahead) Close() error {
	a.once.Do(func() {
		close(a.stop)
		a.ended.Wait()
		if a.now.buf != nil {
			buffers.Put(a.now.buf)
		}
		for len(a.full) > 0 {
			buffers.Put((<-a.full).buf)
		}
		a.now, a.rest = chunk{}, nil
	})
	return nil
}
