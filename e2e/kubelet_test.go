package e2e

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The proof of the whole arrangement: the real kubelet, unpatched, runs on a
// runtime in its own process, which it reaches without any socket.
func TestKubeletRunsOnTheRuntimeInItsProcess(t *testing.T) {
	for name, c := range map[string]struct{ flags, config []string }{
		"by flag":            {flags: []string{"--container-runtime=rkt"}},
		"by feature gate":    {flags: []string{"--feature-gates=RktShim=true"}},
		"by the config file": {config: []string{"featureGates: {RktShim: true}"}},
		"by its endpoint too": {flags: []string{"--feature-gates=RktShim=true"},
			config: []string{"containerRuntimeEndpoint: memory://rktshim"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := append(append(kubeletArgs(t, c.config...), "--rkt-dir="+dataDir(t)), c.flags...)

			k := isolated(t, append([]string{binary(t, "hyperkube"), "kubelet"}, args...)...)
			k.waitHealthy(t)

			require.Empty(t, unixSocketsToARuntime(t, k), "the kubelet reaches its runtime by a socket")
			require.Contains(t, k.output.String(), `endpoints="[memory://rktshim]"`)
			require.Zero(t, k.terminate(t), "SIGTERM ends it cleanly")
			require.NotContains(t, k.output.String(), "panic")
		})
	}
}

// unixSocketsToARuntime lists the unix sockets of the process's network
// namespace that have a path or a peer, but for those on which the kubelet
// itself serves its plugins, and the engine the operator's rkt.
func unixSocketsToARuntime(t *testing.T, p *process) (found []string) {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/net/unix", p.Process.Pid))
	require.NoError(t, err)
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 7 || fields[0] == "Num" {
			continue
		}
		const connected = "03"
		path := strings.Join(fields[7:], " ")
		if fields[5] == connected || path != "" && !strings.Contains(path, "/device-plugins/") && !strings.Contains(path, "/pod-resources/") && filepath.Base(path) != "engine.sock" {
			found = append(found, s.Text())
		}
	}
	return found
}

func TestSameServerAnswersOnItsSocket(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "cri.sock")
	args := append(kubeletArgs(t), "--container-runtime=rkt", "--rkt-dir="+dataDir(t), "--rkt-cri-socket="+sock)
	k := isolated(t, append([]string{binary(t, "hyperkube"), "kubelet"}, args...)...)
	k.waitHealthy(t)
	conn, err := grpc.NewClient("unix://"+sock, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()

	s, err := runtimeapi.NewRuntimeServiceClient(conn).Status(t.Context(), &runtimeapi.StatusRequest{})

	require.NoError(t, err)
	ready := map[string]bool{}
	for _, c := range s.GetStatus().GetConditions() {
		ready[c.Type] = c.Status
	}
	require.True(t, ready[runtimeapi.RuntimeReady], "%v", s)
	require.Zero(t, k.terminate(t))
	require.NoFileExists(t, sock)
}

// With the gate off the binary is the stock kubelet: it takes whatever runtime
// serves a unix socket. Here that is the runtime of a second kubelet.
func TestStockKubeletRunsOnAUnixSocket(t *testing.T) {
	sock := filepath.Join(t.TempDir(), "cri.sock")
	args := append(kubeletArgs(t), "--container-runtime=rkt", "--rkt-dir="+dataDir(t), "--rkt-cri-socket="+sock)
	server := isolated(t, append([]string{binary(t, "hyperkube"), "kubelet"}, args...)...)
	server.waitHealthy(t)

	for name, flags := range map[string][]string{
		"nothing set":                nil,
		"--container-runtime=remote": {"--container-runtime=remote"},
	} {
		t.Run(name, func(t *testing.T) {
			args := append(append(kubeletArgs(t), "--container-runtime-endpoint=unix://"+sock), flags...)
			stock := isolated(t, append([]string{binary(t, "hyperkube"), "kubelet"}, args...)...)
			stock.waitHealthy(t)

			require.NotContains(t, stock.output.String(), "Serving CRI")
			require.NotEmpty(t, unixSocketsToARuntime(t, stock), "this one does use a socket, so the proof of the others sees it")
			require.Zero(t, stock.terminate(t))
		})
	}
}

func TestStartThatCannotBeIsRefusedWithItsReason(t *testing.T) {
	busy, firstDir := filepath.Join(t.TempDir(), "cri.sock"), dataDir(t)
	args := append(kubeletArgs(t), "--container-runtime=rkt", "--rkt-dir="+firstDir, "--rkt-cri-socket="+busy)
	first := isolated(t, append([]string{binary(t, "hyperkube"), "kubelet"}, args...)...)
	first.waitHealthy(t)
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))

	for _, c := range []struct {
		name   string
		flags  []string
		config []string
		says   string
	}{
		{"flag of ours without the gate", []string{"--rkt-dir=/x", "--cni-bin-dir=/y"}, nil,
			"--cni-bin-dir, --rkt-dir given, but the runtime in this process is off"},
		{"unknown runtime", []string{"--container-runtime=docker"}, nil, `--container-runtime=docker: must be "rkt" or "remote"`},
		{"relative folder", []string{"--container-runtime=rkt", "--rkt-dir=x"}, nil, "--rkt-dir=x: must be an absolute path"},
		{"unknown stage1", []string{"--container-runtime=rkt", "--rkt-stage1-image=gvisor"}, nil, "--rkt-stage1-image=gvisor: is unknown; known are nspawn"},
		{"bad API endpoint", []string{"--container-runtime=rkt", "--rkt-api-endpoint=here"}, nil, "--rkt-api-endpoint=here: must be host:port"},
		{"gate and flag disagree", []string{"--container-runtime=rkt", "--feature-gates=RktShim=false"}, nil, "contradicts the feature gate RktShim=false"},
		{"remote and gate disagree", []string{"--container-runtime=remote", "--feature-gates=RktShim=true"}, nil, "contradicts the feature gate RktShim=true"},
		{"another runtime's endpoint", []string{"--container-runtime=rkt"}, []string{"containerRuntimeEndpoint: unix:///run/crio/crio.sock"}, "is unix:///run/crio/crio.sock: unset it"},
		{"containerd's endpoint, typed", []string{"--container-runtime=rkt", "--container-runtime-endpoint=unix:///run/containerd/containerd.sock"}, nil, "is unix:///run/containerd/containerd.sock: unset it"},
		{"data folder in use", []string{"--container-runtime=rkt", "--rkt-dir=" + firstDir}, nil, "another runtime uses the data folder " + firstDir},
		{"rkt that is not there", []string{"--container-runtime=rkt", "--rkt-path=/nonexistent/rkt"}, nil, "--rkt-path=/nonexistent/rkt: cannot be used"},
		{"another image service", []string{"--container-runtime=rkt", "--rkt-dir=" + dataDir(t)}, []string{"imageServiceEndpoint: unix:///run/x.sock"}, "is unix:///run/x.sock: unset it"},
		{"memory without the gate", []string{"--container-runtime-endpoint=memory://rktshim"}, nil, "needs --container-runtime=rkt"},
		{"socket of a live server", []string{"--container-runtime=rkt", "--rkt-dir=" + dataDir(t), "--rkt-cri-socket=" + busy}, nil, "a live server holds " + busy + ".lock"},
		{"data folder that is a file", []string{"--container-runtime=rkt", "--rkt-dir=" + file}, nil, "start the runtime in this process: unpack rkt-supervisor: mkdir " + file},
		{"flag that nobody knows", []string{"--rkt-dri=/x"}, nil, "unknown flag: --rkt-dri"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := isolated(t, append(append([]string{binary(t, "hyperkube"), "kubelet"}, kubeletArgs(t, c.config...)...), c.flags...)...)

			require.Equal(t, 1, k.exitCode(t))
			require.Contains(t, strings.ReplaceAll(k.output.String(), `\"`, `"`), c.says)
		})
	}
}

func TestBinaryIsItsCommandsByNameAndBySymlink(t *testing.T) {
	hyperkube := binary(t, "hyperkube")
	link := filepath.Join(t.TempDir(), "kubelet")
	require.NoError(t, os.Symlink(hyperkube, link))
	run := func(argv ...string) string {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		require.NoError(t, err, "%s", out)
		return string(out)
	}

	require.Equal(t, "Kubernetes v1.36.3\n", run(link, "--version"), "upstream's own output")
	require.Equal(t, "Kubernetes v1.36.3\n", run(hyperkube, "kubelet", "--version"))
	require.Regexp(t, `^Kubernetes v1\.36\.3\nrktshim \d+\.\d+\.\d+\S*\ngo1\.`, run(hyperkube, "version"))
	require.Contains(t, run(hyperkube, "help"), "  kubelet ")
	require.Equal(t, run(hyperkube, "help"), run(hyperkube))
	for _, flag := range []string{"--container-runtime ", "--rkt-dir ", "--rkt-path ", "--rkt-stage1-image ", "--rkt-cgroup-driver ", "--rkt-api-endpoint ", "--rkt-cri-socket ", "--cni-conf-dir ", "--cni-bin-dir ", "--container-runtime-endpoint "} {
		require.Contains(t, run(link, "--help"), flag)
	}
	require.Contains(t, run(link, "--help"), "RktShim=true|false (ALPHA - default=false)")
	out, err := exec.Command(hyperkube, "kublet").CombinedOutput()
	require.Error(t, err)
	require.Equal(t, "hyperkube: unknown command \"kublet\"; \"hyperkube help\" lists the known ones\n", string(out))
}
