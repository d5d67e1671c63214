package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"github.com/rktnetes/rktshim/internal/atomicfile"
)

const (
	recordVersion = 1

	podRecordName  = "pod.json"
	appRecordName  = "app.json"
	networkName    = "network.json"
	resolvConfName = "resolv.conf"
	netnsPrefix    = "rkt-"
	newPrefix      = ".new-" // folders of pods whose record is not yet there
)

// record is pod.json.
type record struct {
	Version   int       `json:"version"` // a newer one is refused
	ID        ID        `json:"id"`
	State     State     `json:"state"`
	Doomed    bool      `json:"doomed,omitempty"`   // being removed; nobody sees it any more
	CreatedAt time.Time `json:"createdAt"`          // by the wall clock, as all times
	StartedAt time.Time `json:"startedAt,omitzero"` // when it began to run
	MarkedAt  time.Time `json:"markedAt,omitzero"`  // when GC first saw it exited
	Cgroup    string    `json:"cgroup"`             // the pod's own, in cgroupfs syntax
	Spec      *Spec     `json:"spec"`
}

// appRecord is app.json.
type appRecord struct {
	Version   int       `json:"version"` // a newer one is refused
	ID        AppID     `json:"id"`
	Pod       ID        `json:"pod"`
	State     State     `json:"state"` // Exited is told by exit.json instead
	CreatedAt time.Time `json:"createdAt"`
	StartedAt time.Time `json:"startedAt,omitzero"`
	Spec      *AppSpec  `json:"spec"`
}

func (e *Engine) podDir(id ID) string { return filepath.Join(e.cfg.Dir, string(id)) }
func (e *Engine) runDir(id ID) string { return filepath.Join(e.cfg.RunDir, string(id)) }
func (e *Engine) netnsPath(id ID) string {
	return filepath.Join(e.cfg.NetNSDir, netnsPrefix+string(id))
}
func (e *Engine) networkPath(id ID) string {
	return filepath.Join(e.podDir(id), networkName)
}
func (e *Engine) appDir(pod ID, app AppID) string {
	return filepath.Join(e.podDir(pod), "apps", string(app))
}

func (r *record) write(dir string) error {
	return writeRecord(filepath.Join(dir, podRecordName), r)
}

func (r *appRecord) write(dir string) error {
	return writeRecord(filepath.Join(dir, appRecordName), r)
}

func writeRecord(path string, r any) error {
	doc, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return atomicfile.Write(path, doc, 0o600)
}

// readPod reads a pod's record. One of a newer program is FailedPrecondition, a
// folder without a record os.ErrNotExist.
func readPod(dir string) (r record, err error) {
	err = readRecord(filepath.Join(dir, podRecordName), &r, &r.Version)
	if err == nil && (r.Spec == nil || r.ID == "") {
		err = fmt.Errorf("read record in %s: it names no pod", dir)
	}
	return r, err
}

func readApp(dir string) (r appRecord, err error) {
	err = readRecord(filepath.Join(dir, appRecordName), &r, &r.Version)
	if err == nil && (r.Spec == nil || r.ID == "") {
		err = fmt.Errorf("read record in %s: it names no app", dir)
	}
	return r, err
}

func readRecord(path string, r any, version *int) error {
	doc, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(doc, r); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if *version != recordVersion {
		return fmt.Errorf("read %s: version %d, this program knows only %d: %w", path, *version, recordVersion, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// removeFolder removes a folder so that its record goes last: a crash on the way
// leaves something that a record still names.
func removeFolder(dir, recordName string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if entry.Name() == recordName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

// readConfig reads an app's config.json into what the caller wants of it.
func readConfig(appDir string, into any) error {
	doc, err := os.ReadFile(filepath.Join(appDir, "bundle", "config.json"))
	if err != nil {
		return err
	}
	if err := json.Unmarshal(doc, into); err != nil {
		return fmt.Errorf("read config.json: %w", err)
	}
	return nil
}
