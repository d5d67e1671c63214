package cgroupstat

import (
	"bytes"
	"fmt"
	"math"
	"strconv"
	"sync"
)

// buffers hold a file's text while it is parsed; memory.stat has 2 to 3 KB.
var buffers = sync.Pool{New: func() any { b := make([]byte, 8<<10); return &b }}

// number reads a file with one number; "max" and -1 are the largest one.
func (g *Group) number(hierarchy, name string) (uint64, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	text, err := g.read(hierarchy, name, *buf)
	if err != nil {
		return 0, err
	}
	n, err := parseNumber(bytes.TrimSpace(text))
	if err != nil {
		return 0, fmt.Errorf("read cgroup %s: %s: %w", g.path, name, err)
	}
	return n, nil
}

func parseNumber(text []byte) (uint64, error) {
	if string(text) == "max" || string(text) == "-1" {
		return math.MaxUint64, nil
	}
	return strconv.ParseUint(string(text), 10, 64)
}

// fields reads a file of lines "key number". Lines of another form are passed over:
// the kernel may add some.
func (g *Group) fields(hierarchy, name string, each func(key []byte, value uint64)) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	text, err := g.read(hierarchy, name, *buf)
	if err != nil {
		return err
	}
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, newline)
		key, value, ok := bytes.Cut(line, space)
		if !ok {
			continue
		}
		if n, err := parseNumber(value); err == nil {
			each(key, n)
		}
	}
	return nil
}

var newline, space, equals = []byte("\n"), []byte(" "), []byte("=")

// pressure reads a file of stall times.
func (g *Group) pressure(name string) (*Pressure, error) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	text, err := g.read("", name, *buf)
	if err != nil {
		return nil, err
	}
	var p Pressure
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, newline)
		kind, rest, _ := bytes.Cut(line, space)
		stall := &p.Some
		if string(kind) == "full" {
			stall = &p.Full
		}
		if err := stall.parse(rest); err != nil {
			return nil, fmt.Errorf("read cgroup %s: %s: %w", g.path, name, err)
		}
	}
	return &p, nil
}

// parse takes "avg10=0.12 avg60=0.00 avg300=0.00 total=123".
func (s *Stall) parse(text []byte) (err error) {
	for len(text) > 0 && err == nil {
		var field []byte
		field, text, _ = bytes.Cut(text, space)
		key, value, _ := bytes.Cut(field, equals)
		switch string(key) {
		case "avg10":
			s.Avg10, err = strconv.ParseFloat(string(value), 64)
		case "avg60":
			s.Avg60, err = strconv.ParseFloat(string(value), 64)
		case "avg300":
			s.Avg300, err = strconv.ParseFloat(string(value), 64)
		case "total":
			s.TotalMicros, err = strconv.ParseUint(string(value), 10, 64)
		}
	}
	return err
}
