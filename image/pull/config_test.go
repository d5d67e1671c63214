package pull_test

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"path/filepath"
	"testing"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

func TestRegistriesConfIsReadAnewByEachPull(t *testing.T) {
	r, mirror := registrytest.New(t), registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	mirror.Push("mirrored/app", "v1", files(registrytest.Files{"a": ""}))

	h.write(t, "registries.conf", fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\nblocked = true\n", r.Host, r.Host))
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.ErrorContains(t, err, "blocked")
	require.Empty(t, r.Requests(""))

	h.write(t, "registries.conf", fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n", r.Host, r.Host, mirror.Host+"/mirrored"))
	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
	require.Empty(t, r.Requests("manifests"))
	require.NotEmpty(t, mirror.Requests("mirrored/app/blobs"))
	got, err := h.store.Get(img.ID())
	require.NoError(t, err)
	require.Equal(t, []string{r.Ref("app", "v1")}, got.Tags, "named as it was asked for")
}

func TestAMirrorThatLacksTheImageIsPassedOver(t *testing.T) {
	r, mirror := registrytest.New(t), registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	h.write(t, "registries.conf", fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n", r.Host, r.Host, mirror.Host))
	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
}

// Credentials that come with the pull are for the registry that it names.
func TestCredentialsDoNotGoToAMirror(t *testing.T) {
	for what, auth := range everyAuth() {
		t.Run(what, func(t *testing.T) {
			r, mirror := registrytest.New(t), registrytest.New(t)
			h := newHost(t, nil)
			r.RequireLogin(registrytest.Login{User: "jo", Password: "s3:cret", IdentityToken: "identity", RegistryToken: "registry"})
			mirror.RequireLogin(registrytest.Login{User: "jo", Password: "other"})
			img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
			h.write(t, "registries.conf", fmt.Sprintf("[[registry]]\nprefix = %q\nlocation = %q\n[[registry.mirror]]\nlocation = %q\n", r.Host, r.Host, mirror.Host))
			for _, auth.ServerAddress = range []string{"", r.Host} {
				res, err := h.engine.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1"), Auth: auth}, nil)
				require.NoError(t, err)
				require.Equal(t, img.ID(), res.ID)
			}
			require.NotEmpty(t, mirror.Requests(""))
			for _, q := range mirror.Requests("") {
				require.Empty(t, q.Authorization)
			}
		})
	}
}

func TestPlainHTTPNeedsToBeAllowed(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, func(c *pull.Config) { c.Insecure = false })
	r.RequireLogin(registrytest.Login{User: "jo", Password: "secret"})
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	req := pull.Request{Image: r.Ref("app", "v1"), Auth: &pull.Auth{Username: "jo", Password: "secret"}}

	_, err := h.engine.Pull(t.Context(), req, nil)
	require.ErrorContains(t, err, "server gave HTTP response to HTTPS client")
	require.Empty(t, r.Requests(""), "nothing is sent in clear")

	h.write(t, "registries.conf", fmt.Sprintf("[[registry]]\nlocation = %q\ninsecure = true\n", r.Host))
	res, err := h.engine.Pull(t.Context(), req, nil)
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
}

func TestACertificateOfAnUnknownAuthorityNeedsToBeAllowed(t *testing.T) {
	r := registrytest.NewTLS(t)
	h := newHost(t, func(c *pull.Config) { c.Insecure = false })
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.ErrorContains(t, err, "certificate")

	h.write(t, filepath.Join("certs.d", r.Host, "ca.crt"), string(pemOf(r)))
	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
}

func pemOf(r *registrytest.Registry) []byte {
	return fmt.Appendf(nil, "-----BEGIN CERTIFICATE-----\n%s\n-----END CERTIFICATE-----\n", base64.StdEncoding.EncodeToString(r.Server.Certificate().Raw))
}

func TestAnUnreachableRegistryIsUnavailable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	h := newHost(t, nil)
	_, err = h.pull(t, l.Addr().String()+"/app")
	require.ErrorIs(t, err, pull.ErrUnavailable)
	require.Regexp(t, `^RegistryUnavailable: pull 127.0.0.1:\d+/app:latest: .*connection refused`, err.Error())
}

func TestThePolicyIsReadAnewByEachPull(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))

	h.write(t, "policy.json", `{"default":[{"type":"reject"}]}`)
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.ErrorIs(t, err, pull.ErrSignature)
	require.Regexp(t, `^SignatureValidationFailed: pull `, err.Error())
	require.Empty(t, r.Requests("blobs"))

	h.write(t, "policy.json", `{"default":[{"type":"insecureAcceptAnything"}]}`)
	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)

	h.write(t, "policy.json", `{`)
	_, err = h.pull(t, r.Ref("app", "v1"))
	require.ErrorIs(t, err, pull.ErrSignature, "a broken policy accepts nothing")
}

func TestOnlyImagesSignedWithTheRightKeyPass(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	index := r.PushIndex("multi", "v1", false, map[string]registrytest.Pushed{"linux/amd64": r.Push("multi", "", files(registrytest.Files{"a": "b"})), "linux/arm64": r.Push("multi", "", files(registrytest.Files{"a": "c"}))})
	key, err := openpgp.NewEntity("test", "", "test@example.com", &packet.Config{RSABits: 2048})
	require.NoError(t, err)
	var public bytes.Buffer
	require.NoError(t, key.Serialize(&public))
	h.write(t, "policy.json", fmt.Sprintf(`{"default":[{"type":"reject"}],"transports":{"docker":{%q:[{"type":"signedBy","keyType":"GPGKeys","keyData":%q}]}}}`,
		r.Host, base64.StdEncoding.EncodeToString(public.Bytes())))
	signatures := filepath.Join(h.dir, "etc", "signatures")
	h.write(t, "registries.d/test.yaml", fmt.Sprintf("docker:\n  %s:\n    lookaside: file://%s\n", r.Host, signatures))

	_, err = h.pull(t, r.Ref("app", "v1"))
	require.Regexp(t, `^SignatureValidationFailed: pull `, err.Error())

	sign := func(repo, digest, reference string) {
		var signed bytes.Buffer
		w, err := openpgp.Sign(&signed, key, nil, nil)
		require.NoError(t, err)
		fmt.Fprintf(w, `{"critical":{"type":"atomic container signature","image":{"docker-manifest-digest":%q},"identity":{"docker-reference":%q}},"optional":{}}`, digest, reference)
		require.NoError(t, w.Close())
		h.write(t, filepath.Join("signatures", repo+"@sha256="+digest[len("sha256:"):], "signature-1"), signed.String())
	}
	sign("app", img.Manifest.String(), r.Ref("other", "v1"))
	_, err = h.pull(t, r.Ref("app", "v1"))
	require.ErrorIs(t, err, pull.ErrSignature, "signed for another name")

	sign("app", img.Manifest.String(), r.Ref("app", "v1"))
	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)

	_, err = h.pull(t, r.Ref("multi", "v1"))
	require.ErrorIs(t, err, pull.ErrSignature)
	sign("multi", index.String(), r.Ref("multi", "v1"))
	_, err = h.pull(t, r.Ref("multi", "v1"))
	require.NoError(t, err, "a signed index vouches for its images")
}
