package launch

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/coreos/go-systemd/v22/dbus"
	godbus "github.com/godbus/dbus/v5"

	"github.com/rktnetes/rktshim/internal/cgroup"
)

// Systemd launches each supervisor as the transient unit k8s_<pod>.service, over
// one connection to systemd's own socket, past the message bus. Apps live in groups
// below the delegated unit and are no units: thousands of scopes bring systemd to
// its knees (kubernetes issue 120103).
type Systemd struct {
	conn *dbus.Conn
	root string // systemd's own cgroup; empty where it is the root
}

// NewSystemd connects to systemd. Close ends the connection.
func NewSystemd(ctx context.Context) (*Systemd, error) {
	conn, err := dbus.NewSystemdConnectionContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	root, err := conn.GetManagerProperty("ControlGroup")
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask systemd for its cgroup: %w", err)
	}
	return &Systemd{conn: conn, root: strings.Trim(root, `"`)}, nil
}

// Close ends the connection to systemd; units go on.
func (s *Systemd) Close() { s.conn.Close() }

// Cgroup implements Launcher. parent names a slice, by its name or by a path that
// ends in it; empty is system.slice.
func (s *Systemd) Cgroup(parent, pod string) (string, error) {
	if err := checkPod(pod); err != nil {
		return "", err
	}
	slice, err := slicePath(sliceOf(parent))
	if err != nil {
		return "", err
	}
	return filepath.Join("/", s.root, slice, unitName(pod)), nil
}

func unitName(pod string) string { return prefix + pod + ".service" }

func sliceOf(parent string) string {
	if parent == "" {
		return "system.slice"
	}
	return filepath.Base(parent)
}

// slicePath returns the cgroup of a slice: a-b-c.slice lies in a.slice/a-b.slice
// (systemd.slice(5)).
func slicePath(slice string) (string, error) {
	name, ok := strings.CutSuffix(slice, ".slice")
	if !ok || name == "" || strings.Contains(name, "/") {
		return "", fmt.Errorf("cgroup parent %q: want the name of a slice: %w", slice, errdefs.ErrInvalidArgument)
	}
	if name == "-" {
		return "/", nil
	}
	path, sofar := "/", ""
	for _, part := range strings.Split(name, "-") {
		if part == "" {
			return "", fmt.Errorf("cgroup parent %q: a slice's name has no empty parts: %w", slice, errdefs.ErrInvalidArgument)
		}
		sofar += part
		path = filepath.Join(path, sofar+".slice")
		sofar += "-"
	}
	return path, nil
}

// Launch implements Launcher.
func (s *Systemd) Launch(ctx context.Context, spec Spec) error {
	if _, err := s.Cgroup(spec.Parent, spec.Pod); err != nil {
		return err
	}
	if locked, err := hasSupervisor(spec.PodDir); err != nil || locked {
		return errors.Join(err, alreadyRuns(spec, locked))
	}
	listener, err := listen(spec)
	if err != nil {
		return fmt.Errorf("launch pod %s: %w", spec.Pod, err)
	}
	defer listener.Close()
	done := make(chan string, 1)
	_, err = s.conn.StartTransientUnitContext(ctx, unitName(spec.Pod), "fail", properties(spec, godbus.UnixFD(listener.Fd())), done)
	if isError(err, "org.freedesktop.systemd1.UnitExists") {
		return fmt.Errorf("launch pod %s: unit %s exists: %w", spec.Pod, unitName(spec.Pod), errdefs.ErrAlreadyExists)
	}
	if err != nil {
		return fmt.Errorf("launch pod %s: start unit %s: %w", spec.Pod, unitName(spec.Pod), err)
	}
	select {
	case result := <-done:
		if result == "done" {
			return nil
		}
		err = fmt.Errorf("launch pod %s: unit %s: job %s, see journalctl -u %[2]s", spec.Pod, unitName(spec.Pod), result)
	case <-ctx.Done():
		err = fmt.Errorf("launch pod %s: unit %s: %w", spec.Pod, unitName(spec.Pod), ctx.Err())
	}
	if kerr := s.Kill(context.WithoutCancel(ctx), spec.Parent, spec.Pod); kerr != nil {
		err = fmt.Errorf("%w (undo: %v)", err, kerr)
	}
	return err
}

// description tells one engine's units from another's.
func description(spec Spec) string {
	return "Kubernetes pod " + spec.Pod + " of " + filepath.Dir(spec.PodDir)
}

func properties(spec Spec, stdin godbus.UnixFD) []dbus.Property {
	prop := func(name string, value any) dbus.Property {
		return dbus.Property{Name: name, Value: godbus.MakeVariant(value)}
	}
	return []dbus.Property{
		dbus.PropDescription(description(spec)),
		dbus.PropExecStart([]string{spec.Binary, spec.PodDir, spec.RunDir}, false),
		dbus.PropSlice(sliceOf(spec.Parent)),
		prop("Type", "exec"), // the job fails if the binary cannot be executed
		prop("Delegate", true),
		prop("CollectMode", "inactive-or-failed"),
		prop("KillMode", "control-group"),
		prop("OOMPolicy", "continue"), // an app that runs out of memory must not end its pod
		prop("TasksMax", ^uint64(0)),
		prop("Environment", environment),
		prop("StandardInputFileDescriptor", stdin),
		prop("StandardOutput", "journal"),
		prop("StandardError", "journal"),
	}
}

// Kill implements Launcher.
func (s *Systemd) Kill(ctx context.Context, parent, pod string) error {
	path, err := s.Cgroup(parent, pod)
	if err != nil {
		return err
	}
	if err := cgroup.Kill(ctx, path); err != nil {
		return fmt.Errorf("kill pod %s: %w", pod, err)
	}
	done := make(chan string, 1)
	_, err = s.conn.StopUnitContext(ctx, unitName(pod), "replace", done)
	switch {
	case err == nil:
		select {
		case <-done:
		case <-ctx.Done():
			return fmt.Errorf("kill pod %s: stop unit %s: %w", pod, unitName(pod), ctx.Err())
		}
	case !isError(err, "org.freedesktop.systemd1.NoSuchUnit"):
		return fmt.Errorf("kill pod %s: stop unit %s: %w", pod, unitName(pod), err)
	}
	if err := cgroup.Remove(ctx, path); err != nil {
		return fmt.Errorf("kill pod %s: %w", pod, err)
	}
	return nil
}

// Find implements Launcher.
func (s *Systemd) Find(ctx context.Context, pod string) (parents []string, err error) {
	if err := checkPod(pod); err != nil {
		return nil, err
	}
	units, err := s.conn.ListUnitsByPatternsContext(ctx, nil, []string{unitName(pod)})
	if err != nil || len(units) == 0 {
		return nil, err
	}
	slice, err := s.conn.GetServicePropertyContext(ctx, unitName(pod), "Slice")
	if err != nil {
		return nil, fmt.Errorf("ask systemd for the slice of %s: %w", unitName(pod), err)
	}
	name, _ := slice.Value.Value().(string)
	return []string{name}, nil
}

// List implements Launcher. systemd knows all units, wherever their slice is, and
// those of other engines: whose a unit is, its description says.
func (s *Systemd) List(ctx context.Context, dir string, _ []string) (pods []string, err error) {
	units, err := s.conn.ListUnitsByPatternsContext(ctx, nil, []string{prefix + "*.service"})
	if err != nil {
		return nil, fmt.Errorf("list units of pods: %w", err)
	}
	for _, u := range units {
		pod := strings.TrimSuffix(strings.TrimPrefix(u.Name, prefix), ".service")
		if checkPod(pod) == nil && u.Description == description(Spec{Pod: pod, PodDir: filepath.Join(dir, pod)}) {
			pods = append(pods, pod)
		}
	}
	return pods, nil
}

// isError says whether err is the D-Bus error of that name.
func isError(err error, name string) bool {
	var derr godbus.Error
	return errors.As(err, &derr) && derr.Name == name
}
