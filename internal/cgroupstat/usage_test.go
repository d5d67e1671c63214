package cgroupstat

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/internal/cgroup"
)

// group makes a group out of files with the given texts.
func group(t *testing.T, unified bool, files map[string]string) *Group {
	t.Helper()
	g := &Group{root: t.TempDir(), path: "/pod/app", unified: unified, files: map[string]*file{}}
	t.Cleanup(g.Close)
	for name, text := range files {
		hierarchy, name := filepath.Split(name)
		dir := filepath.Join(g.root, hierarchy, g.path)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	return g
}

// since takes the time out of a usage, which is of now.
func since(t *testing.T, start time.Time, u Usage) Usage {
	t.Helper()
	require.False(t, u.Time.Before(start))
	u.Time = time.Time{}
	return u
}

func TestUsageOnV1(t *testing.T) {
	g := group(t, false, map[string]string{
		"cpuacct/cpuacct.usage":               "1500000001\n",
		"memory/memory.usage_in_bytes":        "104857600\n",
		"memory/memory.limit_in_bytes":        "209715200\n",
		"memory/memory.memsw.limit_in_bytes":  "314572800\n",
		"memory/memory.stat":                  "cache 1\nrss 2\ntotal_inactive_file 4194304\ntotal_rss 8192\ntotal_swap 4096\ntotal_pgfault 77\ntotal_pgmajfault 3\na new line\n",
		"pids/pids.current":                   "5\n",
		"memory/memory.memsw.usage_in_bytes":  "1\n",
		"memory/memory.soft_limit_in_bytes":   "1\n",
		"memory/memory.kmem.usage_in_bytes":   "1\n",
		"unified-is-not-read/memory.pressure": "nonsense",
	})
	start := time.Now()

	u, err := g.Usage()

	require.NoError(t, err)
	require.Equal(t, Usage{
		CPU: 1500000001,
		Memory: Memory{
			Usage: 104857600, WorkingSet: 100663296, RSS: 8192, Limit: 209715200, PageFaults: 77, MajorPageFaults: 3,
		},
		Swap:  &Swap{Usage: 4096, Limit: 104857600},
		Tasks: 5,
	}, since(t, start, u))
}

func TestUsageOnV2(t *testing.T) {
	g := group(t, true, map[string]string{
		"cpu.stat":            "usage_usec 2500001\nuser_usec 1\nsystem_usec 2\n",
		"memory.current":      "4096\n",
		"memory.max":          "max\n",
		"memory.stat":         "anon 512\nfile 9000\ninactive_file 9000\npgfault 11\npgmajfault 0\n",
		"memory.swap.current": "7\n",
		"memory.swap.max":     "100\n",
		"pids.current":        "2\n",
		"cpu.pressure":        "some avg10=1.50 avg60=0.25 avg300=0.00 total=4000\nfull avg10=0.00 avg60=0.00 avg300=0.01 total=17\n",
		"memory.pressure":     "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
	})
	start := time.Now()

	u, err := g.Usage()

	require.NoError(t, err)
	require.Equal(t, Usage{
		CPU:    2500001 * time.Microsecond,
		Memory: Memory{Usage: 4096, WorkingSet: 0, RSS: 512, Limit: NoLimit, PageFaults: 11},
		Swap:   &Swap{Usage: 7, Limit: 100},
		Tasks:  2,
		CPUPressure: &Pressure{
			Some: Stall{Avg10: 1.5, Avg60: 0.25, TotalMicros: 4000}, Full: Stall{Avg300: 0.01, TotalMicros: 17},
		},
		MemoryPressure: &Pressure{Some: Stall{TotalMicros: 1}},
	}, since(t, start, u), "io.pressure is not there: it is nil")
}

func TestWhatTheKernelDoesNotCountIsLeftOut(t *testing.T) {
	for name, g := range map[string]*Group{
		"v1 without swap": group(t, false, map[string]string{
			"cpuacct/cpuacct.usage": "1\n", "memory/memory.usage_in_bytes": "1\n",
			"memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.stat": "total_rss 1\n",
		}),
		"v2 without swap": group(t, true, map[string]string{
			"cpu.stat": "usage_usec 1\n", "memory.current": "1\n", "memory.max": "max\n", "memory.stat": "anon 1\n",
		}),
	} {
		u, err := g.Usage()
		require.NoError(t, err, name)
		require.Nil(t, u.Swap, name)
		require.Equal(t, uint64(NoLimit), u.Memory.Limit, name)
		require.Zero(t, u.Tasks, name)
	}
}

func TestAFileThatIsNoNumberIsAnErrorThatNamesIt(t *testing.T) {
	g := group(t, true, map[string]string{"cpu.stat": "usage_usec 1\n", "memory.current": "many\n"})
	_, err := g.Usage()
	require.ErrorContains(t, err, "read cgroup /pod/app: memory.current")

	g = group(t, true, map[string]string{"cpu.stat": "usage_usec 1\n", "cpu.pressure": "some avg10=x\n"})
	_, err = g.Usage()
	require.ErrorContains(t, err, "read cgroup /pod/app: cpu.pressure")
}

func TestAFileLongerThanTheBufferIsReadWhole(t *testing.T) {
	long := make([]byte, 40<<10)
	for i := range long {
		long[i] = '\n'
	}
	g := group(t, true, map[string]string{"cpu.stat": string(long) + "usage_usec 3\n"})

	used, _, err := g.CPU()

	require.NoError(t, err)
	require.Equal(t, 3*time.Microsecond, used)
}

func TestAGroupThatIsClosedOpensNothing(t *testing.T) {
	g := group(t, true, map[string]string{"cpu.stat": "usage_usec 3\n"})
	_, _, err := g.CPU()
	require.NoError(t, err)
	require.Len(t, g.files, 1)

	g.Close()

	_, _, err = g.CPU()
	require.ErrorIs(t, err, unix.ENODEV)
	require.Empty(t, g.files)
	g.Close()
}

// The kernel's own files, of a process that works and sleeps.
func TestAGroupOfThisHost(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("cgroups take root")
	}
	const parent = "/rktt-cgroupstat"
	path := filepath.Join(parent, strconv.Itoa(os.Getpid()))
	remove := func(path string) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		require.NoError(t, cgroup.Kill(ctx, path))
		require.NoError(t, cgroup.Remove(ctx, path))
	}
	for _, left := range cgroup.Children(parent) { // by runs that were killed
		if pid, err := strconv.Atoi(left); err == nil && errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
			remove(filepath.Join(parent, left))
		}
	}
	t.Cleanup(func() {
		remove(path)
		for _, dir := range cgroup.Dirs(parent) {
			_ = os.Remove(dir) // another run may have its own below
		}
	})
	g := New(path)
	t.Cleanup(g.Close)
	_, err := g.Usage()
	require.ErrorIs(t, err, unix.ENODEV, "it is not made yet")
	require.NoError(t, cgroup.Make(path))
	cmd := exec.Command("/bin/sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo done; exec sleep 1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cgroup.ForkInto(path, cmd.SysProcAttr, cmd.Start))
	_, err = out.Read(make([]byte, 5))
	require.NoError(t, err)

	first, err := g.Usage()
	require.NoError(t, err)
	open := len(g.files)
	second, err := g.Usage()
	require.NoError(t, err)

	require.Positive(t, first.CPU)
	require.GreaterOrEqual(t, second.CPU, first.CPU)
	require.True(t, second.Time.After(first.Time))
	require.Equal(t, uint64(1), second.Tasks)
	require.Positive(t, second.Memory.Usage)
	require.Positive(t, second.Memory.PageFaults)
	require.LessOrEqual(t, second.Memory.WorkingSet, second.Memory.Usage)
	require.Equal(t, uint64(NoLimit), second.Memory.Limit)
	require.Len(t, g.files, open, "each file is opened once")
	d, err := g.Detail()
	require.NoError(t, err)
	require.GreaterOrEqual(t, d.CpuStats.CpuUsage.TotalUsage, uint64(second.CPU))
	require.Positive(t, d.MemoryStats.Usage.Usage)
	require.Equal(t, uint64(1), d.Processes)
	require.GreaterOrEqual(t, d.Descriptors, uint64(3))
	require.Equal(t, uint64(1024), d.CPUShares, "what the kernel begins with")
	require.Positive(t, d.CPUPeriod)
	require.Zero(t, d.CPUQuota)
	require.Zero(t, d.OOMKills)

	remove(path)
	_ = cmd.Wait() // killed
	_, err = g.Usage()
	require.ErrorIs(t, err, unix.ENODEV, "it is gone")
	_, err = g.Detail()
	require.ErrorIs(t, err, unix.ENODEV)
}

func BenchmarkUsage(b *testing.B) {
	path, err := cgroup.Of(os.Getpid())
	if err != nil {
		b.Fatal(err)
	}
	g := New(path)
	defer g.Close()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := g.Usage(); err != nil {
			b.Fatal(err)
		}
	}
}
