package aci

import (
	"encoding/json"
	"fmt"
	"path"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ociv1 "github.com/opencontainers/image-spec/specs-go/v1"
	"go.podman.io/image/v5/docker/reference"
)

// LabelPrefix starts every label and annotation that holds an appc field for
// which OCI has no place of its own:
//
//	appc.io/name                 the manifest's name, as it is written
//	appc.io/label/NAME           a label other than version, os and arch
//	appc.io/annotation/NAME      an annotation
//	appc.io/isolator/NAME        an isolator's value, compact JSON
//	appc.io/supplementaryGIDs    "100,200"
//	appc.io/ports                JSON list: names and socket activation
//	appc.io/mountPoints          JSON list: names and read-only marks
//	appc.io/userAnnotation/NAME, appc.io/userLabel/NAME
const LabelPrefix = "appc.io/"

// standard maps annotations that appc defines to those that OCI defines.
var standard = map[string]string{
	"authors":       ociv1.AnnotationAuthors,
	"homepage":      ociv1.AnnotationURL,
	"documentation": ociv1.AnnotationDocumentation,
}

// arches maps appc's names, which are those of uname, to Go's architecture and variant.
var arches = map[string][2]string{
	"amd64":      {"amd64"},
	"x86_64":     {"amd64"},
	"i386":       {"386"},
	"aarch64":    {"arm64"},
	"aarch64_be": {"arm64be"},
	"armv6l":     {"arm", "v6"},
	"armv7l":     {"arm", "v7"},
	"armv7b":     {"armbe", "v7"},
	"ppc64":      {"ppc64"},
	"ppc64le":    {"ppc64le"},
	"s390x":      {"s390x"},
}

// label returns the value of a label, "" where there is none.
func (m *Manifest) label(name string) string {
	for _, l := range m.Labels {
		if l.Name == name {
			return l.Value
		}
	}
	return ""
}

// platform maps the labels os and arch. appc lets both be absent for "any":
// then it is Linux and the architecture of this host.
func (m *Manifest) platform() (arch [2]string, os string, err error) {
	os = m.label("os")
	if os == "" {
		os = "linux"
	}
	if os != "linux" {
		return arch, os, fmt.Errorf("labels: os is %q, only linux images run here", os)
	}
	name := m.label("arch")
	if name == "" {
		return [2]string{runtime.GOARCH}, os, nil
	}
	arch, ok := arches[name]
	if !ok {
		return arch, os, fmt.Errorf("labels: arch %q is not one that appc defines for linux", name)
	}
	return arch, os, nil
}

// Reference turns name and version into an image name, read as the CRI reads
// names: example.com/app version 1.2 is example.com/app:1.2, and a name without
// a domain belongs to docker.io. A missing version is "latest", a plus sign in
// it becomes an underscore. A name that OCI cannot spell is an error; such an
// image can still be imported under its ID or another name.
func (m *Manifest) Reference() (reference.NamedTagged, error) {
	named, err := reference.ParseNormalizedNamed(m.Name)
	if err != nil {
		return nil, fmt.Errorf("name: %q cannot be written as an image name: %w", m.Name, err)
	}
	if !reference.IsNameOnly(named) {
		return nil, fmt.Errorf("name: %q has a tag or digest in it", m.Name)
	}
	version := m.label("version")
	if version == "" {
		version = "latest"
	}
	tagged, err := reference.WithTag(named, strings.ReplaceAll(version, "+", "_"))
	if err != nil {
		return nil, fmt.Errorf("labels: version %q cannot be written as a tag: %w", version, err)
	}
	return tagged, nil
}

// config builds the OCI image config. user is the resolved "user:group".
func (m *Manifest) config(user string, diffID digest.Digest) ociv1.Image {
	arch, os, _ := m.platform() // validated
	img := ociv1.Image{
		Platform: ociv1.Platform{OS: os, Architecture: arch[0], Variant: arch[1]},
		RootFS:   ociv1.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
		History:  []ociv1.History{{CreatedBy: "import of appc image " + m.Name}},
	}
	for _, a := range m.Annotations {
		switch a.Name {
		case "authors":
			img.Author = a.Value
		case "created":
			if t, err := time.Parse(time.RFC3339, a.Value); err == nil {
				img.Created = &t
				img.History[0].Created = &t
			}
		}
	}
	img.Config.Labels = m.annotations()
	if m.App != nil {
		m.App.fill(&img.Config)
		img.Config.User = user
	}
	return img
}

// fill carries over what OCI has a field for. exec becomes the entrypoint, so
// that CRI's args extend it and CRI's command replaces it.
func (a *App) fill(c *ociv1.ImageConfig) {
	c.Entrypoint = a.Exec
	c.WorkingDir = a.WorkingDirectory
	for _, e := range a.Environment {
		c.Env = append(c.Env, e.Name+"="+e.Value)
	}
	for _, p := range a.Ports {
		for n := range max(p.Count, 1) {
			if c.ExposedPorts == nil {
				c.ExposedPorts = map[string]struct{}{}
			}
			c.ExposedPorts[fmt.Sprintf("%d/%s", p.Port+n, p.Protocol)] = struct{}{}
		}
	}
	for _, v := range a.MountPoints {
		if c.Volumes == nil {
			c.Volumes = map[string]struct{}{}
		}
		c.Volumes[path.Clean(v.Path)] = struct{}{}
	}
}

// annotations holds all that OCI has no field for. It goes into the config's
// labels, which survive every later format, and into the manifest's annotations.
func (m *Manifest) annotations() map[string]string {
	out := map[string]string{LabelPrefix + "name": m.Name}
	for _, l := range m.Labels {
		switch l.Name {
		case "version":
			out[ociv1.AnnotationVersion] = l.Value
		case "os", "arch":
		default:
			out[LabelPrefix+"label/"+l.Name] = l.Value
		}
	}
	for _, a := range m.Annotations {
		out[LabelPrefix+"annotation/"+a.Name] = a.Value
		if name, ok := standard[a.Name]; ok {
			out[name] = a.Value
		}
	}
	if m.App != nil {
		m.App.annotate(out)
	}
	return out
}

func (a *App) annotate(out map[string]string) {
	for _, iso := range a.Isolators {
		out[LabelPrefix+"isolator/"+iso.Name] = compact(iso.Value)
	}
	if len(a.SupplementaryGIDs) > 0 {
		gids := make([]string, len(a.SupplementaryGIDs))
		for i, g := range a.SupplementaryGIDs {
			gids[i] = strconv.FormatUint(uint64(g), 10)
		}
		out[LabelPrefix+"supplementaryGIDs"] = strings.Join(gids, ",")
	}
	if len(a.Ports) > 0 {
		out[LabelPrefix+"ports"] = compact(a.Ports)
	}
	if len(a.MountPoints) > 0 {
		out[LabelPrefix+"mountPoints"] = compact(a.MountPoints)
	}
	for k, v := range a.UserAnnotations {
		out[LabelPrefix+"userAnnotation/"+k] = v
	}
	for k, v := range a.UserLabels {
		out[LabelPrefix+"userLabel/"+k] = v
	}
}

// compact returns v as JSON on one line. v is made of plain values or of JSON
// that was parsed before, which always marshal.
func compact(v any) string {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("aci: marshal %T: %v", v, err))
	}
	return string(raw)
}

// manifest builds the OCI manifest over a config and the layer.
func (m *Manifest) manifest(config []byte, layer ociv1.Descriptor) ociv1.Manifest {
	return ociv1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ociv1.MediaTypeImageManifest,
		Config: ociv1.Descriptor{
			MediaType: ociv1.MediaTypeImageConfig,
			Digest:    digest.FromBytes(config),
			Size:      int64(len(config)),
		},
		Layers:      []ociv1.Descriptor{layer},
		Annotations: m.annotations(),
	}
}
