package image

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/rktnetes/rktshim/image/imagetest"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// bench makes an image of layers of files each; about half of it compresses.
func benchImage(layers, filesPerLayer, fileSize int) registrytest.Image {
	var img registrytest.Image
	rnd := rand.NewChaCha8([32]byte{1})
	for i := range layers {
		f := registrytest.Files{}
		for j := range filesPerLayer {
			data := make([]byte, fileSize)
			for k := 0; k < fileSize; k += 64 { // 32 bytes of noise, 32 of zeros
				rnd.Read(data[k:min(k+32, fileSize)])
			}
			f[fmt.Sprintf("layer%d/dir%d/file%d", i, j%50, j)] = string(data)
		}
		img.Layers = append(img.Layers, registrytest.Layer{Files: f})
	}
	return img
}

// BenchmarkPull times pulls through the worker. With RKTSHIM_BENCH_SKOPEO=1 it
// times skopeo's of the same images, too.
func BenchmarkPull(b *testing.B) {
	b.Cleanup(func() { // of skopeo too, if that was run: then it is the larger
		var u unix.Rusage
		if err := unix.Getrusage(unix.RUSAGE_CHILDREN, &u); err == nil {
			b.Logf("largest child: %d MiB resident", u.Maxrss/1024)
		}
	})
	for _, c := range []struct {
		name                string
		layers, files, size int
	}{
		{"5x100MB", 5, 1600, 64 << 10},
		{"60small", 60, 20, 4 << 10},
		{"1x100MB-small-files", 1, 25600, 4 << 10},
	} {
		r := registrytest.New(b)
		r.Push("app", "v1", benchImage(c.layers, c.files, c.size))
		b.Run(c.name+"/rktshim", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := newService(b, nil)
				b.StartTimer()
				pullOK(b, s, r.Ref("app", "v1"))
			}
		})
		b.Run(c.name+"/rktshim-again", func(b *testing.B) {
			s := newService(b, nil)
			pullOK(b, s, r.Ref("app", "v1"))
			for b.Loop() {
				pullOK(b, s, r.Ref("app", "v1"))
			}
		})
		b.Run(c.name+"/rktshim-nosync", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				s := newService(b, func(c *Config) { c.Pull.NoSync = true })
				b.StartTimer()
				pullOK(b, s, r.Ref("app", "v1"))
			}
		})
		if os.Getenv("RKTSHIM_BENCH_SKOPEO") == "" {
			continue
		}
		b.Run(c.name+"/skopeo", func(b *testing.B) {
			for b.Loop() {
				dir := imagetest.Dir(b)
				start := time.Now()
				out, err := exec.Command("skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "docker://"+r.Ref("app", "v1"),
					fmt.Sprintf("containers-storage:[overlay@%s/root+%s/run]example.com/app:v1", dir, dir)).CombinedOutput()
				require.NoError(b, err, string(out))
				b.ReportMetric(time.Since(start).Seconds(), "s/pull")
			}
		})
	}
}
