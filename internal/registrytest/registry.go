package registrytest

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Registry serves what was pushed to it until the test ends.
type Registry struct {
	// Host is "127.0.0.1:port": image names begin with it.
	Host string
	// Server is the HTTP server below it.
	Server *httptest.Server

	mu        sync.Mutex
	manifests map[string]blob          // guarded by mu; by "repo@digest" and "repo:tag"
	blobs     map[digest.Digest][]byte // guarded by mu
	faults    map[string][]Fault       // guarded by mu; by what is asked for
	always    []Fault                  // guarded by mu
	requests  []Request                // guarded by mu
	login     *Login                   // guarded by mu
	tokens    map[string]time.Time     // guarded by mu; valid ones and their end
}

type blob struct {
	mediaType string
	data      []byte
}

// Request is one that the registry got.
type Request struct {
	Method, Path string
	Range        string
	// Authorization is the header as it came.
	Authorization string
}

// Login says who may pull. Realm is the registry's own token service.
type Login struct {
	User, Password string
	// Basic asks for user and password at each request instead of a token.
	Basic bool
	// IdentityToken is accepted by the token service as a refresh token.
	IdentityToken string
	// RegistryToken is accepted as a token by itself.
	RegistryToken string
	// Life is how long a token is good. Zero means forever. It is not told to
	// the client, which believes in 60 seconds: it finds out by a refusal.
	Life time.Duration
	// Uses is how many requests a token is good for. Zero means any number.
	Uses int
}

// Fault answers a request in place of the registry. It returns false to let
// the registry answer after all, for example after a pause.
type Fault func(w http.ResponseWriter, r *http.Request, content []byte) bool

// New starts a registry with plain http.
func New(t testing.TB) *Registry { return start(t, nil) }

// NewTLS starts a registry with https; its certificate is r.Server's.
func NewTLS(t testing.TB) *Registry { return start(t, &tls.Config{}) }

func start(t testing.TB, config *tls.Config) *Registry {
	t.Helper()
	r := &Registry{
		manifests: map[string]blob{}, blobs: map[digest.Digest][]byte{},
		faults: map[string][]Fault{}, tokens: map[string]time.Time{},
	}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(r.serve))
	if config != nil {
		r.Server.StartTLS()
	} else {
		r.Server.Start()
	}
	t.Cleanup(func() {
		r.Server.CloseClientConnections()
		r.Server.Close()
	})
	u, err := url.Parse(r.Server.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.Host = u.Host
	return r
}

// Ref is the name of an image here: repo, then ":tag" or "@digest".
func (r *Registry) Ref(repo, rest string) string {
	if !strings.HasPrefix(rest, "@") {
		rest = ":" + rest
	}
	return r.Host + "/" + repo + rest
}

// RequireLogin makes the registry ask for credentials from now on.
func (r *Registry) RequireLogin(l Login) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.login = &l
}

// OnBlob answers the next requests for a blob with these faults, one each.
func (r *Registry) OnBlob(d digest.Digest, faults ...Fault) { r.on("blob "+d.String(), faults) }

// OnManifest answers the next requests for a manifest, named by tag or digest
// as the client asks for it, with these faults, one each.
func (r *Registry) OnManifest(reference string, faults ...Fault) {
	r.on("manifest "+reference, faults)
}

func (r *Registry) on(what string, faults []Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[what] = append(r.faults[what], faults...)
}

// Always answers every request with this fault first.
func (r *Registry) Always(f Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.always = append(r.always, f)
}

// Requests are those so far whose path contains part.
func (r *Registry) Requests(part string) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Request
	for _, q := range r.requests {
		if strings.Contains(q.Path, part) {
			found = append(found, q)
		}
	}
	return found
}

// Forget empties the list of requests.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

var route = regexp.MustCompile(`^/v2/(.+)/(manifests|blobs)/([^/]+)$`)

func (r *Registry) serve(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	r.requests = append(r.requests, Request{q.Method, q.URL.Path, q.Header.Get("Range"), q.Header.Get("Authorization")})
	always := r.always
	r.mu.Unlock()
	for _, f := range always {
		if f(w, q, nil) {
			return
		}
	}
	if q.URL.Path == "/token" {
		r.token(w, q)
		return
	}
	if !r.admits(w, q) {
		return
	}
	if strings.Trim(q.URL.Path, "/") == "v2" {
		w.WriteHeader(http.StatusOK)
		return
	}
	m := route.FindStringSubmatch(q.URL.Path)
	switch {
	case m == nil:
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	case q.Method != http.MethodGet && q.Method != http.MethodHead:
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "this registry is read only")
	case m[2] == "manifests":
		r.manifest(w, q, m[1], m[3])
	default:
		r.blob(w, q, m[3])
	}
}

func (r *Registry) manifest(w http.ResponseWriter, q *http.Request, repo, reference string) {
	sep := ":"
	if strings.Contains(reference, ":") {
		sep = "@"
	}
	r.mu.Lock()
	b, ok := r.manifests[repo+sep+reference]
	r.mu.Unlock()
	if r.disturbed(w, q, "manifest "+reference, b.data) {
		return
	}
	if !ok {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	w.Header().Set("Content-Type", b.mediaType)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(b.data).String())
	w.Header().Set("Content-Length", fmt.Sprint(len(b.data)))
	w.Write(b.data)
}

func (r *Registry) blob(w http.ResponseWriter, q *http.Request, d string) {
	r.mu.Lock()
	data, ok := r.blobs[digest.Digest(d)]
	r.mu.Unlock()
	if r.disturbed(w, q, "blob "+d, data) {
		return
	}
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown to registry")
		return
	}
	ServeContent(w, q, data)
}

func (r *Registry) disturbed(w http.ResponseWriter, q *http.Request, what string, content []byte) bool {
	r.mu.Lock()
	faults := r.faults[what]
	if len(faults) > 0 {
		r.faults[what] = faults[1:]
	}
	r.mu.Unlock()
	return len(faults) > 0 && faults[0](w, q, content)
}

// fail answers with an error as registries put it.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": []map[string]string{{"code": code, "message": message}}})
}

// admits asks for credentials, if a login is required.
func (r *Registry) admits(w http.ResponseWriter, q *http.Request) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.login == nil {
		return true
	}
	scheme, credentials, _ := strings.Cut(q.Header.Get("Authorization"), " ")
	if r.login.Basic {
		if scheme == "Basic" && credentials == basic(r.login.User, r.login.Password) {
			return true
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
	} else {
		if scheme == "Bearer" && r.validLocked(credentials) {
			return true
		}
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test"`, r.Server.URL))
	}
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

func (r *Registry) validLocked(token string) bool {
	if r.login.RegistryToken != "" && token == r.login.RegistryToken {
		return true
	}
	end, ok := r.tokens[token]
	if !ok || (r.login.Life > 0 && time.Now().After(end)) {
		return false
	}
	if r.login.Uses > 0 {
		uses := 0
		for _, q := range r.requests {
			if q.Authorization == "Bearer "+token {
				uses++
			}
		}
		return uses <= r.login.Uses
	}
	return true
}

// token is the registry's token service: basic credentials by GET, a refresh
// token by POST.
func (r *Registry) token(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	user, password, _ := q.BasicAuth()
	ok := r.login != nil && user == r.login.User && password == r.login.Password && user != ""
	if r.login != nil && r.login.IdentityToken != "" && q.PostFormValue("refresh_token") == r.login.IdentityToken {
		ok = true
	}
	if !ok {
		fail(w, http.StatusUnauthorized, "DENIED", "requested access to the resource is denied")
		return
	}
	token := fmt.Sprintf("token-%d", len(r.tokens)+1)
	r.tokens[token] = time.Now().Add(r.login.Life)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 60})
}

func basic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}

// CDN starts a second server on another address of this machine ("localhost"
// is another host than "127.0.0.1" to a client) that serves the same blobs at
// "/<digest>", and gives its URL and a function that lists its requests.
func (r *Registry) CDN(t testing.TB) (base string, requests func() []Request) {
	t.Helper()
	var mu sync.Mutex
	var seen []Request
	l, err := net.Listen("tcp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		mu.Lock()
		seen = append(seen, Request{q.Method, q.URL.Path, q.Header.Get("Range"), q.Header.Get("Authorization")})
		mu.Unlock()
		r.mu.Lock()
		data := r.blobs[digest.Digest(strings.TrimPrefix(q.URL.Path, "/"))]
		r.mu.Unlock()
		ServeContent(w, q, data)
	})}}
	s.Start()
	t.Cleanup(s.Close)
	return s.URL, func() []Request {
		mu.Lock()
		defer mu.Unlock()
		return append([]Request(nil), seen...)
	}
}
