package pull_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/pull"
	"github.com/rktnetes/rktshim/internal/registrytest"
)

// slowToFail is an endpoint that takes a connection and drops it after a while.
func slowToFail(t *testing.T, after time.Duration) (host string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	end := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				select {
				case <-time.After(after):
				case <-end:
				}
			})
		}
	})
	t.Cleanup(func() {
		close(end)
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func mirrors(r *registrytest.Registry, hosts ...string) string {
	var conf strings.Builder
	fmt.Fprintf(&conf, "[[registry]]\nprefix = %q\nlocation = %q\n", r.Host, r.Host)
	for _, host := range hosts {
		fmt.Fprintf(&conf, "[[registry.mirror]]\nlocation = %q\ninsecure = true\n", host)
	}
	return conf.String()
}

// Each mirror fails within the timeout, all together take longer.
func TestMirrorsThatFailSlowlyAreEachPassedOver(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, func(c *pull.Config) { c.StallTimeout = 600 * time.Millisecond })
	img := r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	h.write(t, "registries.conf", mirrors(r, slowToFail(t, 250*time.Millisecond), slowToFail(t, 250*time.Millisecond), slowToFail(t, 250*time.Millisecond)))
	start := time.Now()
	res, err := h.pull(t, r.Ref("app", "v1"))
	require.NoError(t, err)
	require.Equal(t, img.ID(), res.ID)
	require.Greater(t, time.Since(start), 600*time.Millisecond, "longer than the timeout")
}

func TestAStalledEndpointIsNamed(t *testing.T) {
	r := registrytest.New(t)
	h := newHost(t, func(c *pull.Config) { c.StallTimeout = 300 * time.Millisecond })
	r.Push("app", "v1", files(registrytest.Files{"a": ""}))
	dead := slowToFail(t, time.Hour)
	h.write(t, "registries.conf", mirrors(r, dead))
	_, err := h.pull(t, r.Ref("app", "v1"))
	require.ErrorIs(t, err, pull.ErrUnavailable)
	require.ErrorContains(t, err, "no progress for 300ms from "+dead)
}
