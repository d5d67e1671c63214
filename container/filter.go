package container

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// bpfAnnotation hands crun a seccomp program, base64, in place of compiling the
// profile, which costs it 13 ms of a start (crun(1)). The profile stays in the
// config, so that a runtime that does not know the annotation confines as well.
const bpfAnnotation = "run.oci.seccomp_bpf_data"

// Bounds of what is kept: profiles come with images and charts, so there are few.
const maxFilters, maxFilterSize = 64, 64 << 10

// filters remembers what crun has made of profiles, so that each is compiled once.
// The program is crun's own, taken from the state of the first container that had
// the profile.
type filters struct {
	mu     sync.Mutex
	byHash map[[sha256.Size]byte]string // guarded by mu; base64
}

// filter is a profile that crun is about to compile, and where it will leave what
// came out. The zero value is none.
type filter struct {
	hash [sha256.Size]byte
	path string
}

// use puts the program of the spec's profile into the spec if it is known, else it
// returns what to learn once the container is created.
func (f *filters) use(spec *specs.Spec, state string) (filter, error) {
	if len(spec.Linux.Seccomp.Flags) > 0 || spec.Linux.Seccomp.ListenerPath != "" {
		return filter{}, nil // there is more to it than the program
	}
	doc, err := json.Marshal(spec.Linux.Seccomp)
	if err != nil {
		return filter{}, fmt.Errorf("encode seccomp profile: %w", err)
	}
	hash := sha256.Sum256(doc)
	f.mu.Lock()
	program := f.byHash[hash]
	f.mu.Unlock()
	if program == "" {
		return filter{hash, filepath.Join(state, "seccomp.bpf")}, nil
	}
	spec.Annotations = map[string]string{bpfAnnotation: program}
	return filter{}, nil
}

// learn reads a program that crun has made. One that cannot be read costs the next
// container its gain, nothing else.
func (f *filters) learn(made *filter) {
	if made.path == "" {
		return
	}
	st, err := os.Lstat(made.path)
	if err != nil || !st.Mode().IsRegular() || st.Size() == 0 || st.Size() > maxFilterSize {
		return
	}
	program, err := os.ReadFile(made.path)
	if err != nil || len(program)%8 != 0 { // of struct sock_filter
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byHash == nil || len(f.byHash) >= maxFilters {
		f.byHash = map[[sha256.Size]byte]string{}
	}
	f.byHash[made.hash] = base64.StdEncoding.EncodeToString(program)
}
