package registrytest

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"time"
)

// ServeContent answers with a blob as it is, or the part that Range asks for.
func ServeContent(w http.ResponseWriter, q *http.Request, data []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, q, "", time.Time{}, bytes.NewReader(data))
}

// Status answers with a status and, if text is not empty, an error as
// registries put it.
func Status(status int, text string) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		if text == "" {
			w.WriteHeader(status)
			return true
		}
		code := map[int]string{401: "UNAUTHORIZED", 403: "DENIED", 404: "NAME_UNKNOWN"}[status]
		if code == "" {
			code = "UNKNOWN"
		}
		fail(w, status, code, text)
		return true
	}
}

// Repeat is a fault n times over.
func Repeat(n int, f Fault) []Fault {
	faults := make([]Fault, n)
	for i := range faults {
		faults[i] = f
	}
	return faults
}

// TooMany answers 429, and says when to come again.
func TooMany(after time.Duration) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Retry-After", strconv.Itoa(int(after.Seconds())))
		fail(w, http.StatusTooManyRequests, "TOOMANYREQUESTS", "slow down")
		return true
	}
}

// CutAfter breaks the connection after n bytes of the content asked for.
func CutAfter(n int) Fault {
	return func(w http.ResponseWriter, q *http.Request, content []byte) bool {
		ServeContent(&cutWriter{ResponseWriter: w, left: n}, q, content)
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		p = p[:c.left]
	}
	n, err := c.ResponseWriter.Write(p)
	c.left -= n
	if err == nil && c.left == 0 {
		err = http.ErrAbortHandler
	}
	return n, err
}

// StallAfter sends n bytes and then nothing until the client gives up, or
// release is closed; then the rest follows.
func StallAfter(n int, release <-chan struct{}) Fault {
	return func(w http.ResponseWriter, q *http.Request, content []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		n := min(n, len(content))
		w.Write(content[:n])
		http.NewResponseController(w).Flush()
		select {
		case <-q.Context().Done():
		case <-release:
			w.Write(content[n:])
		}
		return true
	}
}

// Hold waits until release is closed or the client gives up, then lets the
// registry answer.
func Hold(release <-chan struct{}) Fault {
	return func(_ http.ResponseWriter, q *http.Request, _ []byte) bool {
		select {
		case <-q.Context().Done():
		case <-release:
		}
		return false
	}
}

// Slowly sends the content in pieces with a pause before each.
func Slowly(pieces int, pause time.Duration) Fault {
	return func(w http.ResponseWriter, q *http.Request, content []byte) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		size := (len(content) + pieces - 1) / pieces
		for len(content) > 0 {
			select {
			case <-time.After(pause):
			case <-q.Context().Done():
				return true
			}
			n := min(size, len(content))
			w.Write(content[:n])
			http.NewResponseController(w).Flush()
			content = content[n:]
		}
		return true
	}
}

// Content answers with other content.
func Content(mediaType string, data []byte) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Content-Type", mediaType)
		w.Write(data)
		return true
	}
}

// Endless answers with n zeros and tells no length.
func Endless(mediaType string, n int) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.Header().Set("Content-Type", mediaType)
		chunk := bytes.Repeat([]byte{' '}, 1<<16)
		for n > 0 {
			m, err := w.Write(chunk[:min(len(chunk), n)])
			if err != nil {
				return true
			}
			n -= m
		}
		return true
	}
}

// Redirect sends the client elsewhere.
func Redirect(url string) Fault {
	return func(w http.ResponseWriter, q *http.Request, _ []byte) bool {
		http.Redirect(w, q, url, http.StatusTemporaryRedirect)
		return true
	}
}

// Unsized answers with other content and does not tell its length.
func Unsized(data []byte) Fault {
	return func(w http.ResponseWriter, _ *http.Request, _ []byte) bool {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		w.Write(data)
		return true
	}
}
