package pull_test

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

func encoded(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// everyAuth has all forms of jo's credentials.
func everyAuth() map[string]*pull.Auth {
	return map[string]*pull.Auth{
		"user and password": {Username: "jo", Password: "s3:cret"},
		"auth":              {Auth: encoded("jo:s3:cret")},
		"identity token":    {IdentityToken: "identity"},
		"registry token":    {RegistryToken: "registry"},
	}
}

func TestEveryFormOfCredentialsLogsIn(t *testing.T) {
	login := registrytest.Login{User: "jo", Password: "s3:cret", IdentityToken: "identity", RegistryToken: "registry"}
	basic := login
	basic.Basic = true
	for what, c := range map[string]struct {
		login registrytest.Login
		auth  func(host string) *pull.Auth
	}{
		"user and password":    {login, func(string) *pull.Auth { return &pull.Auth{Username: "jo", Password: "s3:cret"} }},
		"basic without tokens": {basic, func(string) *pull.Auth { return &pull.Auth{Username: "jo", Password: "s3:cret"} }},
		"auth":                 {login, func(string) *pull.Auth { return &pull.Auth{Auth: encoded("jo:s3:cret")} }},
		"identity token":       {login, func(string) *pull.Auth { return &pull.Auth{IdentityToken: "identity"} }},
		"registry token":       {login, func(string) *pull.Auth { return &pull.Auth{RegistryToken: "registry"} }},
		"for this server": {login, func(host string) *pull.Auth {
			return &pull.Auth{Username: "jo", Password: "s3:cret", ServerAddress: host}
		}},
		"for this server, as an URL": {login, func(host string) *pull.Auth {
			return &pull.Auth{Username: "jo", Password: "s3:cret", ServerAddress: "https://" + host + "/v1/"}
		}},
	} {
		t.Run(what, func(t *testing.T) {
			r := registrytest.New(t)
			r.RequireLogin(c.login)
			h := newHost(t, nil)
			img := r.Push("app", "v1", files(registrytest.Files{"a": what}))
			res, err := h.engine.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1"), Auth: c.auth(r.Host)}, nil)
			require.NoError(t, err)
			require.Equal(t, img.ID(), res.ID)
		})
	}
}

func TestCredentialsForAnotherServerAreNotSent(t *testing.T) {
	r := registrytest.New(t)
	r.RequireLogin(registrytest.Login{User: "jo", Password: "secret"})
	h := newHost(t, nil)
	r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	_, err := h.engine.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1"), Auth: &pull.Auth{Username: "jo", Password: "secret", ServerAddress: "quay.io"}}, nil)
	require.Error(t, err)
	for _, q := range r.Requests("") {
		require.Empty(t, q.Authorization)
	}
}

func TestTheNodesAuthFileIsAskedWithoutCredentials(t *testing.T) {
	r := registrytest.New(t)
	r.RequireLogin(registrytest.Login{User: "jo", Password: "secret"})
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.ErrorContains(t, err, r.Host)
	require.ErrorContains(t, err, "denied")

	auths, err := json.Marshal(map[string]any{"auths": map[string]any{r.Host: map[string]string{"auth": encoded("jo:secret")}}})
	require.NoError(t, err)
	h.write(t, "auth.json", string(auths))
	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
}

func TestADeniedLoginSaysWhichRegistrySaidWhat(t *testing.T) {
	r := registrytest.New(t)
	r.RequireLogin(registrytest.Login{User: "jo", Password: "secret"})
	h := newHost(t, nil)
	r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	_, err := h.engine.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1"), Auth: &pull.Auth{Username: "jo", Password: "wr0ng"}}, nil)
	require.ErrorContains(t, err, r.Host)
	require.ErrorContains(t, err, "denied")
	require.NotContains(t, err.Error(), "wr0ng")
	require.NotErrorIs(t, err, pull.ErrUnavailable)
}

func TestMalformedAuthIsRefusedWithoutQuotingIt(t *testing.T) {
	h := newHost(t, nil)
	for _, auth := range []string{"!!no-base64!!", encoded("no colon")} {
		_, err := h.engine.Pull(t.Context(), pull.Request{Image: "example.com/app", Auth: &pull.Auth{Auth: auth}}, nil)
		require.ErrorContains(t, err, "auth.auth")
		require.NotContains(t, err.Error(), auth)
	}
}

func TestSecretsDoNotShowWhenPrinted(t *testing.T) {
	a := &pull.Auth{Username: "jo", Password: "secret", RegistryToken: "secret"}
	req := pull.Request{Image: "x", Auth: a}
	require.NotContains(t, fmt.Sprintf("%v %+v %#v %s", a, req, req, a), "secret")
}

// The registry refuses the token after some requests, while the client still
// believes in it.
func TestATokenThatEndsInMidPullIsRenewed(t *testing.T) {
	r := registrytest.New(t)
	r.RequireLogin(registrytest.Login{User: "jo", Password: "secret", Uses: 3})
	h := newHost(t, nil)
	img := registrytest.Image{}
	for i := range 8 {
		img.Layers = append(img.Layers, registrytest.Layer{Files: registrytest.Files{fmt.Sprint(i): "x"}})
	}
	pushed := r.Push("app", "v1", img)
	res, err := h.engine.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1"), Auth: &pull.Auth{Username: "jo", Password: "secret"}}, nil)
	require.NoError(t, err)
	require.Equal(t, pushed.ID(), res.ID)
	require.Greater(t, len(r.Requests("/token")), 2)
}

func TestCredentialsDoNotFollowARedirect(t *testing.T) {
	for what, auth := range everyAuth() {
		t.Run(what, func(t *testing.T) {
			r := registrytest.New(t)
			r.RequireLogin(registrytest.Login{User: "jo", Password: "s3:cret", IdentityToken: "identity", RegistryToken: "registry"})
			cdn, seen := r.CDN(t)
			h := newHost(t, nil)
			img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
			r.OnBlob(img.Layers[0], registrytest.Redirect(cdn+"/"+img.Layers[0].String()))
			_, err := h.engine.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1"), Auth: auth}, nil)
			require.NoError(t, err)
			require.Len(t, seen(), 1)
			require.Empty(t, seen()[0].Authorization)
		})
	}
}

// The node's credentials for the same registry must not take the token's place.
func TestARegistryTokenGoesBeforeTheNodesAuthFile(t *testing.T) {
	r := registrytest.New(t)
	r.RequireLogin(registrytest.Login{User: "jo", Password: "secret", RegistryToken: "registry"})
	h := newHost(t, nil)
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	h.write(t, "auth.json", fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, r.Host, encoded("jo:outdated")))
	res, err := h.engine.Pull(t.Context(), pull.Request{Image: r.Ref("app", "v1"), Auth: &pull.Auth{RegistryToken: "registry"}}, nil)
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
}
