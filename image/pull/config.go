package pull

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/types"
)

// Config is what the operator sets about pulls. It is plain data and crosses
// to the worker; it holds no secrets.
type Config struct {
	// RegistriesConf and RegistriesConfDir are registries.conf and its drop-in
	// folder. Empty means below /etc/containers.
	RegistriesConf    string `json:"registriesConf,omitempty"`
	RegistriesConfDir string `json:"registriesConfDir,omitempty"`
	// RegistriesDir is registries.d: where signatures are looked up.
	// Empty means /etc/containers/registries.d.
	RegistriesDir string `json:"registriesDir,omitempty"`
	// Policy is policy.json. Empty means /etc/containers/policy.json. A file
	// that does not exist accepts every image.
	Policy string `json:"policy,omitempty"`
	// AuthFile is the node's containers auth file, asked when a pull brings no
	// credentials. Empty means where the containers tools look.
	AuthFile string `json:"authFile,omitempty"`
	// CertDir holds a folder of certificates per registry host.
	// Empty means /etc/containers/certs.d and /etc/docker/certs.d.
	CertDir string `json:"certDir,omitempty"`
	// Insecure accepts plain http and unknown certificates from every registry.
	// registries.conf can do so for single ones.
	Insecure bool `json:"insecure,omitempty"`
	// OS, Architecture and Variant choose from an index; empty is this machine's.
	OS           string `json:"os,omitempty"`
	Architecture string `json:"architecture,omitempty"`
	Variant      string `json:"variant,omitempty"`
	// Layers is how many layers are fetched and unpacked at a time, by all
	// pulls together. Zero means 4.
	Layers int `json:"layers,omitempty"`
	// StallTimeout ends a pull whose source sends nothing. Zero means 1 minute.
	// Mirrors that are down are given up after 30 s each: a shorter timeout ends
	// the pull before the next one is tried.
	StallTimeout time.Duration `json:"stallTimeout,omitempty"`
	// Retries is how often a failed request is tried again, and RetryDelay the
	// first pause, which doubles. Zero means 4 and 250 ms; negative is none.
	Retries    int           `json:"retries,omitempty"`
	RetryDelay time.Duration `json:"retryDelay,omitempty"`
	// NoSync leaves writing to the disk to the kernel: faster on a slow disk,
	// and after a power cut images pulled shortly before may be damaged.
	NoSync bool `json:"noSync,omitempty"`
}

func (c Config) withDefaults() Config {
	set := func(p *string, def string) {
		if *p == "" {
			*p = def
		}
	}
	set(&c.RegistriesConf, "/etc/containers/registries.conf")
	set(&c.RegistriesConfDir, "/etc/containers/registries.conf.d")
	set(&c.RegistriesDir, "/etc/containers/registries.d")
	set(&c.Policy, "/etc/containers/policy.json")
	if c.Layers <= 0 {
		c.Layers = 4
	}
	if c.StallTimeout <= 0 {
		c.StallTimeout = time.Minute
	}
	if c.Retries == 0 {
		c.Retries = 4
	}
	if c.RetryDelay <= 0 {
		c.RetryDelay = 250 * time.Millisecond
	}
	return c
}

// system is the configuration as the image library takes it.
func (c Config) system() (*types.SystemContext, error) {
	conf, err := existing(c.RegistriesConf)
	if err != nil {
		return nil, fmt.Errorf("read registries.conf: %w", err)
	}
	sys := &types.SystemContext{
		SystemRegistriesConfPath:    conf,
		SystemRegistriesConfDirPath: c.RegistriesConfDir,
		RegistriesDirPath:           c.RegistriesDir,
		AuthFilePath:                c.AuthFile,
		DockerPerHostCertDirPath:    c.CertDir,
		OSChoice:                    c.OS,
		ArchitectureChoice:          c.Architecture,
		VariantChoice:               c.Variant,
		DockerRegistryUserAgent:     "rktshim",
	}
	if c.Insecure { // an explicit false would override registries.conf
		sys.DockerInsecureSkipTLSVerify = types.OptionalBoolTrue
	}
	return sys, nil
}

// existing is path, or an empty file's if there is none: the library takes a
// missing file that was named for an error.
func existing(path string) (string, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return os.DevNull, nil
	}
	return path, err
}

// Auth are the credentials that come with a pull, in the forms of CRI's AuthConfig.
type Auth struct {
	Username string `json:"username,omitempty"`
	Password string `json:"password,omitempty"`
	// Auth is base64 of "username:password".
	Auth string `json:"auth,omitempty"`
	// ServerAddress, if set, is the only registry that they are for.
	ServerAddress string `json:"serverAddress,omitempty"`
	// IdentityToken is exchanged for an access token.
	IdentityToken string `json:"identityToken,omitempty"`
	// RegistryToken is sent to the registry as it is.
	RegistryToken string `json:"registryToken,omitempty"`
}

// String keeps secrets out of logs.
func (a *Auth) String() string {
	if a == nil {
		return "none"
	}
	return "redacted"
}

// GoString keeps secrets out of logs.
func (a *Auth) GoString() string { return a.String() }

// apply puts the credentials into sys if they are for the registry of ref.
// Without any that are, the library asks the node's auth file.
func (a *Auth) apply(sys *types.SystemContext, ref reference.Named) error {
	if a == nil || !a.isFor(reference.Domain(ref)) {
		return nil
	}
	switch {
	case a.Username != "":
		sys.DockerAuthConfig = &types.DockerAuthConfig{Username: a.Username, Password: a.Password}
	case a.IdentityToken != "":
		sys.DockerAuthConfig = &types.DockerAuthConfig{IdentityToken: a.IdentityToken}
	case a.Auth != "":
		user, password, err := decodeAuth(a.Auth)
		if err != nil {
			return err
		}
		sys.DockerAuthConfig = &types.DockerAuthConfig{Username: user, Password: password}
	case a.RegistryToken != "":
		// The library keeps the token from mirrors only if there is a config, too.
		sys.DockerAuthConfig = &types.DockerAuthConfig{}
		sys.DockerBearerRegistryToken = a.RegistryToken
	}
	return nil
}

func decodeAuth(auth string) (user, password string, err error) {
	raw, err := base64.StdEncoding.DecodeString(auth)
	user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
	if err != nil || !ok { // the cause would quote what it could not decode
		return "", "", fmt.Errorf("auth.auth is not base64 of user:password: %w", errdefs.ErrInvalidArgument)
	}
	return user, password, nil
}

// isFor says whether the credentials may be sent to a registry.
func (a *Auth) isFor(domain string) bool {
	if a.ServerAddress == "" {
		return true
	}
	addr := a.ServerAddress
	if !strings.Contains(addr, "://") {
		addr = "https://" + addr
	}
	u, err := url.Parse(addr)
	return err == nil && canonicalHost(u.Host) == canonicalHost(domain)
}

// canonicalHost makes the names of Docker Hub one.
func canonicalHost(host string) string {
	switch host = strings.ToLower(host); host {
	case "index.docker.io", "registry-1.docker.io", "docker.io":
		return "docker.io"
	}
	return host
}

// Request asks for one image.
type Request struct {
	// Image is its name; see store.ParseReference for how short ones resolve.
	Image string `json:"image"`
	Auth  *Auth  `json:"auth,omitempty"`
}

// Phase is how far a layer is.
type Phase string

// The phases of a layer, in this order; Present is the only one of a layer
// that the store had.
const (
	Waiting Phase = "waiting"
	Pulling Phase = "pulling" // fetched and unpacked at once
	Done    Phase = "done"
	Present Phase = "present"
)

// Event tells progress of one layer.
type Event struct {
	Layer digest.Digest `json:"layer"` // of the blob
	Phase Phase         `json:"phase"`
	// Bytes of the blob that have been unpacked, and how many it has.
	// Size is -1 if the source does not tell.
	Bytes int64 `json:"bytes"`
	Size  int64 `json:"size"`
}

// Progress receives events. It is called from several goroutines and must not
// block; nil is allowed.
type Progress func(Event)

// Result is what a pull brought.
type Result struct {
	// ID is the image's id in the store.
	ID string `json:"id"`
	// Names are what the image was given.
	Names []string `json:"names"`
	// Fetched are the bytes that came from the source for layers.
	Fetched int64 `json:"fetched"`
}
