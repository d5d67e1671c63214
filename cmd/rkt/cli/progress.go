package cli

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/docker/go-units"
	"github.com/opencontainers/go-digest"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"

	"github.com/rktnetes/rktshim/image/pull"
)

// progress shows how one fetch goes, on standard error.
type progress interface {
	event(pull.Event)
	stop() // after the last event
}

// showProgress chooses bars for a terminal that can move its cursor, and lines
// for anything else.
func showProgress(cmd *cobra.Command) progress {
	if f, ok := cmd.ErrOrStderr().(*os.File); ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" {
		return newBars(f)
	}
	return &lines{cmd: cmd, last: map[digest.Digest]report{}}
}

// shortDigest is enough of a blob's digest to tell it from its neighbours.
func shortDigest(d digest.Digest) string {
	hex := d.Encoded()
	return hex[:min(len(hex), 12)]
}

// interval is how long a layer may stay silent while it is fetched.
const interval = 10 * time.Second

// lines prints a line when a layer's phase changes, and one each interval.
type lines struct {
	cmd  *cobra.Command
	mu   sync.Mutex
	last map[digest.Digest]report // guarded by mu; what was printed last
}

type report struct {
	phase pull.Phase
	at    time.Time
}

func (l *lines) event(e pull.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	was, now := l.last[e.Layer], time.Now()
	if e.Phase == pull.Waiting || (was.phase == e.Phase && now.Sub(was.at) < interval) || was.phase == pull.Done {
		return
	}
	l.last[e.Layer] = report{e.Phase, now}
	switch size := "size unknown"; {
	case e.Phase == pull.Pulling && was.phase == e.Phase:
		note(l.cmd, "layer %s: %s of %s", shortDigest(e.Layer), units.BytesSize(float64(e.Bytes)), sizeOr(e.Size, "unknown"))
	case e.Phase == pull.Pulling:
		note(l.cmd, "layer %s: fetching, %s", shortDigest(e.Layer), sizeOr(e.Size, size))
	default:
		note(l.cmd, "layer %s: %s", shortDigest(e.Layer), e.Phase)
	}
}

func (*lines) stop() {}

func sizeOr(size int64, unknown string) string {
	if size < 0 {
		return unknown
	}
	return units.BytesSize(float64(size))
}

// bars shows a bar for each layer.
type bars struct {
	all *mpb.Progress
	mu  sync.Mutex
	bar map[digest.Digest]*mpb.Bar // guarded by mu
}

func newBars(w io.Writer) *bars {
	return &bars{all: mpb.New(mpb.WithOutput(w), mpb.WithWidth(40)), bar: map[digest.Digest]*mpb.Bar{}}
}

func (b *bars) event(e pull.Event) {
	b.mu.Lock()
	bar := b.bar[e.Layer]
	if bar == nil {
		bar = b.add(e)
		b.bar[e.Layer] = bar
	}
	b.mu.Unlock()
	switch e.Phase {
	case pull.Done, pull.Present:
		bar.SetTotal(max(e.Size, e.Bytes), true)
	case pull.Pulling:
		bar.SetCurrent(e.Bytes)
	}
}

func (b *bars) add(e pull.Event) *mpb.Bar {
	end := "done"
	if e.Phase == pull.Present {
		end = "present"
	}
	// A total that is given here would complete the bar with the last byte,
	// before the layer is done; one that is set later does not.
	bar := b.all.AddBar(0,
		mpb.PrependDecorators(decor.Name("layer "+shortDigest(e.Layer)+" ")),
		mpb.AppendDecorators(decor.OnAbort(decor.OnComplete(decor.Any(func(s decor.Statistics) string {
			return fmt.Sprintf("%s of %s", units.BytesSize(float64(s.Current)), sizeOr(e.Size, "unknown"))
		}), end), "not finished")),
		mpb.BarFillerClearOnComplete(), mpb.BarFillerClearOnAbort())
	bar.SetTotal(max(e.Size, 0), false)
	return bar
}

func (b *bars) stop() {
	b.mu.Lock()
	for _, bar := range b.bar {
		bar.Abort(false) // a finished one stays as it is
	}
	b.mu.Unlock()
	b.all.Wait()
}
