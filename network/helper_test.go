package network

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// helpers are what the test binary does as another process, in the folder of a
// test's host. They return only if the test expects it.
var helpers = map[string]func(dir string) error{
	"attach":  attachOne,
	"churn":   attachAndDetachForEver,
	"refused": makeNamespaceWithoutPrivilege,
	"blind":   runWithoutWatches,
}

const (
	helperName = "RKT_NETWORK_TEST_HELPER"
	helperDir  = "RKT_NETWORK_TEST_DIR"
)

// helper starts no process yet; it ends with the tests at the latest.
func (h *host) helper(name string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), helperName+"="+name, helperDir+"="+h.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	return cmd
}

func beHelper() int {
	if err := helpers[os.Getenv(helperName)](os.Getenv(helperDir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// agent is a node agent on the host in dir.
func agent(dir string) (*CNI, error) {
	return New(Config{
		ConfDir: filepath.Join(dir, "net.d"),
		BinDirs: []string{filepath.Join(dir, "bin"), debianPlugins},
		RunDir:  filepath.Join(dir, "run"),
		Timeout: time.Minute,
	})
}

// saveIn keeps a pod's record as a file that is whole or not there.
func saveIn(dir, pod string) Save {
	path := filepath.Join(dir, "records", pod)
	return func(_ context.Context, record json.RawMessage) error {
		return errors.Join(os.WriteFile(path+".new", record, 0o600), os.Rename(path+".new", path))
	}
}

// saved returns the record that saveIn keeps, nil if there is none.
func saved(dir, pod string) (json.RawMessage, error) {
	record, err := os.ReadFile(filepath.Join(dir, "records", pod))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	return record, err
}

func attachOne(dir string) error {
	n, err := agent(dir)
	if err != nil {
		return err
	}
	n.read(context.Background())
	_, err = n.Attach(context.Background(), Pod{ID: "a", NetNS: filepath.Join(dir, "netns", "a")}, saveIn(dir, "a"))
	return err
}

var churnPods = []string{"a", "b", "c", "d"}

func attachAndDetachForEver(dir string) error {
	n, err := agent(dir)
	if err != nil {
		return err
	}
	ctx := context.Background()
	n.read(ctx)
	failed := make(chan error, len(churnPods))
	var wg sync.WaitGroup
	for i, id := range churnPods {
		pod := Pod{ID: id, NetNS: filepath.Join(dir, "netns", id), PortMappings: []PortMapping{{HostPort: 8000 + i, ContainerPort: 80}}}
		wg.Go(func() {
			for {
				if _, err := n.Attach(ctx, pod, saveIn(dir, pod.ID)); err != nil {
					failed <- err
					return
				}
				record, err := saved(dir, pod.ID)
				if err == nil {
					err = n.Detach(ctx, record)
				}
				if err != nil {
					failed <- err
					return
				}
			}
		})
	}
	wg.Wait()
	return <-failed
}

func makeNamespaceWithoutPrivilege(dir string) error {
	err := NewNamespace(filepath.Join(dir, "refused"))
	if !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("want EPERM, got %v", err)
	}
	return nil
}

// runWithoutWatches wants to be in a user namespace of its own.
func runWithoutWatches(dir string) error {
	if err := os.WriteFile("/proc/sys/user/max_inotify_instances", []byte("0"), 0); err != nil {
		return err
	}
	if _, err := unix.InotifyInit1(unix.IN_CLOEXEC); !errors.Is(err, unix.EMFILE) {
		return fmt.Errorf("inotify: want EMFILE, got %v", err)
	}
	n, err := agent(dir)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitFor)
	defer cancel()
	done := make(chan error)
	go func() { done <- n.Run(ctx) }()
	for n.Ready() != nil && ctx.Err() == nil {
		time.Sleep(tick)
	}
	ready := n.Ready()
	cancel()
	return errors.Join(ready, <-done)
}

// attachAndCrash has a node agent attach pod a until its plugin hangs, kills it,
// and returns the record that it left.
func (h *host) attachAndCrash() json.RawMessage {
	h.t.Helper()
	h.pod("a")
	h.kill(h.helper("attach"), h.awaitHang)
	record, err := saved(h.dir, "a")
	if err != nil || record == nil {
		h.t.Fatalf("no record: %v", err)
	}
	return record
}

// kill starts a helper and kills it when after returns.
func (h *host) kill(helper *exec.Cmd, after func()) {
	h.t.Helper()
	if err := os.MkdirAll(filepath.Join(h.dir, "records"), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := helper.Start(); err != nil {
		h.t.Fatal(err)
	}
	after()
	if err := helper.Process.Kill(); err != nil {
		h.t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := helper.Wait(); !errors.As(err, &exit) || exit.ExitCode() >= 0 {
		h.t.Fatalf("the helper ended by itself: %v", err)
	}
}
