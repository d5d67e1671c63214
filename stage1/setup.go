package stage1

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// SetupInside sets hostname and sysctls of the spec. It must be called inside the
// pod's namespaces; isolators on the host's kernel share it.
func (s Spec) SetupInside() error {
	if s.OwnUTS && s.Hostname != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("set hostname %q: %w", s.Hostname, err)
		}
	}
	names := make([]string, 0, len(s.Sysctls))
	for name := range s.Sysctls {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		path := filepath.Join("/proc/sys", SysctlFile(name))
		if err := os.WriteFile(path, []byte(s.Sysctls[name]), 0o644); err != nil {
			return fmt.Errorf("set sysctl %s to %q: %w", name, s.Sysctls[name], err)
		}
	}
	return nil
}

// MountShm mounts the pod's shared memory at ShmPath, if the spec asks for any.
func (s Spec) MountShm() error {
	if s.ShmBytes == 0 {
		return nil
	}
	path := s.ShmPath()
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	opts := fmt.Sprintf("mode=1777,size=%d", s.ShmBytes)
	if err := unix.Mount("shm", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, opts); err != nil {
		return fmt.Errorf("mount shared memory at %s: %w", path, err)
	}
	return nil
}

// UnmountShm undoes MountShm, also when something still uses the mount. Nothing
// mounted is no error.
func (s Spec) UnmountShm() error {
	path := s.ShmPath()
	for { // a boot that was killed and repeated may have left several
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount shared memory at %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
