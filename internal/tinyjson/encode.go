// Package tinyjson writes and reads JSON without reflection.
//
// The supervisor stays resident once for every pod, and encoding/json costs each
// copy a megabyte of resident memory. The types that cross its socket or lie in
// its records are few and flat, so each says by hand how it is written and read.
// The output is plain JSON that encoding/json reads, and the other way round.
package tinyjson

import (
	"strconv"
	"unicode/utf8"
)

// Encoder appends one JSON document to a buffer. Commas are its business. The
// zero value is ready for use.
type Encoder struct {
	buf   []byte
	comma bool // a value precedes at this level
}

// Bytes returns the document written so far; it is valid until the next call.
func (e *Encoder) Bytes() []byte { return e.buf }

// Object writes an object; fields writes its members by the methods below, each
// after a Key.
func (e *Encoder) Object(fields func()) {
	e.open('{')
	fields()
	e.close('}')
}

// Array writes an array; elems writes its elements.
func (e *Encoder) Array(elems func()) {
	e.open('[')
	elems()
	e.close(']')
}

// Key writes a member's name; the next call writes its value.
func (e *Encoder) Key(k string) *Encoder {
	e.sep()
	e.quote(k)
	e.buf = append(e.buf, ':')
	e.comma = false
	return e
}

// String writes a string. Bytes that are no UTF-8 become U+FFFD.
func (e *Encoder) String(s string) {
	e.sep()
	e.quote(s)
	e.comma = true
}

// Int writes a whole number.
func (e *Encoder) Int(n int64) {
	e.sep()
	e.buf = strconv.AppendInt(e.buf, n, 10)
	e.comma = true
}

// Bool writes true or false.
func (e *Encoder) Bool(b bool) {
	e.sep()
	e.buf = strconv.AppendBool(e.buf, b)
	e.comma = true
}

// Raw writes doc, which must be one JSON value, as it is.
func (e *Encoder) Raw(doc []byte) {
	e.sep()
	e.buf = append(e.buf, doc...)
	e.comma = true
}

func (e *Encoder) open(c byte) {
	e.sep()
	e.buf = append(e.buf, c)
	e.comma = false
}

func (e *Encoder) close(c byte) {
	e.buf = append(e.buf, c)
	e.comma = true
}

func (e *Encoder) sep() {
	if e.comma {
		e.buf = append(e.buf, ',')
	}
}

const hex = "0123456789abcdef"

func (e *Encoder) quote(s string) {
	e.buf = append(e.buf, '"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			e.buf = append(e.buf, '\\', byte(r))
		case r < 0x20 || r == 0x7f:
			e.buf = append(e.buf, '\\', 'u', '0', '0', hex[r>>4], hex[r&15])
		default:
			e.buf = utf8.AppendRune(e.buf, r)
		}
	}
	e.buf = append(e.buf, '"')
}
