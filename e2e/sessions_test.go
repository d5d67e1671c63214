package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	//lint:ignore SA1019 client-go gives connections of this package
	"k8s.io/apimachinery/pkg/util/httpstream"
	restclient "k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	utilexec "k8s.io/client-go/util/exec"
)

// sessionTime is how long a session may take on a busy machine.
const sessionTime = 3 * time.Minute

// sessionNode is a machine whose kubelet's own API is used as the API server does.
type sessionNode struct {
	*podNode
	agent *exec.Cmd // the running kubelet
	addr  string    // the API, by a relay that leads into the machine

	idle gauges // of the kubelet before the first session

	mu    sync.Mutex
	conns map[*net.TCPConn]bool // guarded by mu; the relay's, to the kubelet
}

func newSessionNode(t *testing.T) *sessionNode {
	t.Helper()
	n := &sessionNode{podNode: newPodNode(t, "lean"), conns: map[*net.TCPConn]bool{}}
	file := filepath.Join(n.logDir(), "kubelet.yaml")
	config, err := os.ReadFile(file)
	require.NoError(t, err)
	open := bytes.Replace(config, []byte("anonymous: {enabled: false}"), []byte("anonymous: {enabled: true}"), 1)
	require.NotEqual(t, config, open)
	require.NoError(t, os.WriteFile(file, open, 0o600))
	n.relay()
	n.agent = n.kubelet()
	return n
}

// relay lets clients, which dial from here, reach the kubelet.
func (n *sessionNode) relay() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(n.t, err)
	n.addr = l.Addr().String()
	var all sync.WaitGroup
	all.Go(func() {
		for {
			here, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { n.relayOne(here.(*net.TCPConn)) })
		}
	})
	n.t.Cleanup(func() {
		l.Close()
		n.eachConn(func(c *net.TCPConn) { c.Close() })
		all.Wait()
	})
}

func (n *sessionNode) relayOne(here *net.TCPConn) {
	defer here.Close()
	c, err := n.dial(context.Background(), "tcp", nodeAddress+":10250")
	if err != nil {
		return
	}
	there := c.(*net.TCPConn)
	defer there.Close()
	n.mu.Lock()
	n.conns[there] = true
	n.mu.Unlock()
	defer func() {
		n.mu.Lock()
		delete(n.conns, there)
		n.mu.Unlock()
	}()
	done := make(chan struct{}, 2)
	for _, way := range [][2]*net.TCPConn{{here, there}, {there, here}} {
		go func() {
			_, _ = io.Copy(way[0], way[1])
			done <- struct{}{}
		}()
	}
	<-done
	here.Close()
	there.Close()
	<-done
}

func (n *sessionNode) eachConn(f func(*net.TCPConn)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		f(c)
	}
}

// vanish takes all clients away as a power cut would: without a FIN.
func (n *sessionNode) vanish() {
	n.eachConn(func(c *net.TCPConn) {
		raw, err := c.SyscallConn()
		require.NoError(n.t, err)
		require.NoError(n.t, raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_REPAIR, 1)
		}))
		require.NoError(n.t, err)
		c.Close()
	})
}

func (n *sessionNode) config() *restclient.Config {
	return &restclient.Config{Host: "https://" + n.addr, TLSClientConfig: restclient.TLSClientConfig{Insecure: true}}
}

// url is one of the kubelet's API: verb "exec", "attach" or "portForward".
func (n *sessionNode) url(verb, pod, container string, query url.Values) *url.URL {
	u := &url.URL{Scheme: "https", Host: n.addr, Path: "/" + verb + "/default/" + pod, RawQuery: query.Encode()}
	if container != "" {
		u.Path += "/" + container
	}
	return u
}

// protocols are those of kubectl, today's and that of old ones.
var protocols = []string{"websocket", "spdy"}

// stream runs an exec, or an attach if there is no command, to its end.
func (n *sessionNode) stream(ctx context.Context, protocol, pod string, cmd []string, opts remotecommand.StreamOptions) error {
	q := url.Values{"command": cmd}
	for param, on := range map[string]bool{"input": opts.Stdin != nil, "output": opts.Stdout != nil, "error": opts.Stderr != nil && !opts.Tty, "tty": opts.Tty} {
		if on {
			q.Set(param, "1")
		}
	}
	verb := "exec"
	if len(cmd) == 0 {
		verb = "attach"
	}
	u := n.url(verb, pod, "main", q)
	var e remotecommand.Executor
	var err error
	if protocol == "spdy" {
		e, err = remotecommand.NewSPDYExecutor(n.config(), http.MethodPost, u)
	} else {
		e, err = remotecommand.NewWebSocketExecutor(n.config(), http.MethodGet, u.String())
	}
	if err != nil {
		return err
	}
	return e.StreamWithContext(ctx, opts)
}

// codeOf turns the error of an exec into its exit code.
func codeOf(err error) (int, error) {
	var exit utilexec.CodeExitError
	if errors.As(err, &exit) {
		return exit.Code, nil
	}
	return 0, err
}

func (n *sessionNode) sh(ctx context.Context, protocol, pod, script string) (out string, code int, err error) {
	var stdout, stderr lockedBuffer
	err = n.stream(ctx, protocol, pod, []string{"/bin/busybox", "sh", "-c", script}, remotecommand.StreamOptions{Stdout: &stdout, Stderr: &stderr})
	code, err = codeOf(err)
	return stdout.String(), code, err
}

// start applies a pod with one container, main, and returns its full name.
func (n *sessionNode) start(name, script string, more ...string) string {
	n.t.Helper()
	n.applyPod(name, script, more...)
	return n.waitPod(name, running).Metadata.Name
}

func (n *sessionNode) applyPod(name, script string, more ...string) {
	n.t.Helper()
	n.apply(name, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: %s/busybox:1
    command: ["/bin/busybox", "sh", "-c", %q]
    %s
`, name, registryAddr, script, strings.Join(more, "\n    ")))
}

// pidsOf are the processes on the machine with text among their arguments.
func pidsOf(text string) (pids []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		b, _ := os.ReadFile(f) // nothing, if it has ended
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil && bytes.Contains(b, []byte(text)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func lives(text string) bool { return len(pidsOf(text)) > 0 }

// sleeper is a command that can be found: nobody else sleeps for as long.
func sleeper(n int) string { return fmt.Sprintf("77%d.%d", os.Getpid(), n) }

func (n *sessionNode) waitFor(what string, cond func() bool) {
	n.t.Helper()
	require.Eventually(n.t, cond, sessionTime, 20*time.Millisecond, what)
}

func (n *sessionNode) within() context.Context {
	ctx, cancel := context.WithTimeout(n.t.Context(), sessionTime)
	n.t.Cleanup(cancel)
	return ctx
}

// rss is the kubelet's resident memory in bytes.
func (n *sessionNode) rss() int {
	n.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", n.agent.Process.Pid))
	require.NoError(n.t, err)
	pages, err := strconv.Atoi(strings.Fields(string(b))[1])
	require.NoError(n.t, err)
	return pages * os.Getpagesize()
}

// Sessions by the kubelet's own API, as the API server and kubectl use it.
func TestSessions(t *testing.T) {
	t.Parallel()
	n := newSessionNode(t)
	pod := n.start("shell", "echo started; exec busybox sleep 1000000")
	n.idle = n.gauges()
	// Parts of one node, one after the other.
	for _, part := range []struct {
		name string
		run  func(t *testing.T, n *sessionNode, pod string)
	}{
		{"port-forward", portForwards},
		{"exit codes", exitCodes},
		{"stdin", stdinCloses},
		{"terminal", terminals},
		{"bulk", bulk},
		{"logs", logs},
		{"200 execs", manyExecs},
		{"attach", attaches},
		{"client leaves", clientLeaves},
		{"supervisor killed", supervisorKilled},
		{"nothing left", nothingLeft},
		{"kubelet killed", kubeletKilled},
	} {
		ok := t.Run(part.name, func(t *testing.T) {
			outer := n.t
			n.t = t
			defer func() { n.t = outer }()
			part.run(t, n, pod)
		})
		require.True(t, ok, part.name)
	}
}

func exitCodes(t *testing.T, n *sessionNode, pod string) {
	for _, protocol := range protocols {
		for _, want := range []int{0, 1, 126, 137, 255} {
			out, code, err := n.sh(n.within(), protocol, pod, fmt.Sprintf("echo out; exit %d", want))
			require.NoError(t, err)
			require.Equal(t, want, code)
			require.Equal(t, "out\n", out)
			var screen lockedBuffer
			code, err = codeOf(n.stream(n.within(), protocol, pod, []string{"/bin/busybox", "sh", "-c", fmt.Sprintf("tty; exit %d", want)},
				remotecommand.StreamOptions{Stdout: &screen, Tty: true}))
			require.NoError(t, err)
			require.Equal(t, want, code, "on a terminal")
			require.Contains(t, screen.String(), "/dev/pts/")
		}
		err := n.stream(n.within(), protocol, pod, []string{"/no/such/command"}, remotecommand.StreamOptions{Stdout: io.Discard})
		require.ErrorContains(t, err, "/no/such/command")
	}
}

func stdinCloses(t *testing.T, n *sessionNode, pod string) {
	for _, protocol := range protocols {
		var stdout lockedBuffer
		code, err := codeOf(n.stream(n.within(), protocol, pod, []string{"/bin/busybox", "sh", "-c", "busybox cat; echo end; exit 3"},
			remotecommand.StreamOptions{Stdin: strings.NewReader("input\n"), Stdout: &stdout, Stderr: io.Discard}))
		require.NoError(t, err)
		require.Equal(t, 3, code)
		require.Equal(t, "input\nend\n", stdout.String())
	}
}

// sizes is a queue of terminal sizes that ends.
type sizes chan remotecommand.TerminalSize

func (q sizes) Next() *remotecommand.TerminalSize {
	size, ok := <-q
	if !ok {
		return nil
	}
	return &size
}

func terminals(t *testing.T, n *sessionNode, pod string) {
	for _, protocol := range protocols {
		queue := make(sizes, 1)
		queue <- remotecommand.TerminalSize{Width: 133, Height: 37}
		in, keys := io.Pipe()
		go func() { _, _ = io.WriteString(keys, "word\n") }() // stdin stays open
		var screen lockedBuffer
		code, err := codeOf(n.stream(n.within(), protocol, pod, []string{"/bin/busybox", "sh", "-c",
			"while [ \"$(busybox stty size)\" != '37 133' ]; do busybox sleep 0.05; done; read line; echo got $line; exit 8"},
			remotecommand.StreamOptions{Stdin: in, Stdout: &screen, Tty: true, TerminalSizeQueue: queue}))
		in.Close()
		close(queue)
		require.NoError(t, err)
		require.Equal(t, 8, code)
		require.Contains(t, screen.String(), "got word\r\n")
	}
}

// bulk sends a lot through cat, both ways at once. SESSION_BULK_MB=1024 makes it a
// gigabyte.
func bulk(t *testing.T, n *sessionNode, pod string) {
	size := int64(128)
	if s, err := strconv.Atoi(os.Getenv("SESSION_BULK_MB")); err == nil {
		size = int64(s)
	}
	size <<= 20
	for _, protocol := range protocols {
		sent, got := sha256.New(), sha256.New()
		before, peak, seen := n.rss(), 0, int64(0)
		sink := writerFunc(func(b []byte) (int, error) {
			if seen>>22 != (seen+int64(len(b)))>>22 {
				peak = max(peak, n.rss())
			}
			seen += int64(len(b))
			return got.Write(b)
		})
		begin := time.Now()
		code, err := codeOf(n.stream(n.within(), protocol, pod, []string{"/bin/busybox", "cat"}, remotecommand.StreamOptions{
			Stdin:  io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sent),
			Stdout: sink, Stderr: io.Discard,
		}))
		require.NoError(t, err)
		require.Zero(t, code)
		require.Equal(t, size, seen)
		require.Equal(t, sent.Sum(nil), got.Sum(nil), "harmed")
		t.Logf("%s: %d MB in %v, kubelet %d MB before, %d at most", protocol, size>>20, time.Since(begin), before>>20, peak>>20)
		require.Less(t, peak-before, 80<<20, "the kubelet's memory is flat")
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

func logs(t *testing.T, n *sessionNode, pod string) {
	require.Equal(t, "started\n", n.fetch("/containerLogs/default/"+pod+"/main"))
}

// fetch gets a page of the kubelet's API.
func (n *sessionNode) fetch(path string) string {
	n.t.Helper()
	client := &http.Client{Timeout: sessionTime, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	resp, err := client.Get("https://" + n.addr + path)
	require.NoError(n.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	require.NoError(n.t, err)
	require.Equal(n.t, http.StatusOK, resp.StatusCode, "%s", text)
	return string(text)
}

func manyExecs(t *testing.T, n *sessionNode, pod string) {
	const count = 200
	ended := make(chan error, count)
	ctx := n.within()
	for i := range count {
		go func() {
			out, code, err := n.sh(ctx, protocols[i%2], pod, fmt.Sprintf("echo %d; exit %d", i, i))
			if err == nil && (code != i || out != fmt.Sprintf("%d\n", i)) {
				err = fmt.Errorf("exec %d: exit code %d, output %q", i, code, out)
			}
			ended <- err
		}()
	}
	for range count {
		require.NoError(t, <-ended)
	}
}

// forward opens a port-forward as kubectl does and returns its local address.
func (n *sessionNode) forward(protocol, pod string, port int) string {
	n.t.Helper()
	u := n.url("portForward", pod, "", nil)
	var dialer httpstream.Dialer
	if protocol == "spdy" {
		transport, upgrader, err := spdy.RoundTripperFor(n.config())
		require.NoError(n.t, err)
		dialer = spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, u)
	} else {
		var err error
		dialer, err = portforward.NewSPDYOverWebsocketDialer(u, n.config())
		require.NoError(n.t, err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	var said lockedBuffer
	f, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, []string{fmt.Sprintf("0:%d", port)}, stop, ready, io.Discard, &said)
	require.NoError(n.t, err)
	ended := make(chan error, 1)
	go func() { ended <- f.ForwardPorts() }()
	t := n.t
	t.Cleanup(func() {
		close(stop)
		require.NoError(t, <-ended)
		if t.Failed() {
			t.Logf("%s to port %d: %s", protocol, port, said.String())
		}
	})
	select {
	case <-ready:
	case err := <-ended:
		require.NoError(n.t, err)
	case <-time.After(sessionTime):
		require.FailNow(n.t, "no port-forward")
	}
	ports, err := f.GetPorts()
	require.NoError(n.t, err)
	return fmt.Sprintf("127.0.0.1:%d", ports[0].Local)
}

func portForwards(t *testing.T, n *sessionNode, _ string) {
	mark := sleeper(30)
	pod := n.start("echo", "exec busybox sleep "+mark)
	ports := n.echoIn(mark, "127.0.0.1", "::1")
	const streams, size = 50, 256 << 10
	var addrs []string
	for _, protocol := range protocols {
		for _, port := range ports {
			addrs = append(addrs, n.forward(protocol, pod, port))
		}
	}
	ended := make(chan error, streams)
	for i := range streams {
		go func() { ended <- echoes(addrs[i%len(addrs)], size) }()
	}
	for range streams {
		require.NoError(t, <-ended)
	}
}

// echoIn serves an echo on each address in the network of the pod in which a
// process has mark among its arguments, and returns the ports.
func (n *sessionNode) echoIn(mark string, addrs ...string) (ports []int) {
	n.t.Helper()
	pids := pidsOf(mark)
	require.Len(n.t, pids, 1)
	inside := &process{Cmd: &exec.Cmd{Process: &os.Process{Pid: pids[0]}}}
	var all sync.WaitGroup
	n.t.Cleanup(all.Wait)
	for _, addr := range addrs {
		var l net.Listener
		var err error
		require.NoError(n.t, inside.inNetwork(func() { l, err = net.Listen("tcp", net.JoinHostPort(addr, "0")) }))
		require.NoError(n.t, err)
		n.t.Cleanup(func() { l.Close() })
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
		all.Go(func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				all.Go(func() {
					defer c.Close()
					_, _ = io.Copy(c, c)
				})
			}
		})
	}
	return ports
}

// echoes sends size bytes to an echo and wants them back.
func echoes(addr string, size int) error {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(sessionTime)); err != nil {
		return err
	}
	sent := make([]byte, size)
	for i := range sent {
		sent[i] = byte(rand.Uint32())
	}
	go func() { _, _ = c.Write(sent) }()
	got := make([]byte, size)
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(sent, got) {
		return errors.New("the echo is harmed")
	}
	return nil
}

// attachment is a client that is attached until the test cancels it.
type attachment struct {
	keys   *io.PipeWriter
	screen lockedBuffer
	ended  chan error
	leave  context.CancelFunc
}

func (n *sessionNode) attach(protocol, pod string) *attachment {
	ctx, leave := context.WithCancel(n.within())
	in, keys := io.Pipe()
	a := &attachment{keys: keys, ended: make(chan error, 1), leave: leave}
	go func() {
		a.ended <- n.stream(ctx, protocol, pod, nil, remotecommand.StreamOptions{Stdin: in, Stdout: &a.screen, Stderr: io.Discard})
		in.Close()
	}()
	return a
}

const answering = "while read line; do echo got $line; done; busybox sleep 1000000"

func attaches(t *testing.T, n *sessionNode, _ string) {
	const pods = 20
	for i := range pods {
		n.applyPod(fmt.Sprintf("attach%02d", i), answering, "stdin: true")
	}
	before := n.rss()
	var all []*attachment
	for i := range pods {
		pod := n.waitPod(fmt.Sprintf("attach%02d", i), running)
		a := n.attach(protocols[i%2], pod.Metadata.Name)
		all = append(all, a)
		_, err := fmt.Fprintf(a.keys, "line %d\n", i)
		require.NoError(t, err)
	}
	for i, a := range all {
		n.waitFor("an answer", func() bool { return a.screen.String() == fmt.Sprintf("got line %d\n", i) })
	}
	t.Logf("kubelet %d MB before the pods, %d with %d attached", before>>20, n.rss()>>20, pods)
	for i, a := range all {
		a.leave()
		require.Error(t, <-a.ended)
		if i > 0 { // the first one is needed again
			n.withdraw(fmt.Sprintf("attach%02d", i))
		}
	}
}

func clientLeaves(t *testing.T, n *sessionNode, pod string) {
	for i, how := range []string{"leaves", "vanishes"} {
		mark := sleeper(i)
		for _, tty := range []bool{false, true} {
			ctx, leave := context.WithCancel(n.within())
			ended := make(chan error, 1)
			go func() {
				ended <- n.stream(ctx, protocols[i], pod, []string{"/bin/busybox", "sh", "-c", "busybox sleep " + mark + " & busybox sleep " + mark},
					remotecommand.StreamOptions{Stdout: io.Discard, Tty: tty})
			}()
			n.waitFor("the process", func() bool { return lives(mark) })
			if how == "leaves" {
				leave()
			} else {
				n.vanish()
			}
			n.waitFor("the end of what a client has left that "+how, func() bool { return !lives(mark) })
			leave()
			<-ended // whatever the client makes of it
		}
	}
	_, code, err := n.sh(n.within(), "spdy", pod, "exit 4")
	require.NoError(t, err)
	require.Equal(t, 4, code, "the pod has not noticed")
}

func supervisorKilled(t *testing.T, n *sessionNode, _ string) {
	for i, protocol := range protocols {
		name := fmt.Sprintf("victim%d", i)
		before := n.supervisors()
		pod := n.start(name, "exec busybox sleep 1000000")
		mark := sleeper(10 + i)
		ended := make(chan error, 1)
		go func() {
			ended <- n.stream(n.within(), protocol, pod, []string{"/bin/busybox", "sleep", mark}, remotecommand.StreamOptions{Stdout: io.Discard})
		}()
		n.waitFor("the process", func() bool { return lives(mark) })
		killed := 0
		for id, pid := range n.supervisors() {
			if before[id] == 0 {
				require.NoError(t, unix.Kill(pid, unix.SIGKILL))
				killed++
			}
		}
		require.Equal(t, 1, killed)
		require.ErrorContains(t, <-ended, "supervisor", "a clean error, and no exit code")
		n.waitFor("the end of the exec", func() bool { return !lives(mark) })
		n.withdraw(name)
	}
}

// gauges are what leaks show in.
type gauges struct{ goroutines, files float64 }

// gauges asks the kubelet's own metrics.
func (n *sessionNode) gauges() (g gauges) {
	n.t.Helper()
	for line := range strings.Lines(n.fetch("/metrics")) {
		for name, to := range map[string]*float64{"go_goroutines ": &g.goroutines, "process_open_fds ": &g.files} {
			if v, ok := strings.CutPrefix(line, name); ok {
				var err error
				*to, err = strconv.ParseFloat(strings.TrimSpace(v), 64)
				require.NoError(n.t, err)
			}
		}
	}
	require.NotZero(n.t, g.goroutines)
	require.NotZero(n.t, g.files)
	return g
}

// nothingLeft: the hundreds of sessions before have left no goroutine and no file. A
// single one that each had left would be seen.
func nothingLeft(t *testing.T, n *sessionNode, _ string) {
	const slack = 60 // of the kubelet's own, for the pods that are there by now
	n.waitFor("the kubelet to be as it was", func() bool {
		g := n.gauges()
		return g.goroutines <= n.idle.goroutines+slack && g.files <= n.idle.files+slack
	})
}

func kubeletKilled(t *testing.T, n *sessionNode, pod string) {
	attached := n.waitPod("attach00", running).Metadata.Name
	mark := sleeper(20)
	ended := make(chan error, 2)
	for _, tty := range []bool{false, true} {
		go func() {
			ended <- n.stream(n.within(), "spdy", pod, []string{"/bin/busybox", "sh", "-c", "busybox sleep " + mark + " & busybox sleep " + mark},
				remotecommand.StreamOptions{Stdout: io.Discard, Tty: tty})
		}()
	}
	n.waitFor("the processes", func() bool { return lives(mark) })
	kill(n.agent)
	n.waitFor("the end of the execs", func() bool { return !lives(mark) })
	for range 2 {
		<-ended // whatever the client makes of a connection that broke
	}
	n.agent = n.kubelet()
	n.waitPod("shell", running)
	_, code, err := n.sh(n.within(), "websocket", pod, "exit 6")
	require.NoError(t, err)
	require.Equal(t, 6, code)
	n.waitPod("attach00", running)
	a := n.attach("websocket", attached)
	defer a.leave()
	_, err = io.WriteString(a.keys, "again\n")
	require.NoError(t, err)
	n.waitFor("an answer", func() bool { return a.screen.String() == "got again\n" })
}
