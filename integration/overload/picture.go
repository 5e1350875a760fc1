package main

import (
	"fmt"
	"html"
	"io"
	"strings"
	"time"
)

// The picture has a panel for each arm: good answers by tier, second by second, stacked, under the
// line of what the service can do.
const (
	panelWidth, panelHeight = 372, 150
	panelLeft, panelTop     = 46, 46 // of the drawing in a panel
	panelGapX, panelGapY    = 12, 34
	columns                 = 3
	pictureTop              = 96
	most                    = 1.2 // of the capacity
)

var bands = []struct {
	name, colour string
	classes      []int
}{
	{"enterprise", "#0b3d91", []int{0}},
	{"pro", "#3f8fd2", []int{1, 2}},
	{"free", "#b8d8f0", []int{3, 4}},
}

func (e *experiment) draw(w io.Writer) {
	rows := (len(e.arms) + columns - 1) / columns
	width := columns*(panelLeft+panelWidth+panelGapX) + panelGapX
	height := pictureTop + rows*(panelTop+panelHeight+panelGapY)
	fmt.Fprintf(w, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="Helvetica, Arial, sans-serif" font-size="12" fill="#222">
<rect width="%d" height="%d" fill="#fff"/>
<text x="16" y="32" font-size="21" font-weight="bold">What is answered in time while more and more is asked</text>
<text x="16" y="54" fill="#555">Answers within %v, second by second, as a part of what the service can do (dashed). Above each stretch: what is asked. At the right: what is then answered, and of enterprise.</text>
`, width, height, width, height, inTime)
	x := 16
	for _, b := range bands {
		fmt.Fprintf(w, `<rect x="%d" y="66" width="14" height="14" fill="%s"/><text x="%d" y="78">%s</text>`+"\n", x, b.colour, x+20, b.name)
		x += 110
	}
	for i, a := range e.arms {
		e.panel(w, a, panelGapX+i%columns*(panelLeft+panelWidth+panelGapX), pictureTop+i/columns*(panelTop+panelHeight+panelGapY))
	}
	fmt.Fprintln(w, "</svg>")
}

func (e *experiment) panel(w io.Writer, a arm, x, y int) {
	results := e.results[a.name]
	first := results[0]
	seconds := 0
	for _, p := range first.phases {
		seconds += int(p.Length / time.Second)
	}
	across := func(second int) float64 {
		return float64(x+panelLeft) + panelWidth*float64(second)/float64(seconds)
	}
	up := func(part float64) float64 { return float64(y+panelTop) + panelHeight*(1-min(part, most)/most) }

	weight, colour := "normal", "#222"
	if a.ours {
		weight, colour = "bold", bands[0].colour
	}
	fmt.Fprintf(w, `<text x="%d" y="%d" font-size="15" font-weight="%s" fill="%s">%s</text>`+"\n", x+panelLeft, y+18, weight, colour, html.EscapeString(title(a)))
	fmt.Fprintf(w, `<text x="%d" y="%d" text-anchor="end" fill="#555">%s</text>`+"\n", x+panelLeft+panelWidth, y+18, e.verdict(a))
	fmt.Fprintf(w, `<rect x="%d" y="%d" width="%d" height="%d" fill="#f6f7f8"/>`+"\n", x+panelLeft, y+panelTop, panelWidth, panelHeight)

	floor := make([]float64, seconds)
	for _, b := range bands {
		ceiling := make([]float64, seconds)
		for s := range ceiling {
			ceiling[s] = floor[s] + e.share(a, s, b.classes)
		}
		fmt.Fprintf(w, `<path d="%s" fill="%s"/>`+"\n", area(floor, ceiling, across, up), b.colour)
		floor = ceiling
	}
	at := 0
	for _, p := range first.phases {
		length := int(p.Length / time.Second)
		label := fmt.Sprintf("%gx", p.Load)
		if p.Load == 0 {
			label = ""
		}
		fmt.Fprintf(w, `<text x="%.1f" y="%d" text-anchor="middle" font-size="11" fill="#555">%s</text>`+"\n", (across(at)+across(at+length))/2, y+panelTop-5, label)
		at += length
		if at < seconds {
			fmt.Fprintf(w, `<path d="M%.1f %dv%d" stroke="#fff" stroke-width="1.5"/>`+"\n", across(at), y+panelTop, panelHeight)
		}
	}
	for _, part := range []float64{0, 0.5, 1} {
		fmt.Fprintf(w, `<text x="%d" y="%.1f" text-anchor="end" font-size="11" fill="#555">%.0f %%</text>`+"\n", x+panelLeft-5, up(part)+4, part*100)
	}
	fmt.Fprintf(w, `<path d="M%d %.1fh%d" stroke="#c0392b" stroke-dasharray="5 4" fill="none"/>`+"\n", x+panelLeft, up(1), panelWidth)
}

func title(a arm) string {
	if a.ours {
		return "tierlimit: " + a.name
	}
	return a.name
}

// verdict says in a few words how an arm stands the greatest load.
func (e *experiment) verdict(a arm) string {
	last := len(e.loads) - 1
	return fmt.Sprintf("%gx: %.0f %%, enterprise %.1f %%", e.loads[last],
		100*of(e, a, func(r *result) float64 { return r.goodput(last) }), 100*of(e, a, func(r *result) float64 { return r.served(last, enterprise) }))
}

// share returns the median over the rounds of the good answers of some classes in a second, as a
// part of the capacity.
func (e *experiment) share(a arm, second int, classes []int) float64 {
	return of(e, a, func(r *result) float64 {
		at := second
		for _, m := range r.measured {
			if at >= len(m.Seconds) {
				at -= len(m.Seconds)
				continue
			}
			good := 0
			for _, c := range classes {
				good += m.Seconds[at][c].Good
			}
			return float64(good) / r.capacity
		}
		return 0
	})
}

// area returns the path between two lines that have a step for each second.
func area(floor, ceiling []float64, across func(int) float64, up func(float64) float64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "M%.1f %.1f", across(0), up(floor[0]))
	for s := range ceiling {
		fmt.Fprintf(&b, "L%.1f %.1fH%.1f", across(s), up(ceiling[s]), across(s+1))
	}
	for s := len(floor) - 1; s >= 0; s-- {
		fmt.Fprintf(&b, "L%.1f %.1fH%.1f", across(s+1), up(floor[s]), across(s))
	}
	return b.String() + "Z"
}
