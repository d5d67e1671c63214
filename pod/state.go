package pod

import (
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
)

// State is where a pod or an app is in its life.
type State string

// The states. A pod goes Prepared, Booting, Running, Exited; an app Prepared,
// Created, Running, Exited.
const (
	Prepared State = "prepared" // nothing but its record stands for certain
	Booting  State = "booting"  // its supervisor has been, or is about to be, launched
	Created  State = "created"  // the OCI runtime has been, or is about to be, told to create it
	Running  State = "running"
	Exited   State = "exited"
)

// follows and appFollows are all changes of state that there are.
var (
	follows    = map[State][]State{Prepared: {Booting, Exited}, Booting: {Running, Exited}, Running: {Exited}}
	appFollows = map[State][]State{Prepared: {Created, Exited}, Created: {Running, Exited}, Running: {Exited}}
)

// StateError is a change of state that must not happen. Its class is
// FailedPrecondition.
type StateError struct {
	What     string // "pod …" or "app …"
	From, To State
}

// Error implements error.
func (e *StateError) Error() string {
	return fmt.Sprintf("%s is %s, it cannot become %s", e.What, e.From, e.To)
}

// Unwrap makes errdefs.IsFailedPrecondition true.
func (e *StateError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// to changes the pod's state in memory.
func (r *record) to(s State) error {
	if !slices.Contains(follows[r.State], s) {
		return &StateError{"pod " + string(r.ID), r.State, s}
	}
	r.State = s
	return nil
}

// to changes the app's state in memory.
func (r *appRecord) to(s State) error {
	if !slices.Contains(appFollows[r.State], s) {
		return &StateError{"app " + string(r.ID), r.State, s}
	}
	r.State = s
	return nil
}
