package main

import (
	"fmt"
	"image/color"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
)

// colours of the contenders in their order; ours stands out.
var colours = []color.RGBA{
	{0x0b, 0x5c, 0xad, 0xff},
	{0x9a, 0xa5, 0xb1, 0xff},
	{0xc2, 0xb2, 0x80, 0xff},
	{0x8f, 0xb9, 0x96, 0xff},
	{0xd4, 0x9a, 0x89, 0xff},
	{0xb3, 0x9d, 0xc9, 0xff},
}

// draw writes the ratios of a report as bars, one group for each workload and
// number of callers.
func (r *report) draw(file string) error {
	p := plot.New()
	p.Title.Text = "Decisions a second, as a ratio to " + reference
	p.Y.Label.Text = "ratio"
	p.Y.Min = 0
	p.Title.Padding, p.Legend.Padding = vg.Points(8), vg.Points(3)
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.TextStyle.Font.Size = vg.Points(10)
	p.Add(plotter.NewGrid())
	var groups []string
	for _, t := range r.drawn() {
		for _, n := range t.callers {
			groups = append(groups, fmt.Sprintf("%s, %d", t.workload.name, n))
		}
	}
	width := vg.Points(9)
	for i, c := range contenders {
		var values plotter.Values
		for _, t := range r.drawn() {
			for _, n := range t.callers {
				values = append(values, t.ratio(c.name, reference, n))
			}
		}
		bars, err := plotter.NewBarChart(values, width)
		if err != nil {
			return err
		}
		bars.Color, bars.LineStyle.Width = colours[i%len(colours)], 0
		bars.Offset = width * vg.Length(float64(i)-float64(len(contenders)-1)/2)
		p.Add(bars)
		p.Legend.Add(c.name, bars)
	}
	p.NominalX(groups...)
	p.X.Min, p.X.Max = -0.5, float64(len(groups))-0.5
	p.Y.Max *= 1.05
	return p.Save(24*vg.Centimeter, 12*vg.Centimeter, file)
}

// drawn are the tables that the chart shows: those that everybody is in, with
// ratios that fit one scale.
func (r *report) drawn() []*table {
	var list []*table
	for _, t := range r.tables {
		if t.workload.name == "uniform" || t.workload.name == "zipf" {
			list = append(list, t)
		}
	}
	return list
}
