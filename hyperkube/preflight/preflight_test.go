package preflight

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// machine makes a folder that looks like a machine's cgroups.
func machine(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	return dir
}

func TestCgroupLayouts(t *testing.T) {
	v1 := map[string]string{}
	for _, h := range []string{"cpu,cpuacct", "cpuset", "memory", "pids", "devices", "freezer"} {
		v1[h+"/cgroup.procs"] = ""
	}
	require.Equal(t, ok("v1"), cgroupsAt(machine(t, v1)))
	delete(v1, "pids/cgroup.procs")
	r := cgroupsAt(machine(t, v1))
	require.Equal(t, Missing, r.Status)
	require.Contains(t, r.Found, "without the hierarchies pids in")
	require.Equal(t, ok("v2"), cgroupsAt(machine(t, map[string]string{"cgroup.controllers": "cpuset cpu io memory hugetlb pids\n"})))
	r = cgroupsAt(machine(t, map[string]string{"cgroup.controllers": "cpu pids\n"}))
	require.Equal(t, Missing, r.Status)
	require.Equal(t, "v2, without the controllers cpuset, memory", r.Found)
	require.Equal(t, Missing, cgroupsAt(filepath.Join(t.TempDir(), "none")).Status)
}

func TestStage1Names(t *testing.T) {
	for _, name := range []string{"lean", "fly", "coreos.com/rkt/stage1-lean:1.30.0"} {
		require.Equal(t, OK, stage1(t.Context(), &Config{Stage1: name}).Status, name)
	}
	r := stage1(t.Context(), &Config{Stage1: "coreos.com/rkt/stage1-coreos:1.30.0"})
	require.Contains(t, r.Found, "nspawn", "it is known by rkt's versioned name, whether its program is there or not")
	r = stage1(t.Context(), &Config{Stage1: "gvisor"})
	require.Equal(t, Missing, r.Status)
	require.Contains(t, r.Found, "RKT_STAGE1_IMAGE=gvisor: is unknown; known are nspawn (coreos.com/rkt/stage1-coreos)")
	t.Setenv("PATH", t.TempDir())
	r = stage1(t.Context(), &Config{})
	require.Equal(t, Missing, r.Status)
	require.Contains(t, r.Remedy, "systemd-container")
}

func TestAnotherRuntimeNeedsNoneOfOurPrograms(t *testing.T) {
	names := func(c *Config) (names []string) {
		for _, check := range table(c) {
			names = append(names, check.name)
		}
		return names
	}
	require.Subset(t, names(&Config{}), []string{"CNI plugins", "OCI runtime", "stage1", "rkt"})
	remote := names(&Config{Remote: true})
	require.NotSubset(t, remote, []string{"CNI plugins"})
	require.NotSubset(t, remote, []string{"stage1"})
	require.Contains(t, remote, "runtime")
}

func TestRuntimeThatDoesNotAnswerIsMissing(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	require.Equal(t, Missing, endpoint(t.Context(), &Config{Endpoint: "unix://" + socket}).Status)
	require.Equal(t, Missing, endpoint(t.Context(), &Config{Endpoint: "tcp://127.0.0.1:1"}).Status)
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	defer l.Close()
	require.Equal(t, OK, endpoint(t.Context(), &Config{Endpoint: "unix://" + socket}).Status)
}

func TestTakenPortIsNamed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	require.NoError(t, err)

	r := portsFree(t.Context(), &Config{Ports: []Port{{"127.0.0.1", port, "kubelet"}}})

	require.Equal(t, Missing, r.Status)
	require.Contains(t, r.Found, port+" of the kubelet")
}

func TestDiskOfAFolderThatIsNotThereYet(t *testing.T) {
	dir := t.TempDir()
	r := disk(t.Context(), &Config{Dir: filepath.Join(dir, "a", "b")})
	require.Contains(t, r.Found, "GiB")
	require.Contains(t, r.Found, dir)
}

func TestMissingProgramsHaveARemedy(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	for _, check := range []check{{"iptables", iptablesWork}, {"OCI runtime", ociRuntime}} {
		r := check.run(t.Context(), &Config{})
		require.Equal(t, Missing, r.Status, check.name)
		require.Contains(t, r.Remedy, "apt-get install ", check.name)
	}
}

func TestTableShowsRemedies(t *testing.T) {
	var out strings.Builder

	Print(&out, []Result{{Name: "user", Found: "root"}, {Name: "disk", Status: Missing, Found: "1.0 GiB free", Remedy: "free some"}})

	require.Equal(t, "ok       user               root\nmissing  disk               1.0 GiB free\n                            remedy: free some\n", out.String())
}

// The main thread's namespaces count as the process's, and local-up notes those for
// local-down.
func TestProcessStaysInItsNetwork(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	before, err := os.Readlink("/proc/self/ns/net")
	require.NoError(t, err)
	for range 50 {
		var inside string
		require.NoError(t, inNewNetwork(func() (err error) {
			inside, err = os.Readlink("/proc/thread-self/ns/net")
			return err
		}))
		require.NotEqual(t, before, inside)
	}

	after, err := os.Readlink("/proc/self/ns/net")

	require.NoError(t, err)
	require.Equal(t, before, after)
}
