package server_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/stage1"
	"github.com/rktnetes/rktshim/supervisor"
)

// TestStepTimes prints what each step of a pod's life takes; it checks nothing but
// that they work. See it with -v.
func TestStepTimes(t *testing.T) {
	for _, flavor := range []string{"lean", "nspawn"} {
		const rounds = 10
		sums := map[string]time.Duration{}
		step := func(name string, f func() error) {
			begin := time.Now()
			require.NoError(t, f(), name)
			sums[name] += time.Since(begin)
		}
		for i := range rounds {
			p := prepare(t, supervisor.Spec{Flavor: flavor, Stage1: stage1.Spec{OwnIPC: true, OwnUTS: true, ShmBytes: 1 << 20}})
			step("1 boot", func() error { p.start(); p.dial(); return nil })
			app := p.add("a", appConfig{Args: []string{"/bin/sleep", fmt.Sprint(1000 + i)}})
			step("2 create", func() error { _, err := p.CreateApp(t.Context(), app); return err })
			step("3 start", func() error { _, err := p.StartApp(t.Context(), "a"); return err })
			step("4 first exec", func() error { _, err := p.exec(0, "/bin/true"); return err })
			step("5 exec", func() error { _, err := p.exec(0, "/bin/true"); return err })
			step("6 stop", func() error { _, err := p.StopApp(t.Context(), "a", 9, 0); return err })
			step("7 remove", func() error { return p.RemoveApp(t.Context(), "a") })
			step("8 shutdown", func() error { return p.Shutdown(t.Context()) })
			p.waitExit()
		}
		for _, name := range []string{"1 boot", "2 create", "3 start", "4 first exec", "5 exec", "6 stop", "7 remove", "8 shutdown"} {
			t.Logf("%s: %-12s %5.1f ms", flavor, name, float64(sums[name].Microseconds())/1000/rounds)
		}
	}
}
