package main

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDispatch(t *testing.T) {
	for _, c := range []struct {
		name           string
		argv           []string
		code           int
		stdout, stderr string
	}{
		{"nothing to do", []string{"hyperkube"}, 0, "Commands:\n  kubelet ", ""},
		{"help", []string{"/usr/bin/hyperkube", "help"}, 0, "Commands:\n  kubelet ", ""},
		{"no arguments at all", nil, 0, "Commands:\n", ""},
		{"unknown command", []string{"hyperkube", "kublet"}, 2, "", "unknown command \"kublet\"; \"hyperkube help\" lists"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer

			code := dispatch(c.argv, &stdout, &stderr)

			require.Equal(t, c.code, code)
			require.Contains(t, stdout.String(), c.stdout)
			require.Contains(t, stderr.String(), c.stderr)
		})
	}
}
