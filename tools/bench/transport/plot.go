package transport

import (
	"image/color"
	"math"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// Plot draws the medians of one caller, as an SVG file.
func (r Results) Plot(file string) error {
	p := plot.New()
	p.Title.Text = "Median of one call, by the way to the runtime"
	p.Y.Label.Text = "microseconds (logarithmic)"
	p.Y.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "10"}, {Value: 1, Label: "100"}, {Value: 2, Label: "1 000"}, {Value: 3, Label: "10 000"}, {Value: 4, Label: "100 000"}}
	p.Legend.Top, p.Legend.Left = true, true
	p.BackgroundColor = color.White
	const width = 14 // points
	colors := map[string]color.Color{
		memory:   color.RGBA{R: 0x1b, G: 0x7f, B: 0x5c, A: 0xff},
		sameUnix: color.RGBA{R: 0x8f, G: 0xa9, B: 0xbf, A: 0xff},
		twoUnix:  color.RGBA{R: 0xc9, G: 0x5d, B: 0x3c, A: 0xff},
	}
	var names []string
	for _, w := range workloads {
		names = append(names, w.name)
	}
	for i, path := range []string{memory, sameUnix, twoUnix} {
		var values plotter.Values
		for _, w := range workloads {
			// Bars begin at 0, so decades above 10 µs are drawn, not plot's own log scale.
			us := float64(r[key{w.name, 1, path}].percentile(0.5)) / float64(time.Microsecond)
			values = append(values, math.Log10(us/10))
		}
		bars, err := plotter.NewBarChart(values, vg.Points(width))
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width, bars.Offset = colors[path], 0, vg.Points(float64(i-1)*width)
		p.Add(bars)
		p.Legend.Add(path, bars)
	}
	p.Y.Min, p.Y.Max = 0, 4.5
	p.NominalX(names...)
	return p.Save(28*vg.Centimeter, 12*vg.Centimeter, file)
}
