// Package nspawn lets systemd-nspawn hold a pod's namespaces, with an init of ours
// as their pid 1, started as lean as it can be: no machined, no seccomp filter of
// its own (apps have theirs), no image, no settings files, nothing on the host that
// outlives the pod. It works with and without systemd as the host's init.
package nspawn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
	"github.com/rktnetes/rktshim/internal/namespace"
	"github.com/rktnetes/rktshim/internal/reap"
	"github.com/rktnetes/rktshim/stage1"
)

// binary is looked up in the usual folders.
const binary = "systemd-nspawn"

// Isolator is the flavor "nspawn".
type Isolator struct{}

// Check finds a node fit that has systemd-nspawn.
func (Isolator) Check() error {
	_, err := find()
	return err
}

func find() (string, error) {
	for _, dir := range []string{"/usr/bin", "/bin", "/usr/local/bin"} {
		path := filepath.Join(dir, binary)
		if unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("%s is not installed: install it (on Debian: systemd-container), or run pods without it by --rkt-stage1-image=coreos.com/rkt/stage1-lean: %w",
		binary, errdefs.ErrFailedPrecondition)
}

// Boot implements stage1.Isolator.
func (Isolator) Boot(ctx context.Context, spec stage1.Spec, host stage1.Host) (_ stage1.Instance, err error) {
	if err := spec.Validate(); err != nil {
		return nil, err
	}
	path, err := find()
	if err != nil {
		return nil, err
	}
	i := &instance{spec: spec, files: map[stage1.Kind]*os.File{}, leader: -1, done: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.Stop(context.WithoutCancel(ctx)))
		}
	}()
	if err := os.MkdirAll(filepath.Join(rootOf(spec), "usr"), 0o700); err != nil { // without /usr nspawn sees no OS
		return nil, err
	}
	if err := spec.MountShm(); err != nil {
		return nil, err
	}
	pid, err := i.start(ctx, path, host)
	if err != nil {
		return nil, err
	}
	if err := i.open(pid); err != nil {
		return nil, err
	}
	err = namespace.In([]*os.File{i.files[stage1.Network], i.ipc, i.uts}, spec.SetupInside)
	return i, err
}

// Sweep implements stage1.Isolator. systemd-nspawn removes its traces itself unless
// it is killed.
func (Isolator) Sweep(spec stage1.Spec) error {
	return errors.Join(
		spec.UnmountShm(),
		remove(filepath.Join(runDir, "propagate", machine(spec))),
		remove(filepath.Join(runDir, "unix-export", machine(spec))),
		os.RemoveAll(rootOf(spec)))
}

// runDir is where systemd-nspawn keeps what it shares with its containers.
const runDir = "/run/systemd/nspawn"

func rootOf(spec stage1.Spec) string { return filepath.Join(spec.Dir, "root") }

func machine(spec stage1.Spec) string { return "rkt-" + spec.ID }

// remove removes a file or an empty folder, if it exists.
func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

type instance struct {
	spec     stage1.Spec
	files    map[stage1.Kind]*os.File // what apps join; fixed after Boot
	ipc, uts *os.File                 // the container's own, joined or not
	proc     *reap.Process            // systemd-nspawn itself
	pid      int                      // of the init, on the host
	leader   int                      // pidfd of the init
	stderr   *os.File                 // what systemd-nspawn complained of
	life     *os.File                 // while it is open, in this process only, the init lives
	done     chan struct{}

	mu      sync.Mutex // held while stopping
	stopped bool
}

// start runs systemd-nspawn and returns the pid of its init, which the kernel tells
// us with the message that the init sends once it runs.
func (i *instance) start(ctx context.Context, path string, host stage1.Host) (pid int, err error) {
	ours, theirs, err := credentialPair()
	if err != nil {
		return 0, err
	}
	defer ours.Close()
	defer theirs.Close()
	fd, err := unix.MemfdCreate("nspawn-stderr", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("make a file in memory: %w", err)
	}
	i.stderr = os.NewFile(uintptr(fd), "nspawn-stderr")
	stdin, life, err := os.Pipe()
	if err != nil {
		return 0, fmt.Errorf("make a pipe: %w", err)
	}
	defer stdin.Close()
	i.life = life
	_ = stdin.Fd() // sets blocking mode
	cmd := reap.Command{
		Path:  path,
		Args:  arguments(i.spec, host.Init),
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "SYSTEMD_SECCOMP=0", "SYSTEMD_NSPAWN_LOCK=0", "SYSTEMD_LOG_TARGET=console"},
		Files: []*os.File{stdin, theirs, i.stderr},
		Sys:   &syscall.SysProcAttr{},
	}
	start := func() (err error) {
		i.proc, err = host.Reaper.Start(cmd)
		return err
	}
	if i.spec.Cgroup == "" {
		err = start()
	} else {
		err = cgroup.ForkInto(i.spec.Cgroup, cmd.Sys, start)
	}
	if err != nil {
		return 0, err
	}
	go func() { // ends with the process, which Stop waits for
		<-i.proc.Done()
		close(i.done)
	}()
	theirs.Close()
	stop := context.AfterFunc(ctx, func() { _ = ours.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	pid, err = receivePID(ours)
	if err == nil {
		return pid, nil
	}
	return 0, fmt.Errorf("start %s: %w%s", binary, err, i.complaint())
}

func arguments(spec stage1.Spec, initCommand []string) []string {
	args := []string{
		binary, "--quiet", "--register=no", "--keep-unit", "--settings=no",
		"--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=pipe",
		"--directory=" + rootOf(spec), "--machine=" + machine(spec),
		"--bind-ro=" + initCommand[0] + ":/init",
	}
	if spec.Network != "" {
		args = append(args, "--network-namespace-path="+spec.Network)
	}
	if spec.Hostname != "" {
		args = append(args, "--hostname="+spec.Hostname)
	}
	return append(append(args, "/init"), initCommand[1:]...)
}

// complaint returns what systemd-nspawn wrote to stderr, for an error.
func (i *instance) complaint() string {
	buf := make([]byte, 2048)
	n, _ := i.stderr.ReadAt(buf, 0)
	if n == 0 {
		return ""
	}
	return ": " + string(buf[:n])
}

// credentialPair returns a socket pair whose first end is told by the kernel who
// has written to the second.
func credentialPair() (ours, theirs *os.File, err error) {
	p, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	err = unix.SetsockoptInt(p[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		err = unix.SetNonblock(p[0], true)
	}
	if err != nil {
		unix.Close(p[0])
		unix.Close(p[1])
		return nil, nil, fmt.Errorf("make a socket pair: %w", err)
	}
	return os.NewFile(uintptr(p[0]), "init's message"), os.NewFile(uintptr(p[1]), "init's stdout"), nil
}

// receivePID waits for one message and returns who sent it.
func receivePID(f *os.File) (pid int, err error) {
	conn, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var rerr error
	err = conn.Read(func(fd uintptr) bool {
		pid, rerr = recvCredentials(int(fd))
		return !errors.Is(rerr, unix.EAGAIN)
	})
	if err != nil {
		return 0, fmt.Errorf("its init did not come up in time: %w", err)
	}
	return pid, rerr
}

func recvCredentials(fd int) (pid int, err error) {
	var buf [8]byte
	var oob [128]byte
	n, oobn, _, _, err := unix.Recvmsg(fd, buf[:], oob[:], unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if n == 0 || err != nil || len(msgs) == 0 {
		return 0, errors.New("it ended before its init came up")
	}
	cred, err := unix.ParseUnixCredentials(&msgs[0])
	if err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// open pins the init and the container's namespaces. The pidfd is checked to be
// alive after the namespaces were opened, so that they are the init's.
func (i *instance) open(pid int) (err error) {
	if i.leader, err = unix.PidfdOpen(pid, 0); err != nil {
		return fmt.Errorf("open the pod's init: %w", err)
	}
	i.pid = pid
	get := func(name string, flag int) *os.File {
		if err != nil {
			return nil
		}
		var f *os.File
		f, err = namespace.Open(fmt.Sprintf("/proc/%d/ns/%s", pid, name), flag)
		return f
	}
	i.ipc, i.uts = get("ipc", unix.CLONE_NEWIPC), get("uts", unix.CLONE_NEWUTS)
	if i.spec.Network != "" {
		i.files[stage1.Network] = get("net", unix.CLONE_NEWNET)
	}
	if i.spec.SharedPID {
		i.files[stage1.PID] = get("pid", unix.CLONE_NEWPID)
	}
	if err == nil {
		err = unix.PidfdSendSignal(i.leader, 0, nil, 0)
	}
	if err != nil {
		return fmt.Errorf("open the pod's namespaces: %w%s", err, i.complaint())
	}
	if i.spec.OwnIPC {
		i.files[stage1.IPC] = i.ipc
	}
	if i.spec.OwnUTS {
		i.files[stage1.UTS] = i.uts
	}
	return nil
}

// Namespace implements stage1.Instance.
func (i *instance) Namespace(kind stage1.Kind) *os.File { return i.files[kind] }

// Done implements stage1.Instance.
func (i *instance) Done() <-chan struct{} { return i.done }

// InitPID implements stage1.InitHolder.
func (i *instance) InitPID() int {
	select {
	case <-i.done:
		return 0
	default:
		return i.pid
	}
}

// politeTime is what systemd-nspawn gets to clean up after its init has ended, and
// setupTime to set up what it was stopped from, and to clean that up.
const (
	politeTime = 3 * time.Second
	setupTime  = 20 * time.Second
)

// Stop implements stage1.Instance.
func (i *instance) Stop(ctx context.Context) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.stopped {
		return nil
	}
	if i.proc != nil {
		if err := i.end(ctx); err != nil {
			return err
		}
	}
	if err := (Isolator{}).Sweep(i.spec); err != nil {
		return err
	}
	namespace.Close(i.ipc, i.uts, i.files[stage1.Network], i.files[stage1.PID], i.stderr, i.life)
	if i.leader >= 0 {
		unix.Close(i.leader)
	}
	i.stopped = true
	return nil
}

// end ends the init, upon which systemd-nspawn ends by itself. It is killed only if it
// does not: half way through its setup it has mounts outside of the pod's namespaces,
// which nobody else knows of.
func (i *instance) end(ctx context.Context) error {
	patience := setupTime
	if i.leader >= 0 {
		patience = politeTime
		_ = unix.PidfdSendSignal(i.leader, unix.SIGKILL, nil, 0) // it may have ended
	}
	namespace.Close(i.life) // an init that is not up yet ends when it is
	i.life = nil
	polite, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := i.proc.Wait(polite); err == nil {
		return nil
	}
	_ = i.proc.Signal(unix.SIGKILL) // it may have ended
	if _, err := i.proc.Wait(ctx); err != nil {
		return fmt.Errorf("stop %s: %w", binary, err)
	}
	return nil
}
