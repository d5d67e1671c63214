package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The machine of the cluster and the one that joins are on a network of their own.
const (
	clusterAddress = "198.51.100.1"
	joinedAddress  = "198.51.100.2"
)

// joinedPod runs on the node that joined.
const joinedPod = `
apiVersion: v1
kind: Pod
metadata: {name: joined, namespace: default}
spec:
  nodeName: joined
  terminationGracePeriodSeconds: 1
  containers:
  - name: sleep
    image: ` + registryAddr + `/busybox:1
    command: ["/bin/busybox", "sleep", "36000"]
`

// What docs/join.md does, with its files: a node joins a cluster with a token, gets
// a certificate and, before that ends, the next, and runs the cluster's pods.
func TestNodeJoinsAClusterWithAToken(t *testing.T) {
	t.Parallel()
	cluster := newLocalMachine(t, "cluster")
	n := newPodNode(t, "lean")
	n.connect(t, cluster)
	cluster.up(t, "--demo=false", "--node-ip="+clusterAddress)
	pki := n.prepareJoin(t, cluster)

	k := n.kubelet()
	waitNode(t, cluster)
	first := currentCert(t, pki)
	require.Equal(t, "system:node:joined", first.Subject.CommonName)
	require.Regexp(t, `^system:bootstrap:[0-9a-f]{6} Approved,Issued$`, requests(t, cluster)[0])
	cluster.kubectl(t, "apply", "-f", n.file(t, "pod.yaml", joinedPod))
	cluster.kubectl(t, "wait", "--for=condition=Ready", "--timeout=3m", "pod/joined")

	require.NoError(t, k.Process.Signal(syscall.SIGTERM))
	k.Wait()
	ending := endingCert(t, cluster, pki)
	n.kubelet()
	rotated := currentCert(t, pki)
	for deadline := time.Now().Add(2 * time.Minute); rotated.Equal(ending); rotated = currentCert(t, pki) {
		require.True(t, time.Now().Before(deadline), "the certificate is not rotated")
		time.Sleep(100 * time.Millisecond)
	}
	require.True(t, rotated.NotAfter.After(ending.NotAfter))
	require.Contains(t, requests(t, cluster), "system:node:joined Approved,Issued")
	waitNode(t, cluster)

	cluster.kubectl(t, "delete", "pod", "joined", "--timeout=3m")
	n.waitNothingLeft()
}

// connect lays a cable between the two machines.
func (n *podNode) connect(t *testing.T, cluster *localMachine) {
	t.Helper()
	ip := func(args string) []string { return append([]string{"ip"}, strings.Fields(args)...) }
	for _, cmd := range []*exec.Cmd{
		cluster.command(t, ip("link add join0 type veth peer name join0 netns "+strconv.Itoa(n.Process.Pid))...),
		cluster.command(t, ip("addr add "+clusterAddress+"/24 dev join0")...), cluster.command(t, ip("link set join0 up")...),
		n.command(ip("addr add " + joinedAddress + "/24 dev join0")...), n.command(ip("link set join0 up")...),
	} {
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%v: %s", cmd.Args, out)
	}
}

// prepareJoin does what docs/join.md says for both sides, on the cluster's by the
// very commands, and gives the folder of the kubelet's certificates.
func (n *podNode) prepareJoin(t *testing.T, cluster *localMachine) (pki string) {
	t.Helper()
	dist, err := filepath.Abs("../dist")
	require.NoError(t, err)
	require.NoError(t, os.Symlink(dist, filepath.Join(n.dir, "dist")))
	require.NoError(t, os.Symlink(n.hyperkube, filepath.Join(n.dir, "kubectl")))
	cmd := cluster.command(t, "sh", "-euxc", "cd "+n.dir+"\n"+documented(t, "TOKEN_ID=")+documented(t, "SERVER="))
	cmd.Env = append(cmd.Env, "PATH="+n.dir+":"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	caFile := filepath.Join(n.dir, "ca.crt")
	config := n.file(t, "config.yaml", strings.ReplaceAll(shipped(t, "kubelet-config.yaml"), "/etc/kubernetes/pki/ca.crt", caFile))
	n.args = append(n.withConfig(t, config), "--hostname-override=joined", "--node-ip="+joinedAddress,
		"--kubeconfig="+filepath.Join(n.dir, "kubelet.conf"), "--bootstrap-kubeconfig="+filepath.Join(n.dir, "bootstrap-kubelet.conf"))
	for _, arg := range n.args {
		if dir, ok := strings.CutPrefix(arg, "--cert-dir="); ok {
			pki = dir
		}
	}
	return pki
}

// withConfig gives the kubelet's arguments with another configuration file; what
// the test's own adds is put over it, but for who may call the kubelet.
func (n *podNode) withConfig(t *testing.T, config string) (args []string) {
	t.Helper()
	over := filepath.Join(n.dir, "config.d")
	require.NoError(t, os.Mkdir(over, 0o755))
	for _, arg := range n.args {
		own, ok := strings.CutPrefix(arg, "--config=")
		if !ok {
			args = append(args, arg)
			continue
		}
		b, err := os.ReadFile(own)
		require.NoError(t, err)
		var kept strings.Builder
		for line := range strings.Lines(string(b)) {
			if !strings.HasPrefix(line, "auth") {
				kept.WriteString(line)
			}
		}
		require.NoError(t, os.WriteFile(filepath.Join(over, "10-test.conf"), []byte(kept.String()), 0o600))
		args = append(args, "--config="+config, "--config-dir="+over)
	}
	return args
}

// documented gives the block of commands in docs/join.md that begins with a text.
func documented(t *testing.T, start string) string {
	t.Helper()
	b, err := os.ReadFile("../docs/join.md")
	require.NoError(t, err)
	_, block, ok := strings.Cut(string(b), "```\n"+start)
	require.True(t, ok, "docs/join.md has no block %q", start)
	block, _, ok = strings.Cut(block, "```\n")
	require.True(t, ok)
	return start + block
}

// shipped reads a file that docs/join.md uses.
func shipped(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("../dist/" + name)
	require.NoError(t, err)
	return string(b)
}

func (n *podNode) file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(n.dir, name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// waitNode waits until the node that joined is ready.
func waitNode(t *testing.T, cluster *localMachine) {
	t.Helper()
	cluster.kubectl(t, "wait", "--for=create", "--timeout=3m", "node/joined")
	cluster.kubectl(t, "wait", "--for=condition=Ready", "--timeout=3m", "node/joined")
}

// requests lists who has asked for a certificate, oldest first, and what became of it.
func requests(t *testing.T, cluster *localMachine) []string {
	t.Helper()
	out := cluster.kubectl(t, "get", "csr", "--sort-by=.metadata.creationTimestamp", "--field-selector=spec.signerName=kubernetes.io/kube-apiserver-client-kubelet", "--no-headers")
	var list []string
	for line := range strings.Lines(out) {
		f := strings.Fields(line) // name, age, signer, requestor, duration, condition
		list = append(list, f[3]+" "+f[5])
	}
	require.NotEmpty(t, list)
	return list
}

const currentName = "kubelet-client-current.pem"

// currentCert is the kubelet's certificate as a client.
func currentCert(t *testing.T, pki string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(pki, currentName))
	require.NoError(t, err)
	block, _ := pem.Decode(b)
	require.NotNil(t, block)
	cert, err := x509.ParseCertificate(block.Bytes)
	require.NoError(t, err)
	return cert
}

// endingCert gives the kubelet a certificate of the cluster's that is about to end:
// it asks for the next one when nine tenths of a certificate's time are over.
func endingCert(t *testing.T, cluster *localMachine, pki string) *x509.Certificate {
	t.Helper()
	read := func(name string) []byte {
		b, err := os.ReadFile(filepath.Join(cluster.dir, "pki", name))
		require.NoError(t, err)
		block, _ := pem.Decode(b)
		require.NotNil(t, block)
		return block.Bytes
	}
	ca, err := x509.ParseCertificate(read("ca.crt"))
	require.NoError(t, err)
	caKey, err := x509.ParseECPrivateKey(read("ca.key"))
	require.NoError(t, err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	now := time.Now()
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: "system:node:joined", Organization: []string{"system:nodes"}},
		NotBefore:    now.Add(-99 * time.Hour), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, ca, &key.PublicKey, caKey)
	require.NoError(t, err)
	keyDER, err := x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	content := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...)
	path := filepath.Join(pki, "kubelet-client-ending.pem")
	require.NoError(t, os.WriteFile(path, content, 0o600))
	require.NoError(t, os.Remove(filepath.Join(pki, currentName)))
	require.NoError(t, os.Symlink(path, filepath.Join(pki, currentName)))
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return cert
}
