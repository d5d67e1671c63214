package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// startTime is when a process started, in clock ticks since boot (proc(5), field
// 22 of stat). With the pid it names a process for good.
func startTime(pid int) (string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", err
	}
	_, after, ok := bytes.Cut(b, []byte(") ")) // the name before it may hold anything
	fields := strings.Fields(string(after))
	if !ok || len(fields) < 20 {
		return "", fmt.Errorf("cannot read /proc/%d/stat", pid)
	}
	return fields[19], nil
}

// noteProcess records a component's process, for whoever comes after a local-up
// that was killed.
func (n node) noteProcess(name string, pid int) error {
	start, err := startTime(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // it has ended, which is found out where its end is waited for
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(n.pidDir(), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(n.pidDir(), name), []byte(fmt.Sprintf("%d %s\n", pid, start)), 0o600)
}

// endOld ends the components of a local-up that was killed, and waits for them. The
// kernel has told them to end when it died.
func (n node) endOld(ctx context.Context) error {
	files, err := os.ReadDir(n.pidDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := endNoted(ctx, filepath.Join(n.pidDir(), f.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(n.pidDir())
}

func endNoted(ctx context.Context, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var pid int
	var start string
	if _, err := fmt.Sscan(string(b), &pid, &start); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return end(ctx, pid, stopPatience, func() bool {
		now, err := startTime(pid)
		return err == nil && now == start
	})
}

// end sends SIGTERM to a process, if it still is the one that is meant, and
// SIGKILL if it takes too long, and waits until it has ended.
func end(ctx context.Context, pid int, patience time.Duration, isMeant func() bool) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", pid, err)
	}
	defer unix.Close(fd)
	if !isMeant() { // asked after the open: the pid cannot change hands any more
		return nil
	}
	for _, signal := range []unix.Signal{unix.SIGTERM, unix.SIGKILL} {
		if err := unix.PidfdSendSignal(fd, signal, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("end process %d: %w", pid, err)
		}
		if ended, err := waitEnd(ctx, fd, patience); ended || err != nil {
			return err
		}
	}
	return fmt.Errorf("process %d does not end", pid)
}

// waitEnd waits until a process has ended, at most so long.
func waitEnd(ctx context.Context, pidfd int, patience time.Duration) (ended bool, err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if ctx.Err() != nil {
			return false, ctx.Err()
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return false, fmt.Errorf("wait for a process: %w", err)
		}
		if n > 0 {
			return true, nil
		}
	}
	return false, nil
}

// runsLocalUp says whether a process is a local-up, by its arguments.
func runsLocalUp(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && bytes.Contains(append([]byte{0}, b...), []byte("\x00local-up\x00"))
}
