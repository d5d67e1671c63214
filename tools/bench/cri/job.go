package cri

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/tools/bench/streaming"
)

// job is work for one endpoint, as plain data: the endpoint may be the memory of
// another process.
type job struct {
	Op      string // "pull", "cycle", "start", "remove", "lists" or "sessions"
	Parent  string // cgroup
	Dir     string // for logs and the files that pods mount
	Network string // hostNetwork or bridgeNetwork
	Seccomp bool   // whether the container has the profile RuntimeDefault
	Pods    int
	Workers int
	Repeat  int
}

const (
	hostNetwork   = "host network"
	bridgeNetwork = "bridge CNI"
)

// outcome is what a job took.
type outcome struct {
	Calls    map[string][]time.Duration // by call
	Whole    time.Duration
	Sessions map[string]float64 // what package streaming measures
}

// caller is a job under way.
type caller struct {
	job
	outcome
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
}

// jobTime bounds a job; the longest takes seconds.
const jobTime = 5 * time.Minute

func (j job) do(conn *grpc.ClientConn) (*outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), jobTime)
	defer cancel()
	c := &caller{job: j, outcome: outcome{Calls: map[string][]time.Duration{}},
		runtime: runtimeapi.NewRuntimeServiceClient(conn), images: runtimeapi.NewImageServiceClient(conn)}
	start := time.Now()
	var err error
	switch j.Op {
	case "pull":
		_, err = c.images.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: appImage}}, grpc.WaitForReady(true))
	case "cycle":
		err = c.cycle(ctx)
	case "start":
		err = c.many(j.Pods, func() error { _, err := c.start(ctx, untimed); return err })
	case "remove":
		err = c.removeAll(ctx)
	case "lists":
		err = c.lists(ctx)
	case "sessions":
		err = c.sessions(ctx)
	default:
		err = fmt.Errorf("job %q is unknown", j.Op)
	}
	c.Whole = time.Since(start)
	return &c.outcome, err
}

// timer runs a call and may keep how long it took.
type timer func(name string, call func() error) error

func untimed(name string, call func() error) error {
	if err := call(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (c *caller) timed(name string, call func() error) error {
	start := time.Now()
	err := untimed(name, call)
	c.Calls[name] = append(c.Calls[name], time.Since(start))
	return err
}

// onePod is a pod with one container.
type onePod struct{ sandbox, container string }

// cycle is the whole life of one pod, timed call by call.
func (c *caller) cycle(ctx context.Context) error {
	p, err := c.start(ctx, c.timed)
	if err != nil {
		return err
	}
	for range c.Repeat {
		err := c.timed("ExecSync", func() error {
			r, err := c.runtime.ExecSync(ctx, &runtimeapi.ExecSyncRequest{ContainerId: p.container, Cmd: []string{"/bin/busybox", "true"}, Timeout: 60})
			if err == nil && r.ExitCode != 0 {
				err = fmt.Errorf("exit code %d: %s", r.ExitCode, r.Stderr)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return c.remove(ctx, p, c.timed)
}

func (c *caller) start(ctx context.Context, t timer) (p onePod, err error) {
	config, container, err := c.configs()
	if err != nil {
		return p, err
	}
	err = t("RunPodSandbox", func() error {
		r, err := c.runtime.RunPodSandbox(ctx, &runtimeapi.RunPodSandboxRequest{Config: config})
		p.sandbox = r.GetPodSandboxId()
		return err
	})
	if err != nil {
		return p, err
	}
	err = t("CreateContainer", func() error {
		r, err := c.runtime.CreateContainer(ctx, &runtimeapi.CreateContainerRequest{PodSandboxId: p.sandbox, Config: container, SandboxConfig: config})
		p.container = r.GetContainerId()
		return err
	})
	if err != nil {
		return p, err
	}
	return p, t("StartContainer", func() error {
		_, err := c.runtime.StartContainer(ctx, &runtimeapi.StartContainerRequest{ContainerId: p.container})
		return err
	})
}

func (c *caller) remove(ctx context.Context, p onePod, t timer) error {
	for _, step := range []struct {
		name string
		call func() error
	}{
		{"StopContainer", func() error {
			_, err := c.runtime.StopContainer(ctx, &runtimeapi.StopContainerRequest{ContainerId: p.container})
			return err
		}},
		{"RemoveContainer", func() error {
			_, err := c.runtime.RemoveContainer(ctx, &runtimeapi.RemoveContainerRequest{ContainerId: p.container})
			return err
		}},
		{"StopPodSandbox", func() error {
			_, err := c.runtime.StopPodSandbox(ctx, &runtimeapi.StopPodSandboxRequest{PodSandboxId: p.sandbox})
			return err
		}},
		{"RemovePodSandbox", func() error {
			_, err := c.runtime.RemovePodSandbox(ctx, &runtimeapi.RemovePodSandboxRequest{PodSandboxId: p.sandbox})
			return err
		}},
	} {
		if err := t(step.name, step.call); err != nil {
			return err
		}
	}
	return nil
}

// sessions measures what a pod's sessions carry.
func (c *caller) sessions(ctx context.Context) error {
	p, err := c.start(ctx, untimed)
	if err != nil {
		return err
	}
	c.Sessions, err = streaming.Target{Runtime: c.runtime, Sandbox: p.sandbox, Container: p.container}.Measure(ctx)
	return errors.Join(err, c.remove(ctx, p, untimed))
}

// many does something n times, by the job's workers.
func (c *caller) many(n int, f func() error) error {
	var g errgroup.Group
	g.SetLimit(max(1, c.Workers))
	for range n {
		g.Go(f)
	}
	return g.Wait()
}

// removeAll removes every pod that the endpoint has.
func (c *caller) removeAll(ctx context.Context) error {
	r, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return err
	}
	next := make(chan onePod, len(r.Containers))
	for _, app := range r.Containers {
		next <- onePod{app.PodSandboxId, app.Id}
	}
	return c.many(len(r.Containers), func() error { return c.remove(ctx, <-next, untimed) })
}

// lists times reads, each call in turn with the others. A call that an endpoint
// does not have is left out.
func (c *caller) lists(ctx context.Context) error {
	pods, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	apps, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return err
	}
	reads := []struct {
		name  string
		every int // stats of others are slow
		call  func(i int) error
	}{
		{"ListPodSandbox", 1, func(int) error {
			r, err := c.runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{})
			return want(c.Pods, len(r.GetItems()), err)
		}},
		{"ListContainers", 1, func(int) error {
			r, err := c.runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
			return want(c.Pods, len(r.GetContainers()), err)
		}},
		{"PodSandboxStatus", 1, func(i int) error {
			_, err := c.runtime.PodSandboxStatus(ctx, &runtimeapi.PodSandboxStatusRequest{PodSandboxId: pods.Items[i%len(pods.Items)].Id})
			return err
		}},
		{"ContainerStatus", 1, func(i int) error {
			_, err := c.runtime.ContainerStatus(ctx, &runtimeapi.ContainerStatusRequest{ContainerId: apps.Containers[i%len(apps.Containers)].Id})
			return err
		}},
		{"ListContainerStats", 10, func(int) error {
			r, err := c.runtime.ListContainerStats(ctx, &runtimeapi.ListContainerStatsRequest{})
			return want(c.Pods, len(r.GetStats()), err)
		}},
		{"ListPodSandboxStats", 10, func(int) error {
			r, err := c.runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
			return want(c.Pods, len(r.GetStats()), err)
		}},
	}
	for i := range c.Repeat {
		for _, read := range reads {
			if i%read.every != 0 {
				continue
			}
			err := c.timed(read.name, func() error { return read.call(i) })
			if status.Code(err) == codes.Unimplemented {
				delete(c.Calls, read.name)
				continue
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// want is an error if an answer is short of something.
func want(n, got int, err error) error {
	if err == nil && n != got {
		return fmt.Errorf("%d items, want %d", got, n)
	}
	return err
}

// appArgs is by what the processes of apps are known.
var appArgs = []string{"/bin/busybox", "sleep", "86399"}

// configs are what a kubelet gives for a pod of one container without limits.
func (c *caller) configs() (*runtimeapi.PodSandboxConfig, *runtimeapi.ContainerConfig, error) {
	var random [8]byte
	rand.Read(random[:]) //nolint:errcheck // never fails
	name := "bench-" + hex.EncodeToString(random[:])
	logs := filepath.Join(c.Dir, "logs", name)
	if err := os.MkdirAll(filepath.Join(logs, "app"), 0o755); err != nil {
		return nil, nil, err
	}
	var mounts []*runtimeapi.Mount
	for _, f := range []string{"/etc/hosts", "/dev/termination-log"} {
		host := filepath.Join(logs, filepath.Base(f))
		if err := os.WriteFile(host, []byte("127.0.0.1 localhost\n"), 0o644); err != nil {
			return nil, nil, err
		}
		mounts = append(mounts, &runtimeapi.Mount{ContainerPath: f, HostPath: host})
	}
	network := runtimeapi.NamespaceMode_POD
	hostname := name
	if c.Network == hostNetwork {
		network, hostname = runtimeapi.NamespaceMode_NODE, ""
	}
	namespaces := &runtimeapi.NamespaceOption{Network: network, Pid: runtimeapi.NamespaceMode_CONTAINER}
	standard := &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
	seccomp := standard
	if !c.Seccomp {
		seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
	}
	labels := map[string]string{
		"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": name,
	}
	pod := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: name},
		Hostname:     hostname,
		LogDirectory: logs,
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"}},
		Labels:       labels,
		Annotations:  map[string]string{"kubernetes.io/config.seen": "2026-01-01T00:00:00.000000000Z", "kubernetes.io/config.source": "api"},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    c.Parent,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{NamespaceOptions: namespaces, Seccomp: standard},
		},
	}
	labels = map[string]string{
		"io.kubernetes.container.name": "app", "io.kubernetes.pod.name": name,
		"io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": name,
	}
	container := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "app"},
		Image:    &runtimeapi.ImageSpec{Image: appImage},
		Command:  appArgs,
		Envs:     []*runtimeapi.KeyValue{{Key: "KUBERNETES_SERVICE_HOST", Value: []byte("10.96.0.1")}, {Key: "KUBERNETES_SERVICE_PORT", Value: []byte("443")}},
		Mounts:   mounts,
		Labels:   labels,
		Annotations: map[string]string{
			"io.kubernetes.container.hash": "5c4d7b1f", "io.kubernetes.container.restartCount": "0",
			"io.kubernetes.container.terminationMessagePath":   "/dev/termination-log",
			"io.kubernetes.container.terminationMessagePolicy": "File", "io.kubernetes.pod.terminationGracePeriod": "30",
		},
		LogPath: "app/0.log",
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 2, OomScoreAdj: 1000},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: namespaces, Seccomp: seccomp,
				MaskedPaths:   maskedPaths,
				ReadonlyPaths: readonlyPaths,
			},
		},
	}
	return pod, container, nil
}

// What Kubernetes masks and makes read-only unless told otherwise.
var (
	maskedPaths = slices.Collect(strings.SplitSeq("/proc/acpi /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list "+
		"/proc/timer_stats /proc/sched_debug /proc/scsi /sys/firmware", " "))
	readonlyPaths = slices.Collect(strings.SplitSeq("/proc/asound /proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger", " "))
)
