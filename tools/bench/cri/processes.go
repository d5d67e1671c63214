package cri

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// memory is what a process has, in bytes.
type memory struct{ rss, pss, private float64 }

func (m memory) plus(o memory) memory {
	return memory{m.rss + o.rss, m.pss + o.pss, m.private + o.private}
}

// memoryOf reads what the kernel has added up; a process that is gone has none.
func memoryOf(pid int) (m memory) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return m
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 {
			continue
		}
		kb, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "Rss:":
			m.rss += kb * 1024
		case "Pss:":
			m.pss += kb * 1024
		case "Private_Clean:", "Private_Dirty:":
			m.private += kb * 1024
		}
	}
	return m
}

// helpersOf returns the processes of the arena that are neither an agent, nor the
// conductor, nor below those, nor apps, which it counts.
func helpersOf(agent int, others []int) (helpers []int, apps int) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, 0
	}
	known := append([]int{1, agent}, others...)
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || slices.Contains(known, pid) {
			continue
		}
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		switch argv := strings.Split(strings.TrimSuffix(string(cmdline), "\x00"), "\x00"); {
		case err != nil || len(cmdline) == 0: // gone, a zombie, or the kernel's
		case slices.Equal(argv, appArgs):
			apps++
		default:
			helpers = append(helpers, pid)
		}
	}
	return helpers, apps
}

// cpuOf adds up the CPU clocks of processes, which count nanoseconds
// (clock_getcpuclockid(3)).
func cpuOf(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		var ts unix.Timespec
		if unix.ClockGettime(int32(^pid)<<3|2, &ts) == nil {
			sum += time.Duration(ts.Nano())
		}
	}
	return sum
}
