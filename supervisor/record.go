package supervisor

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/rktnetes/rktshim/internal/atomicfile"
)

// CgroupName is the group below a pod's own in which its supervisor is. A launcher
// that can has it born there; else it moves itself.
const CgroupName = "supervisor"

// WriteSpec writes the spec into the folder of a pod that nobody knows of yet, for
// its supervisor to read. It is not synced: no supervisor outlives a power loss.
func WriteSpec(podDir string, s Spec) error {
	doc, err := s.MarshalJSON()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(podDir, SpecName), doc, 0o600)
}

// ReadSpec reads what WriteSpec wrote.
func ReadSpec(podDir string) (s Spec, err error) {
	path := filepath.Join(podDir, SpecName)
	doc, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if err := s.UnmarshalJSON(doc); err != nil {
		return s, fmt.Errorf("read %s: %w", path, err)
	}
	return s, nil
}

// WriteExit puts an app's exit on disk; it survives a power loss.
func WriteExit(appDir string, e Exit) error {
	doc, err := e.MarshalJSON()
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(appDir, ExitName), doc, 0o600)
}

// ReadExit reads an app's exit from its folder. An app that has not exited, or
// whose supervisor was killed before it did, is os.ErrNotExist.
func ReadExit(appDir string) (e Exit, err error) {
	path := filepath.Join(appDir, ExitName)
	doc, err := os.ReadFile(path)
	if err != nil {
		return e, err
	}
	if err := e.UnmarshalJSON(doc); err != nil {
		return e, fmt.Errorf("read %s: %w", path, err)
	}
	return e, nil
}
