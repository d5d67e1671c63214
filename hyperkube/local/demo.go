package local

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/rktnetes/rktshim/hyperkube/hellobin"
)

// The demo is a Deployment and a Service of this name, from an image that holds
// one static binary of ours and needs no registry.
const (
	demoName  = "hello"
	demoImage = "rktshim.local/hello"
)

//go:embed demo.yaml
var demoManifest string

func (n node) demoManifest() string { return filepath.Join(n.dir, "demo.yaml") }

// importDemo puts the demo's image into the store.
func (n node) importDemo(ctx context.Context) error {
	hello, err := hellobin.Binary()
	if err != nil {
		return err
	}
	file := filepath.Join(n.dir, "hello.aci")
	if err := writeDemoImage(file, demoVersion(hello), hello); err != nil {
		return fmt.Errorf("make the image of the demo: %w", err)
	}
	defer os.Remove(file)
	cmd := self("rkt", "--dir="+n.rktDir(), "fetch", file)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("import the image of the demo: %w: %s", err, bytes.TrimSpace(out))
	}
	return ctx.Err()
}

// demoVersion is the image's tag: another binary is another image.
func demoVersion(hello []byte) string {
	sum := sha256.Sum256(hello)
	return hex.EncodeToString(sum[:6])
}

// writeDemoImage writes an ACI, which is a tar of a manifest and a root.
func writeDemoImage(file, version string, hello []byte) (err error) {
	label := func(name, value string) map[string]string { return map[string]string{"name": name, "value": value} }
	manifest, err := json.Marshal(map[string]any{
		"acKind": "ImageManifest", "acVersion": "0.8.11", "name": demoImage,
		"labels": []any{label("version", version), label("os", "linux"), label("arch", runtime.GOARCH)},
		"app":    map[string]any{"exec": []string{"/hello"}, "user": "0", "group": "0"},
	})
	if err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	for _, e := range []struct {
		header  tar.Header
		content []byte
	}{
		{tar.Header{Name: "manifest", Mode: 0o644, Typeflag: tar.TypeReg}, manifest},
		{tar.Header{Name: "rootfs/", Mode: 0o755, Typeflag: tar.TypeDir}, nil},
		{tar.Header{Name: "rootfs/hello", Mode: 0o755, Typeflag: tar.TypeReg}, hello},
	} {
		e.header.Size = int64(len(e.content))
		if err := w.WriteHeader(&e.header); err != nil {
			return err
		}
		if _, err := w.Write(e.content); err != nil {
			return err
		}
	}
	return w.Close()
}

// deployDemo applies the manifest by kubectl, as a user would.
func (n node) deployDemo(ctx context.Context) error {
	hello, err := hellobin.Binary()
	if err != nil {
		return err
	}
	manifest := strings.ReplaceAll(demoManifest, "IMAGE", demoImage+":"+demoVersion(hello))
	if err := os.WriteFile(n.demoManifest(), []byte(manifest), 0o644); err != nil {
		return err
	}
	return n.kubectl(ctx, "apply", "--filename="+n.demoManifest())
}

func (n node) kubectl(ctx context.Context, args ...string) error {
	cmd := self(append([]string{"kubectl", "--kubeconfig=" + n.kubeconfig("admin")}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return ctx.Err()
}

// demoURL is the address of the demo's page in the cluster.
func demoURL(ctx context.Context, client kubernetes.Interface) (string, error) {
	s, err := client.CoreV1().Services(metav1.NamespaceDefault).Get(ctx, demoName, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	return "http://" + net.JoinHostPort(s.Spec.ClusterIP, "80") + "/", nil
}

// fetchDemo gets the demo's page.
func fetchDemo(ctx context.Context, url string) (page string, err error) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}}
	page, err = fetch(ctx, client, url)
	return strings.TrimSpace(page), err
}

// fetchForwarded gets the demo's page through kubectl port-forward.
func (n node) fetchForwarded(ctx context.Context) (page string, err error) {
	cmd := self("kubectl", "--kubeconfig="+n.kubeconfig("admin"), "port-forward", "service/"+demoName, "--address=127.0.0.1", ":80")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return "", err
	}
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	defer func() {
		stop()
		cmd.Process.Kill()
		cmd.Wait()
	}()
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n') // Forwarding from 127.0.0.1:PORT -> 80
	address, _, ok := strings.Cut(strings.TrimPrefix(line, "Forwarding from "), " ")
	if err != nil || !ok {
		cmd.Process.Kill()
		cmd.Wait() // stderr is whole after it
		return "", fmt.Errorf("kubectl port-forward said %q %s", strings.TrimSpace(line), strings.TrimSpace(stderr.String()))
	}
	go io.Copy(io.Discard, r) // ends with the process
	return fetchDemo(ctx, "http://"+address+"/")
}
