package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// setDevices gives the container the devices that it asks for, or all of the host's
// if it is privileged. Those that every container has are the OCI runtime's matter.
func setDevices(spec *specs.Spec, config *runtimeapi.ContainerConfig, privileged, fly bool) error {
	if len(config.GetCDIDevices()) > 0 {
		return notYet("CDI_devices", "CDI is not built yet")
	}
	if privileged {
		spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		if fly {
			return nil // /dev is the host's
		}
		return hostDevices(spec, "/dev", "/dev")
	}
	spec.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for i, d := range config.GetDevices() {
		field := fmt.Sprintf("devices[%d] (%s)", i, d.GetHostPath())
		if !path.IsAbs(d.GetHostPath()) || !path.IsAbs(d.GetContainerPath()) {
			return invalid(field, "host_path and container_path must be absolute")
		}
		if d.GetPermissions() == "" || strings.Trim(d.GetPermissions(), "rwm") != "" {
			return invalid(field+".permissions", "%q: want some of r, w and m", d.GetPermissions())
		}
		if err := addDevice(spec, field, d); err != nil {
			return err
		}
	}
	return nil
}

// addDevice adds one device, or all of a folder.
func addDevice(spec *specs.Spec, field string, d *runtimeapi.Device) error {
	source, err := filepath.EvalSymlinks(d.HostPath)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: does not exist: %w", field, errdefs.ErrNotFound)
	}
	if err != nil {
		return invalid(field, "%v", err)
	}
	var found []specs.LinuxDevice
	err = filepath.WalkDir(source, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		dev, ok, err := deviceAt(p)
		if err != nil || !ok {
			return err
		}
		dev.Path = path.Clean(d.ContainerPath + strings.TrimPrefix(p, source))
		found = append(found, dev)
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	if len(found) == 0 {
		return invalid(field, "is no device")
	}
	for _, dev := range found {
		spec.Linux.Devices = append(spec.Linux.Devices, dev)
		major, minor := dev.Major, dev.Minor
		spec.Linux.Resources.Devices = append(spec.Linux.Resources.Devices,
			specs.LinuxDeviceCgroup{Allow: true, Type: dev.Type, Major: &major, Minor: &minor, Access: d.Permissions})
	}
	return nil
}

// hostDevices adds all devices of the host, but for those that a container has of
// its own.
func hostDevices(spec *specs.Spec, from, to string) error {
	own := map[string]bool{"pts": true, "shm": true, "mqueue": true, "fd": true, "console": true, "ptmx": true}
	return filepath.WalkDir(from, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) { // unplugged meanwhile
				return nil
			}
			return err
		}
		rel := strings.TrimPrefix(strings.TrimPrefix(p, from), "/")
		if own[rel] {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if e.IsDir() {
			return nil
		}
		dev, ok, err := deviceAt(p)
		if err == nil && ok {
			dev.Path = path.Join(to, rel)
			spec.Linux.Devices = append(spec.Linux.Devices, dev)
		}
		return err
	})
}

// deviceAt describes the device node at a path; ok is false for other files.
func deviceAt(p string) (dev specs.LinuxDevice, ok bool, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		if errors.Is(err, unix.ENOENT) {
			return dev, false, nil
		}
		return dev, false, &os.PathError{Op: "lstat", Path: p, Err: err}
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFCHR:
		dev.Type = "c"
	case unix.S_IFBLK:
		dev.Type = "b"
	default:
		return dev, false, nil
	}
	mode, uid, gid := os.FileMode(st.Mode&0o777), st.Uid, st.Gid
	dev.Major, dev.Minor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	dev.FileMode, dev.UID, dev.GID = &mode, &uid, &gid
	return dev, true, nil
}
