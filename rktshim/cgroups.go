package rktshim

import (
	"github.com/rktnetes/rktshim/container"
	"github.com/rktnetes/rktshim/pod"
)

// Cgroups tells a cAdvisor in this process what the cgroups of pods are, without a
// socket. Its methods answer from memory and from open files, and are safe for
// concurrent use.
type Cgroups struct {
	engine *pod.Engine
	images appImages
}

// Cgroups is there once Ready is closed.
func (s *Shim) Cgroups() *Cgroups { return s.cgroups }

// Owner returns whose a cgroup is, see [pod.Engine.Owner].
func (c *Cgroups) Owner(group string) (o pod.Owner, ours bool) { return c.engine.Owner(group) }

// Traffic returns what a pod's interfaces have carried.
func (c *Cgroups) Traffic(id pod.ID) ([]pod.Traffic, error) { return c.engine.PodTraffic(id) }

// App returns an app as it is now. An unknown one is NotFound.
func (c *Cgroups) App(id pod.AppID) (pod.App, error) { return c.engine.App(id) }

// Layer returns what an app has written to its root, false before it was measured.
func (c *Cgroups) Layer(id pod.AppID) (container.Layer, bool) { return c.images.Layer(id) }
