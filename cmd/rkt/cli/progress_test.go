package cli

import (
	"bytes"
	"regexp"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	"github.com/rktnetes/rktshim/image/pull"
)

var (
	layerA = digest.Digest("sha256:aaaaaaaaaaaaaaaa")
	layerB = digest.Digest("sha256:bbbbbbbbbbbbbbbb")
)

func TestLinesTellEachPhaseOnce(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{Use: "fetch"}
	cmd.SetErr(&out)
	p := showProgress(cmd)
	for _, e := range []pull.Event{
		{Layer: layerA, Phase: pull.Present, Size: 9},
		{Layer: layerB, Phase: pull.Waiting, Size: 2048},
		{Layer: layerB, Phase: pull.Pulling, Bytes: 1, Size: 2048},
		{Layer: layerB, Phase: pull.Pulling, Bytes: 2048, Size: 2048},
		{Layer: layerB, Phase: pull.Done, Bytes: 2048, Size: 2048},
		{Layer: layerB, Phase: pull.Pulling, Bytes: 2048, Size: 2048}, // events may overtake each other
	} {
		p.event(e)
	}
	p.stop()
	require.Equal(t, "fetch: layer aaaaaaaaaaaa: present\nfetch: layer bbbbbbbbbbbb: fetching, 2KiB\nfetch: layer bbbbbbbbbbbb: done\n", out.String())
}

func TestALongFetchReportsAgainAfterTheInterval(t *testing.T) {
	var out bytes.Buffer
	cmd := &cobra.Command{Use: "fetch"}
	cmd.SetErr(&out)
	p := &lines{cmd: cmd, last: map[digest.Digest]report{layerA: {phase: pull.Pulling}}}
	p.event(pull.Event{Layer: layerA, Phase: pull.Pulling, Bytes: 1024, Size: -1})
	p.event(pull.Event{Layer: layerA, Phase: pull.Pulling, Bytes: 2048, Size: -1})
	require.Equal(t, "fetch: layer aaaaaaaaaaaa: 1KiB of unknown\n", out.String())
}

var escapes = regexp.MustCompile("\x1b\\[[0-9;?]*[A-Za-z]")

func TestBarsEndWithTheStateOfEachLayer(t *testing.T) {
	screen, tty := terminal(t)
	text := watch(screen)
	b := newBars(tty)
	b.event(pull.Event{Layer: layerA, Phase: pull.Present, Size: 9})
	b.event(pull.Event{Layer: layerB, Phase: pull.Waiting, Size: 2048})
	b.event(pull.Event{Layer: layerB, Phase: pull.Pulling, Bytes: 2048, Size: 2048})
	b.event(pull.Event{Layer: "sha256:cccccccccccccccc", Phase: pull.Pulling, Bytes: 1, Size: -1})
	b.event(pull.Event{Layer: "sha256:cccccccccccccccc", Phase: pull.Done, Bytes: 7, Size: -1})
	b.stop()
	require.NoError(t, tty.Close())
	shown := escapes.ReplaceAllString(text(), "")
	require.Regexp(t, `layer aaaaaaaaaaaa.*present`, shown)
	require.Regexp(t, `layer bbbbbbbbbbbb.*not finished`, shown)
	require.Regexp(t, `layer cccccccccccc.*done`, shown)
}
