package image

import (
	"archive/tar"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// repo is the one repository of the registry; images differ by their tags.
const repo = "bench"

// Files of a layer have from minFile to maxFile bytes, small ones being as
// frequent as in images: the number of files above a size falls with the size.
const (
	minFile = 4 << 10
	maxFile = 10 << 20
)

// layerSpec says which layer to make: the same one each time.
type layerSpec struct {
	seed  uint64
	bytes int64 // of all its files
}

// imageSpecs are the images that are pulled, by tag.
func imageSpecs() map[string][]layerSpec {
	const big = 100_000_000
	specs := map[string][]layerSpec{}
	for i := range uint64(5) {
		specs["big"] = append(specs["big"], layerSpec{seed: i, bytes: big})
	}
	specs["shared"] = append(specs["big"][:4:4], layerSpec{seed: 5, bytes: big})
	for i := range uint64(60) {
		specs["layers"] = append(specs["layers"], layerSpec{seed: 100 + i, bytes: 125_000})
	}
	return specs
}

// generate writes the images into the folder of a registry.
func generate(dir string) error {
	for _, sub := range []string{"blobs", "manifests"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return err
		}
	}
	type made struct {
		desc v1.Descriptor
		diff digest.Digest
	}
	images := imageSpecs()
	layers := map[layerSpec]*made{}
	var g errgroup.Group
	g.SetLimit(runtime.NumCPU())
	for _, image := range images {
		for _, l := range image {
			if layers[l] != nil {
				continue
			}
			m := &made{}
			layers[l] = m
			g.Go(func() (err error) {
				m.desc, m.diff, err = l.write(filepath.Join(dir, "blobs"))
				return err
			})
		}
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("make layer: %w", err)
	}
	for tag, image := range images {
		m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
		config := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, RootFS: v1.RootFS{Type: "layers"}}
		for _, l := range image {
			m.Layers = append(m.Layers, layers[l].desc)
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, layers[l].diff)
		}
		raw, err := json.Marshal(config)
		if err != nil {
			return err
		}
		m.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		if err := os.WriteFile(filepath.Join(dir, "blobs", m.Config.Digest.Encoded()), raw, 0o644); err != nil {
			return err
		}
		if raw, err = json.Marshal(m); err != nil {
			return err
		}
		for _, name := range []string{tag, digest.FromBytes(raw).Encoded()} {
			if err := os.WriteFile(filepath.Join(dir, "manifests", name), raw, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// write makes the layer's blob, named by its digest.
func (l layerSpec) write(dir string) (desc v1.Descriptor, diff digest.Digest, err error) {
	f, err := os.CreateTemp(dir, "making-")
	if err != nil {
		return desc, "", err
	}
	defer f.Close()
	blob, content := digest.Canonical.Digester(), digest.Canonical.Digester()
	zip := gzip.NewWriter(io.MultiWriter(f, blob.Hash()))
	if err := l.tar(io.MultiWriter(zip, content.Hash())); err != nil {
		return desc, "", err
	}
	if err := zip.Close(); err != nil {
		return desc, "", err
	}
	size, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return desc, "", err
	}
	desc = v1.Descriptor{MediaType: v1.MediaTypeImageLayerGzip, Digest: blob.Digest(), Size: size}
	return desc, content.Digest(), os.Rename(f.Name(), filepath.Join(dir, desc.Digest.Encoded()))
}

// epoch is the modification time of every file.
var epoch = time.Date(2020, 2, 2, 2, 2, 2, 0, time.UTC)

// filesPerFolder is how many files lie in one folder.
const filesPerFolder = 40

func (l layerSpec) tar(out io.Writer) error {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], l.seed)
	source := rand.NewChaCha8(seed)
	rnd := rand.New(source)
	w := tar.NewWriter(out)
	buf := make([]byte, maxFile)
	folder := ""
	for i, left := 0, l.bytes; left > 0; i++ {
		if i%filesPerFolder == 0 {
			folder = fmt.Sprintf("usr/share/layer%d/%02x/", l.seed, i/filesPerFolder)
			if err := w.WriteHeader(&tar.Header{Name: folder, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: epoch}); err != nil {
				return err
			}
		}
		data := buf[:min(fileSize(rnd), left)]
		left -= int64(len(data))
		if i%2 == 0 {
			source.Read(data) // never fails
		} else {
			prose(rnd, data)
		}
		hdr := &tar.Header{Name: fmt.Sprintf("%sfile%d", folder, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(data)), ModTime: epoch}
		if err := w.WriteHeader(hdr); err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return w.Close()
}

// fileSize draws from a Pareto distribution of exponent 1, cut at maxFile.
func fileSize(rnd *rand.Rand) int64 {
	const kept = 1 - float64(minFile)/maxFile
	return int64(minFile / (1 - kept*rnd.Float64()))
}

// vocabulary is a thousand words; text made of them compresses to about a third.
var vocabulary = func() (words [][]byte) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		word := make([]byte, 2+rnd.IntN(8), 11)
		for i := range word {
			word[i] = byte('a' + rnd.IntN(26))
		}
		words = append(words, append(word, ' '))
	}
	return words
}()

func prose(rnd *rand.Rand, out []byte) {
	for len(out) > 0 {
		out = out[copy(out, vocabulary[rnd.IntN(len(vocabulary))]):]
	}
}
