package console

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// A chart is drawn in units: each column is one wide, and Top is chartHeight high. Labels stand
// beside the drawing, so that it can be stretched.
type chart struct {
	Label   string // what it shows, for those who do not see it
	Columns []column
	Width   int
	Top     float64
	From    string // what the first column is of
	To      string
}

// A column is a pile of pieces.
type column struct {
	X      float64
	Title  string
	Pieces []piece
	Mark   float64 // the height of a mark across the column; 0: none
}

// A piece is a rectangle, measured from the top of the chart.
type piece struct {
	Class     string
	Y, Height float64
}

// chartHeight is the height of a chart in units.
const chartHeight = 100

// TopText writes what the top of the chart is.
func (c chart) TopText() string { return number(strconv.FormatFloat(c.Top, 'f', -1, 64)) }

// scaled returns n in units.
func (c *chart) scaled(n float64) float64 {
	if c.Top == 0 {
		return 0
	}
	return math.Round(n/c.Top*chartHeight*100) / 100
}

// pile adds a column of values, from the bottom to the top.
func (c *chart) pile(x float64, title string, classes []string, values []float64) {
	col := column{X: x, Title: title}
	y := float64(chartHeight)
	for i, value := range values {
		if value <= 0 {
			continue
		}
		height := c.scaled(value)
		y -= height
		col.Pieces = append(col.Pieces, piece{classes[i], math.Round(y*100) / 100, height})
	}
	c.Columns = append(c.Columns, col)
}

// roundTop returns the least of 1, 2 and 5 times a power of ten that is not below n.
func roundTop(n float64) float64 {
	if n <= 0 {
		return 1
	}
	power := math.Pow(10, math.Floor(math.Log10(n)))
	for _, step := range []float64{1, 2, 5} {
		if n <= step*power {
			return step * power
		}
	}
	return 10 * power
}

// fewest is how many intervals the chart of decisions has room for at least.
const fewest = 30

// decisionsChart draws the decisions a second of each interval.
func decisionsChart(list []sample) chart {
	c := chart{Width: min(max(len(list), fewest), samples), To: "now"}
	c.From = lasts(time.Duration(c.Width)*sampleEvery) + " ago"
	perSecond := func(n uint64) float64 { return float64(n) / sampleEvery.Seconds() }
	var allowed, denied uint64
	for i := range list {
		c.Top = max(c.Top, perSecond(list[i].Total()))
		denied += list[i].Denied()
		allowed += list[i].Total() - list[i].Denied()
	}
	c.Top = roundTop(c.Top)
	c.Label = fmt.Sprintf("Decisions a second in the last %s: %s allowed and %s denied in all.", lasts(time.Duration(len(list))*sampleEvery), number(allowed), number(denied))
	for i := range list {
		s := &list[i]
		var classes, parts []string
		var values []float64
		for _, o := range outcomes {
			if n := s.Counts[o.Key]; n > 0 {
				classes, values = append(classes, "o-"+o.Key), append(values, perSecond(n))
				parts = append(parts, strings.ToLower(o.Label)+" "+number(n))
			}
		}
		if len(parts) == 0 {
			continue
		}
		c.pile(float64(c.Width-len(list)+i), s.At.Add(-sampleEvery).UTC().Format("15:04:05")+" UTC, 10 s: "+strings.Join(parts, "; "), classes, values)
	}
	return c
}

// A minute is a row of the table beside the chart.
type minute struct {
	At                        time.Time
	Allowed, Denied, Degraded uint64
}

// minutesOf adds up intervals by the minute, the latest first.
func minutesOf(list []sample) (rows []minute) {
	const each = int(time.Minute / sampleEvery)
	for end := len(list); end > 0; end -= each {
		part := list[max(end-each, 0):end]
		row := minute{At: part[0].At.Add(-sampleEvery)}
		for i := range part {
			row.Denied += part[i].Denied()
			row.Allowed += part[i].Total() - part[i].Denied()
			row.Degraded += part[i].Counts[degraded]
		}
		rows = append(rows, row)
	}
	return rows
}

// historyChart draws what was used of the windows of one limit, the latest at the right.
func historyChart(limit string, windows []windowUsage) chart {
	c := chart{Width: max(len(windows), 12), Label: fmt.Sprintf("Usage of the last %s of %s.", plural(len(windows), "window"), limit)}
	for _, w := range windows {
		c.Top = max(c.Top, float64(w.Used), float64(w.Max))
	}
	c.Top = roundTop(c.Top)
	for i, w := range windows { // the latest is the first
		class := "o-allowed"
		if w.Max > 0 && w.Used >= w.Max {
			class = "o-exceeded"
		}
		title := fmt.Sprintf("%s used of %s, ended %s", number(w.Used), maximum(w.max()), w.EndsAt.UTC().Format("2 Jan 2006 15:04 UTC"))
		c.pile(float64(c.Width-1-i), title, []string{class}, []float64{float64(w.Used)})
		if w.Max > 0 {
			c.Columns[len(c.Columns)-1].Mark = max(chartHeight-c.scaled(float64(w.Max)), .75) // within the chart
		}
	}
	if len(windows) > 0 {
		c.From, c.To = windows[len(windows)-1].EndsAt.UTC().Format("2 Jan 2006"), windows[0].EndsAt.UTC().Format("2 Jan 2006")
	}
	return c
}

// A usageBar is how much of a limit is used.
type usageBar struct {
	Width float64 // 0 to 100
	Class string
	Label string
}

// bar returns a usageBar. A limit that is nearly used up stands out.
func bar(used, most int64, label string) usageBar {
	part := share(used, most)
	b := usageBar{Width: math.Round(part*1000) / 10, Class: "calm", Label: label}
	if used > 0 {
		b.Width = max(b.Width, .5) // which can be seen
	}
	switch {
	case most == 0 || most > 0 && used >= most:
		b.Width, b.Class = 100, "full"
	case part >= .8:
		b.Class = "near"
	}
	return b
}

// multiplierBar returns the bar of a load multiplier.
func multiplierBar(m float64) usageBar {
	return usageBar{Width: math.Round(m * 100), Class: "calm", Label: "multiplier " + strconv.FormatFloat(m, 'g', 3, 64)}
}
