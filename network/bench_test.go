package network

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func BenchmarkAttachDetach(b *testing.B) {
	for _, c := range []struct {
		name    string
		ipMasq  bool
		subnets []string
		plugins []string
		ports   []PortMapping
	}{
		{name: "bridge", subnets: []string{"10.88.0.0/16"}},
		{name: "bridge, masquerade", ipMasq: true, subnets: []string{"10.88.0.0/16"}},
		{name: "bridge, masquerade, portmap unused", ipMasq: true, subnets: []string{"10.88.0.0/16"}, plugins: []string{portmap}},
		{name: "bridge, masquerade, host port", ipMasq: true, subnets: []string{"10.88.0.0/16"}, plugins: []string{portmap},
			ports: []PortMapping{{HostPort: 8080, ContainerPort: 80}}},
		{name: "bridge, dual stack", subnets: []string{"10.88.0.0/16", "fd88::/64"}},
	} {
		b.Run(c.name, func(b *testing.B) {
			h := newHost(b)
			h.uses(append([]string{h.bridge(c.ipMasq, c.subnets...)}, c.plugins...)...)
			var record json.RawMessage
			save := func(_ context.Context, r json.RawMessage) error { record = r; return nil }
			b.ResetTimer()
			var attach, detach int64
			for i := range b.N {
				b.StopTimer()
				path := filepath.Join(h.dir, "netns", fmt.Sprint(i))
				require.NoError(b, NewNamespace(path))
				pod := Pod{ID: fmt.Sprint("pod-", i), NetNS: path, PortMappings: c.ports}
				b.StartTimer()
				start := b.Elapsed()
				_, err := h.Attach(b.Context(), pod, save)
				attached := b.Elapsed()
				require.NoError(b, err)
				require.NoError(b, h.Detach(b.Context(), record))
				detach += int64(b.Elapsed() - attached)
				attach += int64(attached - start)
				b.StopTimer()
				require.NoError(b, RemoveNamespace(path))
				b.StartTimer()
			}
			b.ReportMetric(float64(attach)/float64(b.N)/1e6, "ms/attach")
			b.ReportMetric(float64(detach)/float64(b.N)/1e6, "ms/detach")
		})
	}
}

func BenchmarkNamespace(b *testing.B) {
	dir := b.TempDir()
	for i := range b.N {
		path := filepath.Join(dir, fmt.Sprint(i))
		require.NoError(b, NewNamespace(path))
		require.NoError(b, RemoveNamespace(path))
	}
}
