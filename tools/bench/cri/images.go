package cri

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// epoch is the modification time of every file.
var epoch = time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC)

// The registry is in the conductor and in the arena's network.
const (
	registryAddr = "127.0.0.1:5000"
	appImage     = registryAddr + "/app:1"
	pauseImage   = registryAddr + "/pause:1"
)

// registry serves images from memory: manifests by tag and digest, blobs by digest.
type registry map[string][]byte

// serveRegistry makes both images and serves them until the process ends.
func serveRegistry() error {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return err
	}
	r := registry{}
	if err := r.add("app", busybox, v1.ImageConfig{Entrypoint: []string{"/bin/app"}}); err != nil {
		return err
	}
	if err := r.add("pause", pause(busybox), v1.ImageConfig{Entrypoint: []string{"/bin/busybox", "sleep", "1000000000"}}); err != nil {
		return err
	}
	l, err := net.Listen("tcp", registryAddr)
	if err != nil {
		return err
	}
	go http.Serve(l, r) //nolint:errcheck // it serves as long as the process lives
	return nil
}

func (r registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, ok := r[q.URL.Path]
	if !ok && q.URL.Path != "/v2/" {
		http.NotFound(w, q)
		return
	}
	if strings.Contains(q.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(body).String())
	}
	http.ServeContent(w, q, "", epoch, bytes.NewReader(body))
}

// add makes an image of one layer with one program, bin/busybox.
func (r registry) add(repo string, program []byte, config v1.ImageConfig) error {
	layer, diff, err := layerOf(program)
	if err != nil {
		return err
	}
	doc, err := json.Marshal(v1.Image{
		Platform: v1.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		Config:   config,
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    r.blob(repo, v1.MediaTypeImageConfig, doc),
		Layers:    []v1.Descriptor{r.blob(repo, v1.MediaTypeImageLayerGzip, layer)},
	})
	if err != nil {
		return err
	}
	for _, name := range []string{"1", digest.FromBytes(manifest).String()} {
		r["/v2/"+repo+"/manifests/"+name] = manifest
	}
	return nil
}

func (r registry) blob(repo, mediaType string, content []byte) v1.Descriptor {
	d := digest.FromBytes(content)
	r["/v2/"+repo+"/blobs/"+d.String()] = content
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
}

func layerOf(program []byte) (layer []byte, diff digest.Digest, err error) {
	var content, blob bytes.Buffer
	w := tar.NewWriter(&content)
	for _, name := range []string{"bin/", "etc/", "proc/", "sys/", "dev/", "tmp/"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: epoch}); err != nil {
			return nil, "", err
		}
	}
	passwd := []byte("root:x:0:0:root:/:/bin/busybox\n")
	for _, f := range []struct {
		name string
		mode int64
		data []byte
	}{{"bin/busybox", 0o755, program}, {"etc/passwd", 0o644, passwd}} {
		if err := w.WriteHeader(&tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: f.mode, Size: int64(len(f.data)), ModTime: epoch}); err != nil {
			return nil, "", err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, "", err
		}
	}
	if err := w.Close(); err != nil {
		return nil, "", err
	}
	zip := gzip.NewWriter(&blob)
	if _, err := zip.Write(content.Bytes()); err != nil {
		return nil, "", err
	}
	err = zip.Close()
	return blob.Bytes(), digest.FromBytes(content.Bytes()), err
}

// pause is a static program of one page that sleeps for ever, smaller than any
// pause image, as containerd's pods need one; busybox where it is not known how
// to write one.
func pause(busybox []byte) []byte {
	if runtime.GOARCH != "amd64" {
		return busybox
	}
	code := []byte{0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7} // mov eax, SYS_pause; syscall; jmp to the mov
	const base, header = 0x400000, 64 + 56
	var b bytes.Buffer
	b.WriteString("\x7fELF\x02\x01\x01" + strings.Repeat("\x00", 9))
	for _, v := range []any{
		uint16(2), uint16(62), uint32(1), // executable, x86-64, version
		uint64(base + header), uint64(64), uint64(0), // entry, program headers, no sections
		uint32(0), uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0),
		uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), // load, read and execute
		uint64(header + len(code)), uint64(header + len(code)), uint64(4096),
	} {
		binary.Write(&b, binary.LittleEndian, v) //nolint:errcheck // into memory
	}
	b.Write(code)
	return b.Bytes()
}
