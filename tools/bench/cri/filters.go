package cri

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// filters measures what the profile RuntimeDefault adds to the OCI runtime's create
// when the runtime compiles it, and when it is handed the program, as rktshim does.
func (b *bench) filters() error {
	if _, err := exec.LookPath("crun"); err != nil {
		return nil // runc takes no program
	}
	dir := filepath.Join(scratch, "filters")
	root := filepath.Join(dir, "root")
	for _, sub := range []string{"bin", "proc", "dev", "sys"} {
		if err := os.MkdirAll(filepath.Join(root, sub), 0o755); err != nil {
			return err
		}
	}
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, "bin", "busybox"), busybox, 0o755); err != nil {
		return err
	}
	spec := specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: root},
		Process: &specs.Process{Args: appArgs, Cwd: "/", Capabilities: &specs.LinuxCapabilities{}},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux:   &specs.Linux{CgroupsPath: cgroups + "/filters", Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}}},
	}
	f := filterRun{dir: dir}
	if _, err := f.create(spec); err != nil {
		return err
	}
	compiling := spec
	linux := *spec.Linux
	if linux.Seccomp, err = seccomp.GetDefaultProfile(&spec); err != nil {
		return err
	}
	compiling.Linux = &linux
	if _, err := f.create(compiling); err != nil {
		return err
	}
	handed := compiling
	handed.Annotations = map[string]string{"run.oci.seccomp_bpf_data": base64.StdEncoding.EncodeToString(f.program)}
	if len(f.program) == 0 {
		return fmt.Errorf("crun has left no program")
	}
	for range b.Rounds {
		for name, s := range map[string]specs.Spec{filterNone: spec, filterCompiled: compiling, filterHanded: handed} {
			took, err := f.create(s)
			if err != nil {
				return err
			}
			b.results.add("", name, took.Seconds())
		}
	}
	return nil
}

type filterRun struct {
	dir     string
	program []byte // the last that crun has made
}

// create times crun create, and takes away what it made.
func (f *filterRun) create(spec specs.Spec) (took time.Duration, err error) {
	doc, err := json.Marshal(spec)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(f.dir, "config.json"), doc, 0o600); err != nil {
		return 0, err
	}
	state := filepath.Join("/run", "filters")
	log := filepath.Join(f.dir, "crun.log")
	start := time.Now()
	cmd := exec.Command("crun", "--root="+state, "--log="+log, "create", "--bundle="+f.dir, "filters")
	if err := cmd.Run(); err != nil { // without pipes, which what crun starts would keep open
		said, _ := os.ReadFile(log)
		return 0, fmt.Errorf("crun create: %w: %s", err, said)
	}
	took = time.Since(start)
	if program, err := os.ReadFile(filepath.Join(state, "filters", "seccomp.bpf")); err == nil {
		f.program = program
	}
	return took, exec.Command("crun", "--root="+state, "delete", "--force", "filters").Run()
}
