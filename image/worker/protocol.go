package worker

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
)

// version changes with any change of the messages. Parent and child are built
// together, so only equal versions talk.
const version = 1

// socketFD is the child's end of the socket.
const socketFD = 3

type message struct {
	Hello    *hello         `json:"hello,omitempty"`
	ID       uint64         `json:"id,omitempty"`
	Pull     *pull.Request  `json:"pull,omitempty"`
	Import   *importRequest `json:"import,omitempty"`
	Progress bool           `json:"progress,omitempty"`
	Cancel   bool           `json:"cancel,omitempty"`
	Event    *pull.Event    `json:"event,omitempty"`
	Result   *pull.Result   `json:"result,omitempty"`
	Error    *wireError     `json:"error,omitempty"`
}

type hello struct {
	Version int          `json:"version"`
	Store   store.Config `json:"store"`
	Pull    pull.Config  `json:"pull"`
}

type importRequest struct {
	Source string   `json:"source"`
	Names  []string `json:"names,omitempty"`
}

// wireError is an error on its way: its text, and what errors.Is must still find.
type wireError struct {
	Text  string `json:"text"`
	Class string `json:"class,omitempty"`
}

// classes are the errors that callers test for; the first that matches goes along.
var classes = []struct {
	name string
	err  error
}{
	{"registry-unavailable", pull.ErrUnavailable},
	{"signature", pull.ErrSignature},
	{"canceled", context.Canceled},
	{"invalid-argument", errdefs.ErrInvalidArgument},
	{"not-found", errdefs.ErrNotFound},
	{"failed-precondition", errdefs.ErrFailedPrecondition},
	{"unavailable", errdefs.ErrUnavailable},
}

func toWire(err error) *wireError {
	w := &wireError{Text: err.Error()}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			w.Class = c.name
			break
		}
	}
	return w
}

// Error is the text from the far side, whole.
func (w *wireError) Error() string { return w.Text }

// Unwrap gives the class back.
func (w *wireError) Unwrap() error {
	for _, c := range classes {
		if c.name == w.Class {
			return c.err
		}
	}
	return nil
}
