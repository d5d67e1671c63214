package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/types"

	"github.com/rktnetes/rktshim/hyperkube/preflight"
	"github.com/rktnetes/rktshim/hyperkube/supervisorbin"
	"github.com/rktnetes/rktshim/rktshim"
)

// removalsAtOnce is how many pods are removed at the same time.
const removalsAtOnce = 8

// runtimeFile says which runtime the pods are in: it holds the endpoint of another
// than ours.
func (n node) runtimeFile() string { return filepath.Join(n.dir, "runtime-endpoint") }

// removePods ends and removes the cluster's pods as a kubelet would: by CRI, which
// also takes their networks down. The kubelet must have ended.
func (n node) removePods(ctx context.Context) (removed int, err error) {
	endpoint, err := os.ReadFile(n.runtimeFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	if len(endpoint) > 0 {
		conn, err := grpc.NewClient(string(endpoint), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		return removeSandboxes(ctx, conn, n.hasPod)
	}
	if _, err := os.Stat(n.rktDir()); errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	config := rktshim.DefaultConfig()
	config.Dir, config.CNIConfDir = n.rktDir(), n.cniConf()
	if bin := preflight.CNIBinDir(); bin != "" {
		config.CNIBinDir = bin
	}
	if config.Supervisor, err = supervisorbin.Unpack(filepath.Join(config.Dir, "bin")); err != nil {
		return 0, err
	}
	shim, err := rktshim.New(config)
	if err != nil {
		return 0, err
	}
	ended := make(chan error, 1)
	go func() { ended <- shim.Run(ctx) }()
	select {
	case err := <-ended:
		return 0, err
	case <-shim.Ready():
	}
	conn, err := shim.Endpoint().Client()
	if err == nil {
		removed, err = removeSandboxes(ctx, conn, func(string) bool { return true })
		conn.Close()
	}
	cancel()
	return removed, errors.Join(err, <-ended)
}

// hasPod says whether a pod is one of this cluster's kubelet: another runtime may
// have pods of others.
func (n node) hasPod(uid string) bool {
	_, err := os.Stat(filepath.Join(n.kubeletRoot(), "pods", uid))
	return uid != "" && err == nil
}

func removeSandboxes(ctx context.Context, conn *grpc.ClientConn, isOurs func(uid string) bool) (removed int, err error) {
	runtime := cri.NewRuntimeServiceClient(conn)
	list, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return 0, fmt.Errorf("list pods: %w", err)
	}
	var count atomic.Int64
	var g errgroup.Group
	g.SetLimit(removalsAtOnce)
	for _, s := range list.Items {
		if !isOurs(s.Labels[types.KubernetesPodUIDLabel]) {
			continue
		}
		g.Go(func() error {
			if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: s.Id}); err != nil {
				return fmt.Errorf("stop pod %s/%s: %w", s.Metadata.GetNamespace(), s.Metadata.GetName(), err)
			}
			if _, err := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: s.Id}); err != nil {
				return fmt.Errorf("remove pod %s/%s: %w", s.Metadata.GetNamespace(), s.Metadata.GetName(), err)
			}
			count.Add(1)
			return nil
		})
	}
	err = g.Wait()
	return int(count.Load()), err
}
