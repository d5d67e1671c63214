package pull

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
	"go.podman.io/image/v5/image"
	"go.podman.io/image/v5/manifest"
	"go.podman.io/image/v5/pkg/blobinfocache/none"
	"go.podman.io/image/v5/signature"
	"go.podman.io/image/v5/types"

	"github.com/rktnetes/rktshim/image/store"
)

// maxConfig bounds an image's config, as the transport bounds manifests.
const maxConfig = 4 << 20

// plan is all that must be known before layers are fetched.
type plan struct {
	manifest []byte
	config   []byte
	layers   []layer
	digests  []digest.Digest // of the manifest and of the index that led to it
}

// layer is one layer of a plan.
type layer struct {
	blob   types.BlobInfo
	diff   digest.Digest // of the content
	parent digest.Digest // chain id of the layer below, empty for the lowest
	chain  digest.Digest
}

// resolve fetches what leads to the layers, and asks the policy. A config that
// the store has is taken from there.
func (s *source) resolve(ctx context.Context, policy *signature.PolicyContext, st *store.Store) (*plan, error) {
	var p *plan
	var info types.BlobInfo
	err := s.exchange(ctx, func(ctx context.Context, src types.ImageSource) (err error) {
		p, info, err = chooseManifest(ctx, s.sys, src, policy)
		return err
	})
	if err != nil {
		return nil, err
	}
	if p.config, err = st.RawConfig(info.Digest.String()); err == nil && info.Digest.Algorithm().FromBytes(p.config) == info.Digest {
		return p, p.chain()
	}
	err = s.exchange(ctx, func(ctx context.Context, src types.ImageSource) (err error) {
		p.config, err = fetchConfig(ctx, src, info)
		return err
	})
	if err != nil {
		return nil, err
	}
	return p, p.chain()
}

// chooseManifest fetches the manifest, through an index if there is one. The
// policy is asked before anything in it is looked at.
func chooseManifest(ctx context.Context, sys *types.SystemContext, src types.ImageSource, policy *signature.PolicyContext) (*plan, types.BlobInfo, error) {
	top := image.UnparsedInstance(src, nil)
	raw, mime, err := top.Manifest(ctx)
	if err != nil {
		return nil, types.BlobInfo{}, fmt.Errorf("read manifest: %w", err)
	}
	topDigest, err := manifest.Digest(raw)
	if err != nil {
		return nil, types.BlobInfo{}, fmt.Errorf("digest manifest: %w", err)
	}
	p := &plan{manifest: raw, digests: []digest.Digest{topDigest}}
	_, refused := policy.IsRunningImageAllowed(ctx, top)
	mime = knownType(raw, mime)
	if manifest.MIMETypeIsMultiImage(mime) {
		list, err := manifest.ListFromBlob(raw, mime)
		if err != nil {
			return nil, types.BlobInfo{}, fmt.Errorf("parse index %s: %w", topDigest, err)
		}
		chosen, err := list.ChooseInstance(sys)
		if err != nil {
			return nil, types.BlobInfo{}, fmt.Errorf("choose from index %s: %w", topDigest, err)
		}
		instance := image.UnparsedInstance(src, &chosen)
		if p.manifest, mime, err = instance.Manifest(ctx); err != nil {
			return nil, types.BlobInfo{}, fmt.Errorf("read manifest %s: %w", chosen, err)
		}
		mime = knownType(p.manifest, mime)
		p.digests = append(p.digests, chosen)
		if refused != nil {
			_, refused = policy.IsRunningImageAllowed(ctx, instance)
		}
	}
	if refused != nil {
		return nil, types.BlobInfo{}, refused
	}
	info, err := p.parse(mime)
	return p, info, err
}

// knownType is the manifest's media type: the one that it was served with if
// that is one of a manifest, else what its content says.
func knownType(raw []byte, served string) string {
	switch served {
	case v1.MediaTypeImageManifest, v1.MediaTypeImageIndex, manifest.DockerV2Schema2MediaType, manifest.DockerV2ListMediaType:
		return served
	}
	if guess := manifest.GuessMIMEType(raw); guess != "" {
		return guess
	}
	return served
}

// parse reads the manifest's layers and says where its config is.
func (p *plan) parse(mime string) (types.BlobInfo, error) {
	switch mime {
	case v1.MediaTypeImageManifest, manifest.DockerV2Schema2MediaType:
	default:
		return types.BlobInfo{}, fmt.Errorf("manifest has type %q: only OCI images and Docker's v2 schema 2 are supported", mime)
	}
	m, err := manifest.FromBlob(p.manifest, mime)
	if err != nil {
		return types.BlobInfo{}, fmt.Errorf("parse manifest: %w", err)
	}
	for i, info := range m.LayerInfos() {
		if err := info.Digest.Validate(); err != nil {
			return types.BlobInfo{}, fmt.Errorf("manifest: layer %d: digest %q: %w", i, info.Digest, err)
		}
		if !isLayerType(info.MediaType) {
			return types.BlobInfo{}, fmt.Errorf("manifest: layer %d has type %q, which is no image layer", i, info.MediaType)
		}
		p.layers = append(p.layers, layer{blob: info.BlobInfo})
	}
	config := m.ConfigInfo()
	if err := config.Digest.Validate(); err != nil {
		return types.BlobInfo{}, fmt.Errorf("manifest: config digest %q: %w", config.Digest, err)
	}
	switch config.MediaType {
	case v1.MediaTypeImageConfig, manifest.DockerV2Schema2ConfigMediaType:
		return config, nil
	}
	return types.BlobInfo{}, fmt.Errorf("manifest: config has type %q: this is an artifact, not an image", config.MediaType)
}

var layerTypes = []string{
	v1.MediaTypeImageLayer, v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerZstd,
	v1.MediaTypeImageLayerNonDistributable, v1.MediaTypeImageLayerNonDistributableGzip, v1.MediaTypeImageLayerNonDistributableZstd, //nolint:staticcheck // deprecated, still served
	manifest.DockerV2SchemaLayerMediaTypeUncompressed, manifest.DockerV2Schema2LayerMediaType,
	manifest.DockerV2Schema2ForeignLayerMediaType, manifest.DockerV2Schema2ForeignLayerMediaTypeGzip,
	"application/vnd.docker.image.rootfs.diff.tar.zstd",
}

func isLayerType(t string) bool { return slices.Contains(layerTypes, t) }

func fetchConfig(ctx context.Context, src types.ImageSource, info types.BlobInfo) ([]byte, error) {
	if info.Size > maxConfig {
		return nil, fmt.Errorf("config %s has %d bytes: more than %d are refused", info.Digest, info.Size, maxConfig)
	}
	body, _, err := src.GetBlob(ctx, info, none.NoCache)
	if err != nil {
		return nil, fmt.Errorf("read config %s: %w", info.Digest, err)
	}
	defer body.Close()
	data, err := io.ReadAll(io.LimitReader(body, maxConfig+1))
	if err != nil {
		return nil, fmt.Errorf("read config %s: %w", info.Digest, err)
	}
	if len(data) > maxConfig {
		return nil, fmt.Errorf("config %s: more than %d bytes are refused", info.Digest, maxConfig)
	}
	if got := info.Digest.Algorithm().FromBytes(data); got != info.Digest {
		return nil, fmt.Errorf("config %s: the source sent content of digest %s", info.Digest, got)
	}
	return data, nil
}

// chain works out each layer's place from the config.
func (p *plan) chain() error {
	var config v1.Image
	if err := json.Unmarshal(p.config, &config); err != nil {
		return fmt.Errorf("parse config: %w", err)
	}
	diffs := config.RootFS.DiffIDs
	if len(diffs) != len(p.layers) {
		return fmt.Errorf("config names %d layers, the manifest %d", len(diffs), len(p.layers))
	}
	var below digest.Digest
	for i := range p.layers {
		if err := diffs[i].Validate(); err != nil || diffs[i].Algorithm() != digest.Canonical {
			return fmt.Errorf("config: layer %d: diff id %q is no sha256 digest", i, diffs[i])
		}
		l := &p.layers[i]
		l.diff, l.parent = diffs[i], below
		l.chain = store.ChainID(below, l.diff)
		below = l.chain
	}
	return nil
}

// top is the chain id of the image's last layer, empty without layers.
func (p *plan) top() digest.Digest {
	if len(p.layers) == 0 {
		return ""
	}
	return p.layers[len(p.layers)-1].chain
}

// names are what an image pulled as ref is called: its tag, and its
// repository with the digest of the manifest and of the index.
func (p *plan) names(ref reference.Named) ([]string, error) {
	var names []string
	if !reference.IsNameOnly(ref) {
		names = append(names, ref.String())
	}
	for _, d := range p.digests {
		canonical, err := reference.WithDigest(reference.TrimNamed(ref), d)
		if err != nil {
			return nil, fmt.Errorf("name image: %w", err)
		}
		if name := canonical.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// loadPolicy reads policy.json; without one everything is accepted.
func loadPolicy(path string) (*signature.PolicyContext, error) {
	policy := &signature.Policy{Default: signature.PolicyRequirements{signature.NewPRInsecureAcceptAnything()}}
	path, err := existing(path)
	if err == nil && path != os.DevNull {
		policy, err = signature.NewPolicyFromFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errPolicy, err)
	}
	return signature.NewPolicyContext(policy)
}
