package image

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sample is one pull, measured.
type sample struct {
	// took is until the pull has answered, onDisk until the kernel has written
	// all that it left unwritten.
	took, onDisk time.Duration
	cpu          time.Duration // of all its processes
	agent        int64         // bytes: peak of the agent's memory above its memory before
	others       int64         // bytes: peak of the memory of all other processes together
	written      int64         // bytes that its processes have given the kernel to write
}

// meter measures one pull: of the agent, of what that starts, and of what run starts.
type meter struct {
	agent int
	child atomic.Int64 // the process that run has started; 0 if none
}

// sampleEvery is how often memory is looked at.
const sampleEvery = 10 * time.Millisecond

// run runs a program as part of the pull.
func (m *meter) run(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return err
	}
	m.child.Store(int64(cmd.Process.Pid))
	defer m.child.Store(0)
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w: %s", cmd.Path, err, out.String())
	}
	return nil
}

// measure measures one pull on a node.
func measure(n node, ref string, warm bool) (s sample, err error) {
	m := &meter{agent: n.agent()}
	if !warm {
		if err := m.settle(); err != nil {
			return s, err
		}
	}
	if err := syncDisk(); err != nil {
		return s, err
	}
	idle, err := m.resetPeak()
	if err != nil {
		return s, err
	}
	before, err := m.usage()
	if err != nil {
		return s, err
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { s.others = m.watch(stop) })
	start := time.Now()
	err = n.pull(m, ref)
	s.took = time.Since(start)
	if err == nil {
		err = syncDisk()
	}
	s.onDisk = time.Since(start)
	close(stop)
	wg.Wait()
	if err != nil {
		return s, err
	}
	after, err := m.usage()
	if err != nil {
		return s, err
	}
	s.cpu, s.written = after.cpu-before.cpu, after.written-before.written
	if m.agent != 0 {
		s.agent = max(0, memory(m.agent, "VmHWM:")-idle)
	}
	return s, nil
}

// settle ends what the agent has running.
func (m *meter) settle() error {
	if m.agent == 0 {
		return nil
	}
	for start := time.Now(); ; time.Sleep(sampleEvery) {
		running := tree(m.agent)[1:]
		if len(running) == 0 {
			return nil
		}
		if time.Since(start) > 15*time.Second {
			return errors.New("the agent's children do not end")
		}
		for _, pid := range running {
			if err := unix.Kill(pid, unix.SIGTERM); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("end the agent's child: %w", err)
			}
		}
	}
}

func syncDisk() error {
	f, err := os.Open(scratch)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}

// resetPeak starts the agent's peak anew, and gives its memory now.
func (m *meter) resetPeak() (int64, error) {
	if m.agent == 0 {
		return 0, nil
	}
	if err := os.WriteFile(proc(m.agent, "clear_refs"), []byte("5"), 0); err != nil {
		return 0, fmt.Errorf("reset peak of memory: %w", err)
	}
	return memory(m.agent, "VmRSS:"), nil
}

// watch gives the peak of the memory of all processes but the agent, until stop.
func (m *meter) watch(stop <-chan struct{}) (peak int64) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		var sum int64
		for _, root := range []int{m.agent, int(m.child.Load())} {
			if root == 0 {
				continue
			}
			for _, pid := range tree(root) {
				if pid != m.agent {
					sum += memory(pid, "VmRSS:")
				}
			}
		}
		peak = max(peak, sum)
		select {
		case <-tick.C:
		case <-stop:
			return peak
		}
	}
}

// used is what processes have used so far, with all their children that ended.
type used struct {
	cpu     time.Duration
	written int64
}

// usage adds up this process, to which what run starts falls when it ends, and
// the agent with what it has running.
func (m *meter) usage() (sum used, err error) {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &ru); err != nil {
		return sum, err
	}
	sum.cpu = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	pids := []int{}
	if m.agent != 0 {
		pids = tree(m.agent)
	}
	for _, pid := range pids {
		cpu, err := cpuOf(pid)
		if err != nil {
			continue // ended just now: its parent has it
		}
		sum.cpu += cpu
	}
	for _, pid := range append(pids, os.Getpid()) {
		sum.written += written(pid)
	}
	return sum, nil
}

func proc(pid int, name string) string { return fmt.Sprintf("/proc/%d/%s", pid, name) }

// field reads the number after a key of one of a process's files, 0 if the process is gone.
func field(path, key string) int64 {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	_, rest, ok := strings.Cut("\n"+string(data), "\n"+key)
	fields := strings.Fields(rest)
	if !ok || len(fields) == 0 {
		return 0
	}
	n, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// memory is one of the sizes in a process's status, in bytes.
func memory(pid int, key string) int64 { return field(proc(pid, "status"), key) << 10 }

// written is what a process and its ended children have made dirty, less what
// they deleted before it was written (proc(5)).
func written(pid int) int64 {
	return field(proc(pid, "io"), "write_bytes:") - field(proc(pid, "io"), "cancelled_write_bytes:")
}

// clockTick is the unit of times in /proc/PID/stat, the same on every Linux.
const clockTick = time.Second / 100

// cpuOf is the CPU time of a process and of its ended children.
func cpuOf(pid int) (time.Duration, error) {
	data, err := os.ReadFile(proc(pid, "stat"))
	if err != nil {
		return 0, err
	}
	var sum int64
	rest := string(data[bytes.LastIndexByte(data, ')')+1:])
	for _, text := range strings.Fields(rest)[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return time.Duration(sum) * clockTick, nil
}

// tree is a process and all below it that run.
func tree(pid int) []int {
	pids := []int{pid}
	threads, err := os.ReadDir(proc(pid, "task"))
	if err != nil {
		return pids
	}
	for _, t := range threads {
		data, err := os.ReadFile(proc(pid, "task/"+t.Name()+"/children"))
		if err != nil {
			continue
		}
		for _, text := range strings.Fields(string(data)) {
			if child, err := strconv.Atoi(text); err == nil {
				pids = append(pids, tree(child)...)
			}
		}
	}
	return pids
}
