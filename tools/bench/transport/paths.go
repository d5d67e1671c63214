package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/transport"
)

// A path is one way from a caller to the runtime.
type path struct {
	name   string
	client runtimeapi.RuntimeServiceClient // nil: called directly
	direct *fakeRuntime
	child  *child // set if the runtime is in another process
	close  func()
}

// The paths, in the order of the tables.
const (
	direct   = "direct Go call"
	memory   = "memory (bufconn)"
	sameUnix = "unix socket, one process"
	twoUnix  = "unix socket, two processes"
)

func openPaths(dir string) (paths []*path, err error) {
	defer func() {
		if err != nil {
			closeAll(paths)
		}
	}()
	f := newFakeRuntime()
	paths = append(paths, &path{name: direct, direct: f, close: func() {}})
	for _, in := range []struct {
		name string
		e    *transport.Endpoint
	}{{memory, transport.Memory("bench")}, {sameUnix, transport.Unix(filepath.Join(dir, "one.sock"))}} {
		p, err := serveHere(in.name, in.e, f)
		if err != nil {
			return paths, err
		}
		paths = append(paths, p)
	}
	p, err := serveThere(filepath.Join(dir, "two.sock"))
	if err != nil {
		return paths, err
	}
	return append(paths, p), nil
}

func closeAll(paths []*path) {
	for _, p := range paths {
		p.close()
	}
}

func newServer(f *fakeRuntime) *transport.Server {
	return transport.NewServer(transport.ServerConfig{Grace: time.Second}, func(r grpc.ServiceRegistrar) {
		runtimeapi.RegisterRuntimeServiceServer(r, f)
	})
}

func serveHere(name string, e *transport.Endpoint, f *fakeRuntime) (*path, error) {
	listeners, err := transport.Listen(e)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- newServer(f).Serve(ctx, listeners...) }()
	conn, err := e.Client()
	if err != nil {
		cancel()
		return nil, errors.Join(err, <-served)
	}
	return &path{name: name, client: runtimeapi.NewRuntimeServiceClient(conn), close: func() {
		conn.Close()
		cancel()
		<-served
	}}, nil
}

// child is this program in another process, serving. It answers each line on its
// standard input with the number of its allocations so far.
type child struct {
	cmd    *exec.Cmd
	ask    *os.File
	answer *bufio.Reader
}

// ServeArg makes this program the server of a two-process measurement.
const ServeArg = "serve-transport"

func serveThere(sock string) (*path, error) {
	cmd := exec.Command("/proc/self/exe", ServeArg, sock)
	theirIn, ask, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	answer, theirOut, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirIn, theirOut, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	theirIn.Close()
	theirOut.Close()
	c := &child{cmd: cmd, ask: ask, answer: bufio.NewReader(answer)}
	if _, err := c.answer.ReadString('\n'); err != nil {
		return nil, fmt.Errorf("start the second process: %w", err)
	}
	conn, err := transport.Unix(sock).Client()
	if err != nil {
		return nil, err
	}
	return &path{name: twoUnix, client: runtimeapi.NewRuntimeServiceClient(conn), child: c, close: func() {
		conn.Close()
		ask.Close() // on which it ends
		cmd.Wait()
	}}, nil
}

// Serve is the second process.
func Serve(sock string) error {
	listeners, err := transport.Listen(transport.Unix(sock))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- newServer(newFakeRuntime()).Serve(ctx, listeners...) }()
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Println(mallocs())
	}
	cancel()
	return <-served
}

func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// usage is what a path has used so far, on both sides of it.
type usage struct {
	cpu     time.Duration
	mallocs uint64
}

func (p *path) usage() (usage, error) {
	u := usage{cpu: cpuOf(0), mallocs: mallocs()}
	if p.child == nil {
		return u, nil
	}
	u.cpu += cpuOf(p.child.cmd.Process.Pid)
	if _, err := p.child.ask.WriteString("\n"); err != nil {
		return u, err
	}
	line, err := p.child.answer.ReadString('\n')
	if err != nil {
		return u, err
	}
	var n uint64
	_, err = fmt.Sscan(strings.TrimSpace(line), &n)
	u.mallocs += n
	return u, err
}

// cpuOf reads the CPU clock of a process (0: this one), which counts nanoseconds
// (clock_getcpuclockid(3)).
func cpuOf(pid int) time.Duration {
	clock := int32(unix.CLOCK_PROCESS_CPUTIME_ID)
	if pid != 0 {
		clock = int32(^pid)<<3 | 2
	}
	var ts unix.Timespec
	if err := unix.ClockGettime(clock, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}
