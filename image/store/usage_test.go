package store

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestYoungRootsAreMeasuredMoreOften(t *testing.T) {
	start := time.Now()
	for _, c := range []struct {
		measured, now time.Duration
		want          bool
	}{
		{4 * time.Second, 5 * time.Second, false},
		{4 * time.Second, 8 * time.Second, true},
		{20 * time.Second, 39 * time.Second, false},
		{20 * time.Second, 40 * time.Second, true},
		{time.Hour, time.Hour + 59*time.Second, false},
		{time.Hour, time.Hour + time.Minute, true},
		{-time.Second, 0, true}, // the wall clock was set back
	} {
		require.Equal(t, c.want, due(start, start.Add(c.measured), start.Add(c.now), time.Minute), "%v", c)
	}
}
