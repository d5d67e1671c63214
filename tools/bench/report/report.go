// Package report writes results where readers find them.
package report

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Machine is a line that says where and when figures were taken.
func Machine(now time.Time) string {
	var uts unix.Utsname
	kernel := "unknown kernel"
	if err := unix.Uname(&uts); err == nil {
		kernel = "Linux " + unix.ByteSliceToString(uts.Release[:])
	}
	return fmt.Sprintf("%s, %d cores, %s, %s, %s", cpu(), runtime.NumCPU(), kernel, runtime.Version(), now.UTC().Format("2006-01-02 15:04 UTC"))
}

func cpu() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if name, value, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown CPU"
}

// Insert replaces what stands between the markers <!-- bench:NAME --> and
// <!-- /bench:NAME --> in a file.
func Insert(file, name, text string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	open, end := []byte("<!-- bench:"+name+" -->\n"), []byte("<!-- /bench:"+name+" -->")
	i, j := bytes.Index(b, open), bytes.Index(b, end)
	if i < 0 || j < i {
		return fmt.Errorf("%s has no markers for bench:%s", file, name)
	}
	var out bytes.Buffer
	out.Write(b[:i+len(open)])
	out.WriteString(strings.TrimRight(text, "\n") + "\n")
	out.Write(b[j:])
	return os.WriteFile(file, out.Bytes(), 0o644)
}
