package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// claimPoll is how often a busy claim is asked for. flock(2) could wait by itself,
// but not end with a context.
const claimPoll = 20 * time.Millisecond

// claim is the right to run plugins for one pod: an flock on the pod's file in
// RunDir, whose descriptor each plugin and what it starts inherit. After the node
// agent was killed, the lock stays with the plugins that it had started until the
// last has ended.
//
// The file's content is the result of the plugins that have answered in an ADD
// not yet recorded.
type claim struct {
	pod  string
	file *os.File
}

// claim waits for the plugins that an earlier process started for the pod, and
// kills them if they are not gone after the configured timeout.
func (n *CNI) claim(ctx context.Context, pod string) (*claim, error) {
	if err := os.MkdirAll(n.config.RunDir, 0o700); err != nil {
		return nil, fmt.Errorf("claim network of pod %s: %w", pod, err)
	}
	giveUp := time.Now().Add(n.config.Timeout)
	for {
		c, err := n.tryClaim(pod)
		if err != nil || c != nil {
			return c, err
		}
		if time.Now().After(giveUp) {
			if err := killPlugins(pod); err != nil {
				return nil, err
			}
		}
		select {
		case <-time.After(claimPoll):
		case <-ctx.Done():
			return nil, fmt.Errorf("claim network of pod %s: earlier plugins still run: %w", pod, ctx.Err())
		}
	}
}

// tryClaim returns nil, nil if the lock is taken.
func (n *CNI) tryClaim(pod string) (*claim, error) {
	file, err := os.OpenFile(filepath.Join(n.config.RunDir, pod), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("claim network of pod %s: %w", pod, err)
	}
	locked, err := lockNamed(file)
	if err != nil || !locked {
		return nil, errors.Join(err, file.Close())
	}
	return &claim{pod, file}, nil
}

// lockNamed locks file unless another holds it or it is no longer the file of its
// name, because the one who held it removed it.
func lockNamed(file *os.File) (bool, error) {
	err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("lock %s: %w", file.Name(), err)
	}
	ours, err := file.Stat()
	if err != nil {
		return false, err
	}
	named, err := os.Stat(file.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(ours, named), err
}

// keep notes what the plugins have answered so far. Losing it costs no more than
// the clean-up of plugins that delete by result, so it is not synced.
func (c *claim) keep(result json.RawMessage) error {
	if err := c.file.Truncate(0); err != nil {
		return fmt.Errorf("keep unfinished result of pod %s: %w", c.pod, err)
	}
	if _, err := c.file.WriteAt(result, 0); err != nil {
		return fmt.Errorf("keep unfinished result of pod %s: %w", c.pod, err)
	}
	return nil
}

// kept returns what keep noted, or nil if that is nothing or half of it.
func (c *claim) kept() json.RawMessage {
	data, err := os.ReadFile(c.file.Name())
	if err != nil || len(data) == 0 || !json.Valid(data) {
		return nil
	}
	return data
}

// release gives the claim up. Its file stays only where an ADD is neither recorded
// nor undone; a file left for any other reason would be found empty or written
// anew, so that errors are of no consequence. It unlocks by hand: a daemon that a
// plugin has left behind may hold the descriptor for as long as the pod lives.
func (c *claim) release(unfinished bool) {
	if !unfinished {
		_ = os.Remove(c.file.Name())
	}
	_ = unix.Flock(int(c.file.Fd()), unix.LOCK_UN)
	_ = c.file.Close()
}

// Sweep removes the files of pods that are not known: of those whose records were
// lost, for no record is saved after its pod's file is made, or removed before it.
func (n *CNI) Sweep(known func(pod string) bool) error {
	files, err := os.ReadDir(n.config.RunDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sweep network claims: %w", err)
	}
	var errs []error
	for _, file := range files {
		if known(file.Name()) {
			continue
		}
		c, err := n.tryClaim(file.Name())
		if c != nil {
			c.release(false)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// killPlugins kills every process that was started as a plugin for the pod, known
// by its environment, which it passes on to what it starts. It looks again as long
// as it finds some, because they may start others meanwhile, but not for ever: a
// process stuck in the kernel does not die.
func killPlugins(pod string) error {
	mark := []byte("\x00CNI_CONTAINERID=" + pod + "\x00")
	for range 5 {
		pids, err := startedWith(mark)
		if err != nil {
			return fmt.Errorf("kill plugins of pod %s: %w", pod, err)
		}
		if len(pids) == 0 {
			return nil
		}
		for _, pid := range pids {
			if err := killIf(pid, mark); err != nil {
				return fmt.Errorf("kill plugin process %d of pod %s: %w", pid, pod, err)
			}
		}
	}
	return nil
}

func startedWith(mark []byte) (pids []int, err error) {
	folders, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		pid, err := strconv.Atoi(folder.Name())
		if err == nil && pid != os.Getpid() && hasMark(pid, mark) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// killIf kills the process and waits a second for its end. It looks at the mark
// again once it holds the process by descriptor: the pid may have passed to
// another.
func killIf(pid int, mark []byte) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if !hasMark(pid, mark) {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 1000)
	if errors.Is(err, unix.EINTR) {
		return nil // whoever asked looks again
	}
	return err
}

func hasMark(pid int, mark []byte) bool {
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && bytes.Contains(append([]byte{0}, env...), mark)
}
