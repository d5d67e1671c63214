package pull

import "io"

const (
	aheadChunks = 8
	aheadSize   = 128 << 10
)

// aheadReader reads from another goroutine in large pieces. The source of what
// is unpacked writes a few hundred bytes at a time, and each hand-over to a
// goroutine that is locked to its thread costs two switches of threads.
type aheadReader struct {
	full  chan chunk
	empty chan []byte
	done  chan struct{} // closed by Close
	cur   chunk
	rest  []byte // of cur
}

type chunk struct {
	data []byte
	err  error // after data
}

// readAhead reads r until it ends, fails or is closed by its owner, which must
// happen before Close, which waits for the goroutine.
func readAhead(r io.Reader) *aheadReader {
	a := &aheadReader{full: make(chan chunk, aheadChunks), empty: make(chan []byte, aheadChunks), done: make(chan struct{})}
	for range aheadChunks {
		a.empty <- make([]byte, aheadSize)
	}
	go a.fill(r)
	return a
}

func (a *aheadReader) fill(r io.Reader) {
	defer close(a.full)
	for {
		var buf []byte
		select {
		case buf = <-a.empty:
		case <-a.done:
			return
		}
		n, err := 0, error(nil)
		for n < len(buf) && err == nil {
			var m int
			m, err = r.Read(buf[n:])
			n += m
		}
		a.full <- chunk{buf[:n], err} // there is room for every chunk
		if err != nil {
			return
		}
	}
}

func (a *aheadReader) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.cur.err != nil {
			return 0, a.cur.err
		}
		if a.cur.data != nil {
			a.empty <- a.cur.data[:aheadSize]
		}
		a.cur = <-a.full
		a.rest = a.cur.data
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close ends the goroutine and waits for it.
func (a *aheadReader) Close() {
	close(a.done)
	for range a.full {
	}
}
