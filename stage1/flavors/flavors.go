// Package flavors is the table of the isolators that are built in: for the
// supervisor, which boots by it, and for engines, which check and sweep by it.
package flavors

import (
	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/stage1/fly"
	"github.com/rktnetes/rktshim/stage1/lean"
	"github.com/rktnetes/rktshim/stage1/nspawn"
)

// All returns the isolators by flavor. The map is the caller's.
func All() map[string]stage1.Isolator {
	return map[string]stage1.Isolator{
		"nspawn": nspawn.Isolator{},
		"lean":   lean.Isolator{},
		"fly":    fly.Isolator{},
	}
}
