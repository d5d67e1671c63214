// Package imagetest prepares tests that need an image store: a folder on a
// real disk that is removed afterwards, mounts included, even if the test
// process was killed (by the next one).
package imagetest

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.podman.io/storage/pkg/reexec"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/image/worker"
)

// base holds one folder per test process. It must not lie on overlay or tmpfs,
// on which overlay cannot have everything it needs.
const base = "/var/tmp/rktshim-imagetest"

// workerArg makes a test binary an image worker.
const workerArg = "image-worker"

var mine string // this process's folder

// Main is a TestMain: the test binary may be re-executed by the storage
// library, or as an image worker with WorkerCommand. Goroutines that are left
// when all tests have passed are a failure.
func Main(m *testing.M, parse worker.Parse) {
	if reexec.Init() {
		return
	}
	if len(os.Args) > 1 && os.Args[1] == workerArg {
		if err := worker.Main(context.Background(), parse); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(run(m))
}

// WorkerCommand runs this test binary as an image worker.
func WorkerCommand() []string { return []string{"/proc/self/exe", workerArg} }

func run(m *testing.M) int {
	if os.Geteuid() != 0 {
		fmt.Println("skipped: overlay mounts and device nodes need root")
		return 0
	}
	if err := sweep(); err != nil {
		fmt.Fprintln(os.Stderr, "remove what killed tests left:", err)
		return 1
	}
	dir, err := os.MkdirTemp(base, "")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	mine = dir
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer lock.Close()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	if err := remove(dir); err != nil {
		fmt.Fprintln(os.Stderr, "clean up:", err)
		return 1
	}
	return code
}

// sweep removes the folders of processes that are gone.
func sweep() error {
	if err := os.MkdirAll(base, 0o700); err != nil {
		return err
	}
	locks, err := filepath.Glob(filepath.Join(base, "*.lock"))
	if err != nil {
		return err
	}
	for _, path := range locks {
		lock, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			continue // removed meanwhile
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = remove(strings.TrimSuffix(path, ".lock"))
		}
		lock.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func remove(dir string) error {
	unmountBelow(dir)
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Remove(dir + ".lock")
}

// unmountBelow unmounts everything below dir, the latest mount first.
func unmountBelow(dir string) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return
	}
	defer f.Close()
	var points []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if fields := strings.Fields(s.Text()); len(fields) > 4 && strings.HasPrefix(fields[4], dir) {
			points = append(points, fields[4])
		}
	}
	for i := len(points) - 1; i >= 0; i-- {
		if err := unix.Unmount(points[i], unix.MNT_DETACH); err != nil {
			fmt.Fprintln(os.Stderr, "unmount", points[i], err)
		}
	}
}

// Dir is a fresh folder on the disk for one test.
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp(mine, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		unmountBelow(dir)
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// StoreConfig places a store in dir.
func StoreConfig(dir string) store.Config {
	return store.Config{Root: filepath.Join(dir, "root"), RunRoot: filepath.Join(dir, "run")}
}

// Open opens a store in dir until the test ends.
func Open(t testing.TB, cfg store.Config) *store.Store {
	t.Helper()
	s, err := store.Open(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// PullConfig takes nothing from the host's configuration and speaks plain http.
// Its files are in dir/etc, where tests may put others.
func PullConfig(dir string) pull.Config {
	etc := filepath.Join(dir, "etc")
	return pull.Config{
		RegistriesConf:    filepath.Join(etc, "registries.conf"),
		RegistriesConfDir: filepath.Join(etc, "registries.conf.d"),
		RegistriesDir:     filepath.Join(etc, "registries.d"),
		Policy:            filepath.Join(etc, "policy.json"),
		AuthFile:          filepath.Join(etc, "auth.json"),
		CertDir:           filepath.Join(etc, "certs.d"),
		Insecure:          true,
		RetryDelay:        1,
	}
}

// Engine is a pull engine over a store until the test ends.
func Engine(t testing.TB, s *store.Store, cfg pull.Config) *pull.Engine {
	t.Helper()
	e := pull.New(s, cfg)
	t.Cleanup(e.Wait)
	return e
}
