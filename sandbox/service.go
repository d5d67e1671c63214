// Package sandbox answers CRI's PodSandbox calls: it translates a PodSandboxConfig
// into a pod.Spec, and a pod's state into CRI's. A sandbox's id is its pod's.
//
// What a configuration asks for is done or refused by an error that names the
// field; nothing is left out silently.
package sandbox

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/cgroupstat"
	"github.com/rktnetes/rktshim/pod"
)

// Config is set by the node's operator.
type Config struct {
	// Stage1 is the isolation of pods that choose none, by flavor or by rkt's
	// image name. Empty means nspawn.
	Stage1 string
	// Systemd says that pods are systemd's units: cgroup parents become slices.
	Systemd bool
	// Sysctls are allowed besides the safe ones; a trailing "*" matches any rest.
	Sysctls []string
	// ShmBytes is the size of a pod's shared memory; 0 means 64 MiB.
	ShmBytes int64
	// ResolvConf is what pods without a DNS configuration get a copy of; empty
	// means /etc/resolv.conf.
	ResolvConf string
}

// pods is all that the service needs of the engine.
type pods interface {
	Launch(ctx context.Context, spec pod.Spec) (pod.ID, error)
	Stop(ctx context.Context, id pod.ID, grace time.Duration) error
	Remove(ctx context.Context, id pod.ID) error
	Pods(match func(*pod.Pod) bool) []pod.Pod
	Snapshot(id pod.ID) (pod.Snapshot, error)
	Watch(ctx context.Context, f func(pod.Event) error) error
	PodUsage(id pod.ID) (pod.Usage, error)
	PodTraffic(id pod.ID) ([]pod.Traffic, error)
	PodDetail(id pod.ID) (cgroupstat.Detail, error)
	AppDetail(id pod.AppID) (cgroupstat.Detail, error)
	UpdatePod(ctx context.Context, id pod.ID, change func(*pod.Spec) (json.RawMessage, error)) error
}

// ContainerStatus translates an app, as CRI's Container calls do.
type ContainerStatus func(*pod.App) (*runtimeapi.ContainerStatus, error)

// usages tells what the containers of a sandbox use, as CRI's Container calls do.
type usages interface {
	SandboxStats(id pod.ID) ([]*runtimeapi.ContainerStats, error)
}

// Service answers CRI's PodSandbox calls, and those that tell of sandboxes and
// containers together. Its methods are safe for concurrent use.
type Service struct {
	cfg       Config
	pods      pods
	container ContainerStatus
	usages    usages
	kept      keptItems
}

// New checks the configuration.
func New(cfg Config, pods pods, container ContainerStatus, usages usages) (*Service, error) {
	if cfg.Stage1 == "" {
		cfg.Stage1 = "nspawn"
	}
	if _, problem := Flavor(cfg.Stage1); problem != "" {
		return nil, fmt.Errorf("sandbox config: Stage1 %q %s", cfg.Stage1, problem)
	}
	if cfg.ShmBytes <= 0 {
		cfg.ShmBytes = 64 << 20
	}
	if cfg.ResolvConf == "" {
		cfg.ResolvConf = "/etc/resolv.conf"
	}
	return &Service{cfg: cfg, pods: pods, container: container, usages: usages}, nil
}

// extra is what the service keeps with a pod beside its spec.
type extra struct {
	PID       runtimeapi.NamespaceMode `json:"pid"`
	IPC       runtimeapi.NamespaceMode `json:"ipc"`
	Handler   string                   `json:"handler,omitempty"`
	Overhead  *resources               `json:"overhead,omitempty"`
	Resources *resources               `json:"resources,omitempty"`
}

// resources are a sandbox's, kept for flavors that must know a pod's size.
type resources struct {
	CPUPeriod int64 `json:"cpuPeriod,omitempty"`
	CPUQuota  int64 `json:"cpuQuota,omitempty"`
	CPUShares int64 `json:"cpuShares,omitempty"`
	Memory    int64 `json:"memory,omitempty"` // bytes
}

func resourcesOf(r *runtimeapi.LinuxContainerResources) *resources {
	if r == nil {
		return nil
	}
	return &resources{r.CpuPeriod, r.CpuQuota, r.CpuShares, r.MemoryLimitInBytes}
}

// extraOf reads back what was kept. A pod of another origin has none.
func extraOf(spec *pod.Spec) (x extra, err error) {
	if len(spec.Extra) == 0 {
		return x, nil
	}
	if err := json.Unmarshal(spec.Extra, &x); err != nil {
		return x, fmt.Errorf("read what was kept of the sandbox: %w", err)
	}
	return x, nil
}
