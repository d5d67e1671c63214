package tinyjson

import (
	"errors"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// maxDepth bounds nesting, and with it the stack.
const maxDepth = 32

// Decoder reads one JSON document from front to back. The first error sticks:
// later calls return zero values, and Err tells it.
type Decoder struct {
	buf   []byte
	pos   int
	depth int
	err   error
}

// NewDecoder reads from doc, which must not change meanwhile.
func NewDecoder(doc []byte) *Decoder { return &Decoder{buf: doc} }

// Err returns the first error met, with its offset.
func (d *Decoder) Err() error { return d.err }

// End checks that nothing but space follows, and returns Err.
func (d *Decoder) End() error {
	if d.peek(); d.err == nil && d.pos < len(d.buf) {
		d.Fail("text after the document")
	}
	return d.err
}

// Object reads an object and calls field once per member, after its name. field
// must read or Skip the value. null counts as an empty object.
func (d *Decoder) Object(field func(key string)) {
	d.group('{', '}', func() {
		key := d.String()
		if d.peek() != ':' {
			d.Fail("want ':'")
			return
		}
		d.pos++
		field(key)
	})
}

// Array reads an array and calls elem once per element; elem must read or Skip
// it. null counts as an empty array.
func (d *Decoder) Array(elem func()) { d.group('[', ']', elem) }

func (d *Decoder) group(open, end byte, item func()) {
	if d.null() {
		return
	}
	if d.peek() != open {
		d.Fail("want '" + string(open) + "'")
		return
	}
	if d.depth++; d.depth > maxDepth {
		d.Fail("nested too deeply")
		return
	}
	defer func() { d.depth-- }()
	d.pos++
	if d.peek() == end {
		d.pos++
		return
	}
	for d.err == nil {
		item()
		switch c := d.peek(); {
		case d.err != nil:
		case c == ',':
			d.pos++
		case c == end:
			d.pos++
			return
		default:
			d.Fail("want ',' or '" + string(end) + "'")
		}
	}
}

// String reads a string; null counts as the empty one.
func (d *Decoder) String() string {
	if d.null() {
		return ""
	}
	if d.peek() != '"' {
		d.Fail("want a string")
		return ""
	}
	d.pos++
	var out []byte
	for d.pos < len(d.buf) {
		switch c := d.buf[d.pos]; {
		case c == '"':
			d.pos++
			return string(out)
		case c == '\\':
			out = d.escape(out)
		case c < 0x20:
			d.Fail("control character in a string")
			return ""
		default:
			r, n := utf8.DecodeRune(d.buf[d.pos:])
			out = utf8.AppendRune(out, r)
			d.pos += n
		}
		if d.err != nil {
			return ""
		}
	}
	d.Fail("string without end")
	return ""
}

// escape reads one escape sequence at the backslash.
func (d *Decoder) escape(out []byte) []byte {
	if d.pos++; d.pos >= len(d.buf) {
		d.Fail("string without end")
		return nil
	}
	c := d.buf[d.pos]
	d.pos++
	switch c {
	case '"', '\\', '/':
		return append(out, c)
	case 'b':
		return append(out, '\b')
	case 'f':
		return append(out, '\f')
	case 'n':
		return append(out, '\n')
	case 'r':
		return append(out, '\r')
	case 't':
		return append(out, '\t')
	case 'u':
		r := d.hex4()
		if utf16.IsSurrogate(r) {
			low := rune(utf8.RuneError)
			if d.pos+6 <= len(d.buf) && d.buf[d.pos] == '\\' && d.buf[d.pos+1] == 'u' {
				d.pos += 2
				low = d.hex4()
			}
			r = utf16.DecodeRune(r, low)
		}
		return utf8.AppendRune(out, r)
	}
	d.Fail("unknown escape")
	return nil
}

func (d *Decoder) hex4() rune {
	if d.pos+4 > len(d.buf) {
		d.Fail("short \\u escape")
		return 0
	}
	n, err := strconv.ParseUint(string(d.buf[d.pos:d.pos+4]), 16, 32)
	if err != nil {
		d.Fail("bad \\u escape")
		return 0
	}
	d.pos += 4
	return rune(n)
}

// Int reads a whole number that fits int64; null counts as 0.
func (d *Decoder) Int() int64 {
	if d.null() {
		return 0
	}
	tok := d.token()
	n, err := strconv.ParseInt(tok, 10, 64)
	if err != nil {
		d.Fail("want a whole number")
		return 0
	}
	return n
}

// Bool reads true or false; null counts as false.
func (d *Decoder) Bool() bool {
	if d.null() {
		return false
	}
	switch d.token() {
	case "true":
		return true
	case "false":
	default:
		d.Fail("want true or false")
	}
	return false
}

// Skip passes over one value of any kind: how a reader ignores what a newer
// writer added.
func (d *Decoder) Skip() {
	switch d.peek() {
	case '{':
		d.Object(func(string) { d.Skip() })
	case '[':
		d.Array(d.Skip)
	case '"':
		_ = d.String()
	default:
		if tok := d.token(); tok != "true" && tok != "false" && tok != "null" {
			if _, err := strconv.ParseFloat(tok, 64); err != nil && !errors.Is(err, strconv.ErrRange) {
				d.Fail("want a value")
			}
		}
	}
}

// Raw passes over one value and returns its text, which aliases the document.
func (d *Decoder) Raw() []byte {
	d.peek()
	start := d.pos
	d.Skip()
	if d.err != nil {
		return nil
	}
	return d.buf[start:d.pos]
}

// token reads the letters, digits and signs of a number or a bare word.
func (d *Decoder) token() string {
	d.peek()
	start := d.pos
	for d.pos < len(d.buf) {
		switch c := d.buf[d.pos]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c == '-', c == '+', c == '.', c == 'E':
			d.pos++
			continue
		}
		break
	}
	return string(d.buf[start:d.pos])
}

// null consumes null if it is next.
func (d *Decoder) null() bool {
	if d.peek() == 'n' && len(d.buf)-d.pos >= 4 && string(d.buf[d.pos:d.pos+4]) == "null" {
		d.pos += 4
		return true
	}
	return false
}

// peek skips space and returns the next byte, 0 at the end or after an error.
func (d *Decoder) peek() byte {
	for d.err == nil && d.pos < len(d.buf) {
		switch c := d.buf[d.pos]; c {
		case ' ', '\t', '\n', '\r':
			d.pos++
		default:
			return c
		}
	}
	return 0
}

// Fail makes d report what at the present offset, unless an error came before:
// for a value that is JSON but not what its reader wants.
func (d *Decoder) Fail(what string) {
	if d.err == nil {
		d.err = fmt.Errorf("json at offset %d: %s", d.pos, what)
	}
}
