package network

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// rkt detaches pods while the kubelet, which knows the node's folders, is down.
func TestDetachFindsThePluginsWhereAttachDid(t *testing.T) {
	h := newHost(t)
	h.uses(h.bridge(false, "10.88.0.0/24"))
	_, record := h.attach(h.pod("a"))
	stranger, err := New(Config{ConfDir: t.TempDir(), BinDirs: []string{"/nonexistent"}, RunDir: h.config.RunDir, Timeout: DefaultTimeout})
	require.NoError(t, err)
	require.NoError(t, stranger.Detach(t.Context(), record))
	h.requireNothingLeft()
}
