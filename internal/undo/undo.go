// Package undo takes back the steps of an act that failed half way.
package undo

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Stack holds what takes back the steps done so far. A caller pushes after each
// step, defers Run, and calls Release on the last line of success:
//
//	undo := undo.New(30 * time.Second)
//	defer func() {
//		if uerr := undo.Run(ctx); uerr != nil {
//			err = fmt.Errorf("%w (undo: %v)", err, uerr)
//		}
//	}()
//
// A Stack belongs to one goroutine.
type Stack struct {
	timeout time.Duration
	steps   []step
}

type step struct {
	name string
	run  func(context.Context) error
}

// New returns an empty stack whose every step may take as long as timeout. Each
// step has a deadline of its own, so that one that hangs does not cost the
// others their chance.
func New(timeout time.Duration) *Stack { return &Stack{timeout: timeout} }

// Push adds what takes back the step just done. The name says what run does, as
// in "detach network". Run must give up when its context ends.
func (s *Stack) Push(name string, run func(context.Context) error) {
	s.steps = append(s.steps, step{name, run})
}

// Release drops every step: what was done stays.
func (s *Stack) Release() { s.steps = nil }

// Run takes back every step, the newest first, and goes on past those that fail.
// It keeps ctx's values but neither its cancellation nor its deadline, because a
// cancelled request is the usual reason to be here. A second Run, or one after
// Release, does nothing.
//
// Report the error by %v, never by %w or errors.Join with the failure that led
// here: its class (not found, say) would become the class of the whole act.
func (s *Stack) Run(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	var errs []error
	for len(s.steps) > 0 {
		last := s.steps[len(s.steps)-1]
		s.steps = s.steps[:len(s.steps)-1]
		if err := s.runStep(ctx, last); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", last.name, err))
		}
	}
	return errors.Join(errs...)
}

func (s *Stack) runStep(ctx context.Context, last step) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	return last.run(ctx)
}
