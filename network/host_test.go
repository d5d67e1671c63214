package network

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const debianPlugins = "/usr/lib/cni"

// host is a node's CNI in temporary folders, with a check that a test leaves
// nothing of any pod.
type host struct {
	*CNI
	t      testing.TB
	dir    string
	leases string // of host-local, network "pods"
	script string // folder for plugins written by tests
}

func newHost(t testing.TB) *host {
	dir := t.TempDir()
	h := &host{t: t, dir: dir, leases: filepath.Join(dir, "leases", "pods"), script: filepath.Join(dir, "bin")}
	var err error
	h.CNI, err = New(Config{
		ConfDir: filepath.Join(dir, "net.d"),
		BinDirs: []string{h.script, debianPlugins},
		RunDir:  filepath.Join(dir, "run"),
		Timeout: 20 * time.Second,
	})
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(h.config.ConfDir, 0o755))
	require.NoError(t, os.MkdirAll(h.script, 0o755))
	return h
}

// uses writes a list of plugins as the node's network and reads it.
func (h *host) uses(plugins ...string) {
	h.t.Helper()
	h.writeConf("10-pods.conflist", conflist("1.0.0", plugins...))
	h.read(h.t.Context())
	require.NoError(h.t, h.Ready())
}

func (h *host) writeConf(name, content string) {
	h.t.Helper()
	require.NoError(h.t, os.WriteFile(filepath.Join(h.config.ConfDir, name), []byte(content), 0o644))
}

func conflist(version string, plugins ...string) string {
	return fmt.Sprintf(`{"cniVersion": %q, "name": "pods", "plugins": [%s]}`, version, strings.Join(plugins, ","))
}

// plugin writes an executable shell script as a plugin that answers VERSION.
func (h *host) plugin(name, script string) {
	h.t.Helper()
	script = `#!/bin/sh
if [ "$CNI_COMMAND" = VERSION ]; then
	echo '{"cniVersion": "1.1.0", "supportedVersions": ["0.1.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}'
	exit
fi
` + script
	require.NoError(h.t, os.WriteFile(filepath.Join(h.script, name), []byte(script), 0o755))
}

// bridge is Debian's bridge with host-local. The node's end has the first address
// of each range.
func (h *host) bridge(ipMasq bool, subnets ...string) string {
	var ranges, routes []string
	for _, subnet := range subnets {
		ranges = append(ranges, fmt.Sprintf(`[{"subnet": %q}]`, subnet))
		if strings.Contains(subnet, ":") {
			routes = append(routes, `{"dst": "::/0"}`)
		} else {
			routes = append(routes, `{"dst": "0.0.0.0/0"}`)
		}
	}
	h.t.Cleanup(func() { _ = exec.Command("ip", "link", "del", "cni0").Run() })
	return fmt.Sprintf(`{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": %v, "hairpinMode": true,
		"ipam": {"type": "host-local", "dataDir": %q, "ranges": [%s], "routes": [%s]}}`,
		ipMasq, filepath.Dir(h.leases), strings.Join(ranges, ","), strings.Join(routes, ","))
}

const portmap = `{"type": "portmap", "capabilities": {"portMappings": true}}`

// pod makes a pod with a namespace of its own.
func (h *host) pod(id string) Pod {
	h.t.Helper()
	path := filepath.Join(h.dir, "netns", id)
	require.NoError(h.t, NewNamespace(path))
	h.t.Cleanup(func() { require.NoError(h.t, RemoveNamespace(path)) })
	return Pod{ID: id, Name: "web", Namespace: "default", UID: "uid-" + id, NetNS: path}
}

// records keeps what Attach saves, as the engine does.
type records struct {
	saved []json.RawMessage
	fail  map[int]error // by the number of the call
	seen  func()
}

func (r *records) save(ctx context.Context, record json.RawMessage) error {
	r.saved = append(r.saved, record)
	if r.seen != nil {
		r.seen()
	}
	return r.fail[len(r.saved)]
}

func (r *records) last() json.RawMessage { return r.saved[len(r.saved)-1] }

func (h *host) attach(pod Pod) (Result, json.RawMessage) {
	h.t.Helper()
	var r records
	result, err := h.Attach(h.t.Context(), pod, r.save)
	require.NoError(h.t, err)
	return result, r.last()
}

func (h *host) detach(record json.RawMessage) {
	h.t.Helper()
	require.NoError(h.t, h.Detach(h.t.Context(), record))
}

// requireNothingLeft fails the test if anything of any pod is left on the host.
func (h *host) requireNothingLeft() {
	h.t.Helper()
	require.Empty(h.t, h.leased(), "leases")
	require.Empty(h.t, veths(h.t), "interfaces")
	require.Empty(h.t, podRules(h.t), "iptables rules")
	require.Empty(h.t, h.unfinished(), "files in RunDir")
	require.Empty(h.t, pluginProcesses(h.t), "processes")
}

func (h *host) leased() (out []string) {
	entries, _ := os.ReadDir(h.leases)
	for _, e := range entries {
		if e.Name() != "lock" && !strings.HasPrefix(e.Name(), "last_reserved_ip") {
			out = append(out, e.Name())
		}
	}
	return out
}

func (h *host) unfinished() (out []string) {
	entries, _ := os.ReadDir(h.config.RunDir)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

func veths(t testing.TB) (out []string) {
	ifaces, err := net.Interfaces()
	require.NoError(t, err)
	for _, iface := range ifaces {
		if strings.HasPrefix(iface.Name, "veth") || strings.HasPrefix(iface.Name, "bwp") {
			out = append(out, iface.Name)
		}
	}
	return out
}

// podRules are the rules and chains that are there for some pod. The plugins
// leave chains of the host, by design.
func podRules(t testing.TB) (out []string) {
	for _, command := range []string{"iptables-save", "ip6tables-save"} {
		rules, err := exec.Command(command).Output()
		require.NoError(t, err)
		for line := range strings.Lines(string(rules)) {
			if strings.Contains(line, "CNI-DN-") || strings.Contains(line, "CNI-SN-") || strings.Contains(line, `name: "pods"`) ||
				strings.Contains(line, `name: \"pods\"`) || strings.HasPrefix(line, "-A CNI-FORWARD -d") || strings.HasPrefix(line, "-A CNI-FORWARD -s") {
				out = append(out, strings.TrimSpace(line))
			}
		}
	}
	return out
}

// pluginProcesses are the processes that live in the tests' PID namespace, but
// for the tests.
func pluginProcesses(t testing.TB) (out []string) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, stat := range stats {
		data, err := os.ReadFile(stat)
		if err != nil || strings.HasPrefix(string(data), "1 (") {
			continue
		}
		if !strings.Contains(string(data), ") Z ") { // orphans come to the tests, which do not reap
			out = append(out, strings.TrimSpace(string(data)))
		}
	}
	return out
}

// inNamespace runs f on a thread in the namespace. f must not call t.FailNow.
func inNamespace(t testing.TB, path string, f func() error) {
	t.Helper()
	require.NoError(t, onThrowawayThread(func() error {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	}))
}

// serve echoes on a TCP port of the pod, on all of its addresses.
func serve(t testing.TB, netns string, port int) {
	var listener net.Listener
	inNamespace(t, netns, func() (err error) {
		listener, err = net.Listen("tcp", fmt.Sprintf(":%d", port))
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
			_, _ = fmt.Fprint(conn, "hello "+host)
			_ = conn.Close()
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		wg.Wait()
	})
}

// answer is what the server says to a client in the namespace.
func answer(t testing.TB, netns, address string) string {
	t.Helper()
	var said string
	inNamespace(t, netns, func() error {
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		data := make([]byte, 100)
		count, err := conn.Read(data)
		said = string(data[:count])
		return err
	})
	return said
}

// serveUDP says hello to whoever sends a packet.
func serveUDP(t testing.TB, netns string, port int) {
	var conn net.PacketConn
	inNamespace(t, netns, func() (err error) {
		conn, err = net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		return err
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			_, from, err := conn.ReadFrom(make([]byte, 100))
			if err != nil {
				return
			}
			_, _ = conn.WriteTo([]byte("hello"), from)
		}
	})
	t.Cleanup(func() {
		_ = conn.Close()
		wg.Wait()
	})
}

func answerUDP(t testing.TB, netns, address string) string {
	t.Helper()
	var said string
	inNamespace(t, netns, func() error {
		conn, err := net.DialTimeout("udp", address, 5*time.Second)
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.Write([]byte("?")); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		data := make([]byte, 100)
		count, err := conn.Read(data)
		said = string(data[:count])
		return err
	})
	return said
}

const hostNetNS = "/proc/1/ns/net" // the tests' own

// outside makes a namespace that reaches the node like another machine, at
// 192.168.77.1 and fd77::1.
func outside(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "outside")
	require.NoError(t, NewNamespace(path))
	run := func(args ...string) {
		t.Helper()
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		require.NoError(t, err, "%v: %s", args, out)
	}
	run("ip", "link", "add", "uplink", "type", "veth", "peer", "name", "eth0")
	t.Cleanup(func() {
		_ = exec.Command("ip", "link", "del", "uplink").Run()
		require.NoError(t, RemoveNamespace(path))
	})
	file, err := os.Open(path)
	require.NoError(t, err)
	defer file.Close()
	move := exec.Command("ip", "link", "set", "eth0", "netns", "/proc/self/fd/3")
	move.ExtraFiles = []*os.File{file}
	out, err := move.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for i, ns := range []string{hostNetNS, path} {
		name := []string{"uplink", "eth0"}[i]
		in := []string{"nsenter", "--net=" + ns, "ip"}
		run(append(slices.Clone(in), "addr", "add", fmt.Sprintf("192.168.77.%d/24", i+1), "dev", name)...)
		run(append(slices.Clone(in), "addr", "add", fmt.Sprintf("fd77::%d/64", i+1), "dev", name, "nodad")...)
		run(append(slices.Clone(in), "link", "set", name, "up")...)
	}
	return path
}
