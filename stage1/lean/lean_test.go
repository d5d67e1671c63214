package lean_test

import (
	"testing"

	"github.com/rktnetes/rktshim/stage1/lean"
	"github.com/rktnetes/rktshim/stage1/stage1test"
)

func TestMain(m *testing.M) { stage1test.Main(m) }

func TestSuite(t *testing.T) {
	stage1test.Suite(t, lean.Isolator{}, stage1test.Traits{})
}
