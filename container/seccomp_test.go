package container_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/pod"
)

// argsProfile forbids by arguments too, and with different errnos.
const argsProfile = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
	{"names":["mkdir","mkdirat","sched_getattr"],"action":"SCMP_ACT_ERRNO","errnoRet":95},
	{"names":["personality"],"action":"SCMP_ACT_ERRNO","errnoRet":71,"args":[{"index":0,"value":18446744073709551615,"op":"SCMP_CMP_EQ"}]},
	{"names":["umask"],"action":"SCMP_ACT_ERRNO","errnoRet":72,"args":[{"index":0,"value":18,"op":"SCMP_CMP_EQ"}]},
	{"names":["getpgid"],"action":"SCMP_ACT_KILL_PROCESS"}]}`

// The program that crun made of a profile, given back to it, forbids and allows what
// the profile does: every system call is tried under both.
func TestCompiledFilterForbidsWhatItsProfileForbids(t *testing.T) {
	dir := t.TempDir()
	try, local := filepath.Join(dir, "try"), filepath.Join(dir, "profile.json")
	require.NoError(t, os.WriteFile(local, []byte(argsProfile), 0o600))
	build := exec.Command("go", "build", "-o", try, "./testdata/trysyscalls")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	n := newNode(t)
	answers := func(uid string, profile *runtimeapi.SecurityProfile, compiled bool) string {
		// A pod each: some calls leave something in the pod's namespaces.
		id := n.launch("lean", func(s *pod.Spec) { s.UID = uid })
		c := n.run(id, "", func(c *runtimeapi.ContainerConfig) {
			c.Command = []string{"/try"}
			c.Mounts = []*runtimeapi.Mount{{HostPath: try, ContainerPath: "/try", Readonly: true}}
			c.Linux.SecurityContext.Seccomp = profile
		})
		config, err := os.ReadFile(filepath.Join(n.dir, "pods", string(id), "apps", c, "bundle/config.json"))
		require.NoError(t, err)
		require.Equal(t, compiled, strings.Contains(string(config), "run.oci.seccomp_bpf_data"))
		st := n.exited(c)
		require.Zero(t, st.ExitCode)
		log, err := os.ReadFile(st.LogPath)
		require.NoError(t, err)
		return stdoutOf(string(log))
	}
	free := answers("free", &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, false)
	for name, c := range map[string]struct {
		profile *runtimeapi.SecurityProfile
		says    []string
	}{
		"default": {&runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			[]string{"\n250 operation not permitted\n" /* keyctl */, "\n135 operation not permitted\n" /* personality */}},
		"local": {&runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: local},
			[]string{"\n83 operation not supported\n", "\n135 protocol error\n", "\n95 allowed\n", "\n121 bad system call\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			plain := answers(name+"-plain", c.profile, false)

			given := answers(name+"-compiled", c.profile, true)

			require.Equal(t, plain, given)
			require.NotEqual(t, free, given)
			for _, line := range c.says {
				require.Contains(t, given, line)
			}
		})
	}
}
