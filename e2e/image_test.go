package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/rktnetes/rktshim/internal/registrytest"
	"github.com/rktnetes/rktshim/internal/rundir"
)

// registryAddr is where tests serve images, in the kubelet's own network.
const registryAddr = "127.0.0.1:5000"

// imageNode is a kubelet with the runtime in its process, and clients of its
// socket and of rkt.
type imageNode struct {
	*process
	runtimeapi.ImageServiceClient
	dir string // --rkt-dir
}

func startImageNode(t *testing.T, dir string) *imageNode {
	t.Helper()
	sock := filepath.Join(shortDir(t), "cri.sock")
	args := append(kubeletArgs(t), "--container-runtime=rkt", "--rkt-dir="+dir, "--rkt-cri-socket="+sock, "--rkt-pinned-images=*/team/pinned:*")
	k := isolated(t, append([]string{binary(t, "hyperkube"), "kubelet"}, args...)...)
	k.waitHealthy(t)
	conn, err := grpc.NewClient("unix://"+sock, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return &imageNode{process: k, ImageServiceClient: runtimeapi.NewImageServiceClient(conn), dir: dir}
}

func (n *imageNode) pull(ctx context.Context, name string) (string, error) {
	r, err := n.PullImage(ctx, &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: name}})
	return r.GetImageRef(), err
}

// rkt runs the operator's command on the node's data.
func (n *imageNode) rkt(t *testing.T, args ...string) string {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.Command(binary(t, "rkt"), append([]string{"--dir=" + n.dir}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "rkt %v: %s", args, stderr.String())
	return string(out)
}

// dataDir is a --rkt-dir whose run folder is removed with it.
func dataDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(shortDir(t), "rkt")
	run, err := rundir.Of(dir)
	require.NoError(t, err)
	noteMade(run)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(run)) })
	return dir
}

func webImage() registrytest.Image {
	return registrytest.Image{
		Layers: []registrytest.Layer{{Files: registrytest.Files{"etc/os-release": "ID=test\n"}}, {Files: registrytest.Files{"www/index.html": strings.Repeat("hello ", 50_000)}}},
		Config: v1.Image{Config: v1.ImageConfig{User: "1000:1000", Cmd: []string{"/bin/web"}}},
	}
}

// The whole life of an image on a node: the kubelet's runtime pulls it, the
// operator sees the same one, and it is removed by any of its names.
func TestImageIsPulledListedAndRemoved(t *testing.T) {
	n := startImageNode(t, dataDir(t))
	reg := registrytest.New(t)
	n.serve(t, registryAddr, reg.Server.Config.Handler)
	web, pinned := reg.Push("team/web", "1", webImage()), reg.Push("team/pinned", "1", registrytest.Image{Layers: []registrytest.Layer{{Files: registrytest.Files{"a": "b"}}}})

	id, err := n.pull(t.Context(), registryAddr+"/team/web:1")
	require.NoError(t, err)
	require.Equal(t, web.ID(), id)
	_, err = n.pull(t.Context(), registryAddr+"/team/pinned@"+pinned.Manifest.String())
	require.NoError(t, err)
	_, err = n.pull(t.Context(), registryAddr+"/team/pinned:1")
	require.NoError(t, err)

	s, err := n.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: registryAddr + "/team/web:1"}})
	require.NoError(t, err)
	require.Equal(t, id, s.Image.Id)
	require.Equal(t, []string{registryAddr + "/team/web:1"}, s.Image.RepoTags)
	require.Equal(t, []string{registryAddr + "/team/web@" + web.Manifest.String()}, s.Image.RepoDigests)
	require.Equal(t, int64(1000), s.Image.GetUid().GetValue())
	require.Greater(t, s.Image.Size, uint64(300_000))
	require.False(t, s.Image.Pinned)
	all, err := n.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	require.NoError(t, err)
	require.Len(t, all.Images, 2)
	require.True(t, all.Images[0].Pinned != all.Images[1].Pinned)

	var listed []struct{ ID, Name string }
	require.NoError(t, json.Unmarshal([]byte(n.rkt(t, "image", "list", "--full", "--format=json")), &listed))
	var ids []string
	for _, l := range listed {
		ids = append(ids, l.ID)
	}
	require.ElementsMatch(t, []string{id, pinned.ID()}, ids, "rkt sees the kubelet's images")
	n.rkt(t, "image", "verify")

	fs, err := n.ImageFsInfo(t.Context(), &runtimeapi.ImageFsInfoRequest{})
	require.NoError(t, err)
	require.Greater(t, fs.ImageFilesystems[0].UsedBytes.Value, uint64(300_000))
	require.NotZero(t, fs.ImageFilesystems[0].InodesUsed.Value)

	_, err = n.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: registryAddr + "/team/web@" + web.Manifest.String()}})
	require.NoError(t, err)
	s, err = n.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: id}})
	require.NoError(t, err)
	require.Nil(t, s.Image)
	require.NotContains(t, n.rkt(t, "image", "list", "--full"), id)
	require.Zero(t, n.terminate(t))
}

// The kubelet reads a failed pull by its text, which gRPC hands on only with the
// code Unknown.
func TestFailedPullTellsTheKubeletWhy(t *testing.T) {
	n := startImageNode(t, dataDir(t))
	reg := registrytest.New(t)
	n.serve(t, registryAddr, reg.Server.Config.Handler)

	for name, says := range map[string]string{
		registryAddr + "/team/absent:1": "code = Unknown desc = pull " + registryAddr + "/team/absent:1: ",
		"127.0.0.1:5001/team/web:1":     "code = Unknown desc = RegistryUnavailable: pull 127.0.0.1:5001/team/web:1: ",
		"not a name":                    "code = InvalidArgument desc = ",
	} {
		_, err := n.pull(t.Context(), name)
		require.ErrorContains(t, err, says)
	}
}

// kill -9 of the kubelet in mid-pull: its worker dies with it, and the next
// kubelet pulls as if nothing had been.
func TestKubeletKilledInMidPullLeavesNothing(t *testing.T) {
	dir := dataDir(t)
	reg := registrytest.New(t)
	web := reg.Push("team/web", "1", webImage())
	reg.OnBlob(web.Layers[1], registrytest.StallAfter(100, t.Context().Done()))
	first := startImageNode(t, dir)
	first.serve(t, registryAddr, reg.Server.Config.Handler)
	pulling := make(chan error, 1)
	go func() {
		_, err := first.pull(context.WithoutCancel(t.Context()), registryAddr+"/team/web:1")
		pulling <- err
	}()
	require.Eventually(t, func() bool { return len(reg.Requests("blobs/"+web.Layers[1].String())) > 0 }, 30*time.Second, 5*time.Millisecond)
	workers := childrenOf(t, first.Process.Pid)
	require.NotEmpty(t, workers, "the pull runs in a process of its own")
	require.NoError(t, first.Process.Kill())
	require.Error(t, <-pulling)
	<-first.exited
	for _, pid := range workers {
		require.Eventually(t, func() bool { return !alive(pid) }, time.Minute, 5*time.Millisecond, "the worker outlived the kubelet")
	}

	second := startImageNode(t, dir)
	second.serve(t, registryAddr, reg.Server.Config.Handler)
	all, err := second.ListImages(t.Context(), &runtimeapi.ListImagesRequest{})
	require.NoError(t, err)
	require.Empty(t, all.Images)
	require.Empty(t, entries(t, dir, "images/overlay/staging"), "half a layer is left")

	id, err := second.pull(t.Context(), registryAddr+"/team/web:1")
	require.NoError(t, err)
	require.Equal(t, web.ID(), id)
	second.rkt(t, "image", "verify")
	require.Zero(t, second.terminate(t))
}

func entries(t *testing.T, elem ...string) (names []string) {
	t.Helper()
	found, err := os.ReadDir(filepath.Join(elem...))
	if !os.IsNotExist(err) {
		require.NoError(t, err)
	}
	for _, e := range found {
		names = append(names, e.Name())
	}
	return names
}
