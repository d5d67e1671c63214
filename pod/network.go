package pod

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"k8s.io/klog/v2"

	"github.com/rktnetes/rktshim/internal/atomicfile"
	"github.com/rktnetes/rktshim/internal/span"
	"github.com/rktnetes/rktshim/network"
)

// attach puts the pod on the network and its result into the index.
func (e *Engine) attach(ctx context.Context, id ID, spec *Spec) (err error) {
	ctx, end := span.Start(ctx, "attach network")
	defer func() { end(err) }()
	rec, _ := e.podRecord(id)
	if err := e.detaches.Lock(ctx, id); err != nil {
		return err
	}
	defer e.detaches.Unlock(id)
	start := time.Now()
	result, err := e.net.Attach(ctx, network.Pod{
		ID:           string(id),
		Name:         spec.Name,
		Namespace:    spec.Namespace,
		UID:          spec.UID,
		NetNS:        e.netnsPath(id),
		PortMappings: spec.Ports,
		Bandwidth:    spec.Bandwidth,
		DNS:          spec.DNS,
		CgroupPath:   rec.Cgroup,
		Annotations:  spec.Annotations,
	}, func(_ context.Context, doc json.RawMessage) error { return e.saveNetwork(id, doc) })
	if err != nil {
		return err
	}
	log := klog.FromContext(ctx)
	for _, name := range result.Undeclared {
		log.Info("The network serves something the pod asks for by no plugin", "capability", name)
	}
	log.V(4).Info("Pod attached", "ips", result.IPs, "took", time.Since(start))
	e.update(id, func(p *entry) { p.net = result })
	return nil
}

func (e *Engine) saveNetwork(id ID, doc json.RawMessage) error {
	if doc == nil {
		return removeFile(e.networkPath(id))
	}
	return atomicfile.Write(e.networkPath(id), doc, 0o600)
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// detach takes the pod off the network and gives its namespace free. What is
// detached already is no error. It needs no living process and holds no lock but
// its own, so that a plugin that hangs delays nothing else.
func (e *Engine) detach(ctx context.Context, id ID) (err error) {
	ctx, end := span.Start(ctx, "detach network")
	defer func() { end(err) }()
	if err := e.detaches.Lock(ctx, id); err != nil {
		return err
	}
	defer e.detaches.Unlock(id)
	e.meters.dropPod(id) // its counters hold the namespace
	doc, err := os.ReadFile(e.networkPath(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("detach pod %s: %w", id, err)
	}
	if err := e.net.Detach(ctx, doc); err != nil {
		return err
	}
	if err := removeFile(e.networkPath(id)); err != nil {
		return fmt.Errorf("detach pod %s: %w", id, err)
	}
	if _, err := os.Lstat(e.netnsPath(id)); err != nil {
		return nil // never made, or gone; on a read-only filesystem not even that can be removed
	}
	return network.RemoveNamespace(e.netnsPath(id))
}

// loadNetwork reads what the pod was given back from its record.
func (e *Engine) loadNetwork(id ID) (network.Result, error) {
	doc, err := os.ReadFile(e.networkPath(id))
	if errors.Is(err, fs.ErrNotExist) {
		return network.Result{}, nil
	}
	if err != nil {
		return network.Result{}, err
	}
	return network.ResultOf(doc)
}
