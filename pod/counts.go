package pod

import "sync/atomic"

// Counts are what the engine has seen and done since it was made.
type Counts struct {
	Supervisors SupervisorCounts
	Undone      UndoCounts
	Garbage     GarbageCounts
}

// SupervisorCounts are of supervisors whose pods ran.
type SupervisorCounts struct {
	Adopted     uint64 // found living by Recover
	Lost        uint64 // gone; their pods were ended
	Reconnected uint64 // living, but their connection broke
}

// UndoCounts are of acts that were taken back.
type UndoCounts struct {
	Launches  uint64 // that failed half way
	Creates   uint64
	Recovered uint64 // what an earlier process left half done
	Failed    uint64 // launches and creates that could not be taken back at once
}

// GarbageCounts are of things that no record explained, and that were removed.
type GarbageCounts struct {
	Runs                               uint64 // of Collect
	Groups, Folders, Namespaces, Roots uint64
}

// counters count. The zero value is ready for use.
type counters struct {
	adopted, lost, reconnected               atomic.Uint64
	launches, creates, recovered, undoFailed atomic.Uint64
	runs, groups, folders, namespaces, roots atomic.Uint64
}

// Counts returns what has been counted so far.
func (e *Engine) Counts() Counts {
	c := &e.counters
	return Counts{
		Supervisors: SupervisorCounts{Adopted: c.adopted.Load(), Lost: c.lost.Load(), Reconnected: c.reconnected.Load()},
		Undone:      UndoCounts{Launches: c.launches.Load(), Creates: c.creates.Load(), Recovered: c.recovered.Load(), Failed: c.undoFailed.Load()},
		Garbage: GarbageCounts{
			Runs: c.runs.Load(), Groups: c.groups.Load(), Folders: c.folders.Load(), Namespaces: c.namespaces.Load(), Roots: c.roots.Load(),
		},
	}
}

// countLost counts a supervisor that has gone, whoever sees it first.
func (e *Engine) countLost(id ID) {
	e.update(id, func(p *entry) {
		if !p.lost {
			p.lost = true
			e.counters.lost.Add(1)
		}
	})
}

// undone counts an act that was taken back, or that could not be.
func (c *counters) undone(acts *atomic.Uint64, err error) error {
	acts.Add(1)
	if err != nil {
		c.undoFailed.Add(1)
	}
	return err
}

func (c *counters) collected(g *Garbage) {
	c.runs.Add(1)
	c.groups.Add(uint64(len(g.Groups)))
	c.folders.Add(uint64(len(g.RunFolders)))
	c.namespaces.Add(uint64(len(g.Namespaces)))
	c.roots.Add(uint64(len(g.Roots)))
}
