package cli

import (
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/image/store"
	"github.com/rktnetes/rktshim/image/worker"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

func TestTheProgramIsAWorkerForTheKubelet(t *testing.T) {
	n := newNode(t)
	r := registrytest.New(t)
	want := r.Push("app", "v1", simple("x"))
	client, err := worker.NewClient(worker.ClientConfig{
		Command: []string{n.bin, "image-worker"},
		Store:   store.Config{Root: n.path("data/images"), RunRoot: n.path("run")},
		Pull:    pull.Config{Insecure: true},
	})
	require.NoError(t, err)
	defer client.Close()
	got, err := client.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1")}, nil)
	require.NoError(t, err)
	require.Equal(t, want.ID(), got.ID)
	got, err = client.Import(t.Context(), "aci:"+n.aci("x.aci", appManifest), []string{"example.com/app:1.2"}, nil)
	require.NoError(t, err)
	require.Len(t, n.list(), 2)
	require.Contains(t, n.rkt("image", "verify", "example.com/app:1.2"), got.ID+" ok")
}

// refusing runs rkt where policy.json refuses every image, in a mount
// namespace of its own.
func (n *node) refusing(args ...string) (string, error) {
	etc := n.path("etc")
	require.NoError(n.t, os.MkdirAll(etc, 0o700))
	require.NoError(n.t, os.WriteFile(etc+"/policy.json", []byte(`{"default":[{"type":"reject"}]}`), 0o600))
	script := `mkdir -p /etc/containers && mount --bind "$0" /etc/containers && exec "$@"`
	cmd := exec.CommandContext(n.t.Context(), "unshare", append([]string{"-m", "sh", "-c", script, etc}, n.command(args...).Args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestThePolicyHoldsForRegistriesAndFilesAndCanBeLeftOut(t *testing.T) {
	n := newNode(t)
	r := registrytest.New(t)
	r.Push("app", "v1", simple("x"))
	for _, what := range []string{r.Ref("app", "v1"), n.aci("x.aci", appManifest)} {
		out, err := n.refusing("fetch", "--insecure-options=http", what)
		require.Error(t, err)
		require.Contains(t, out, "fetch: SignatureValidationFailed: ")
		out, err = n.refusing("fetch", "--insecure-options=http,image", what)
		require.NoError(t, err, out)
	}
	require.Len(t, n.list(), 2)
}
