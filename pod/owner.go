package pod

import "strings"

// Owner is whose cgroup one is.
type Owner struct {
	Pod  ID
	Spec *Spec // the pod's

	App     AppID    // empty: it holds what runs for the pod itself, not for an app
	AppSpec *AppSpec // nil then
}

// Owner returns whose a cgroup is, from the moment at which it can be there. Ours
// says that it lies in a pod's cgroup; an Owner without a Pod is then one of parts
// that have no life of their own, like the pod's cgroup as a whole, or an exec's.
func (e *Engine) Owner(group string) (o Owner, ours bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for id, p := range e.pods {
		rest, within := strings.CutPrefix(group+"/", p.rec.Cgroup+"/")
		if !within {
			continue
		}
		name := strings.TrimSuffix(rest, "/")
		if name == string(id) { // the supervisor's, see supervisor/server
			return Owner{Pod: id, Spec: p.rec.Spec}, true
		}
		if a := e.apps[AppID(name)]; a != nil && a.rec.Pod == id {
			return Owner{Pod: id, Spec: p.rec.Spec, App: a.rec.ID, AppSpec: a.rec.Spec}, true
		}
		return Owner{}, true
	}
	return Owner{}, false
}
