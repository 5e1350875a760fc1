package console

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// What the overview reads of the API.
type (
	denial struct {
		At     time.Time `json:"at"`
		Reason string    `json:"reason"`
		Limit  string    `json:"limit"`
		Scope  string    `json:"scope"`
		Cost   int64     `json:"cost"`
		Used   int64     `json:"used"`
		Max    int64     `json:"max"`
	}
	denialReport struct {
		Since    time.Time `json:"since"`
		Replicas int       `json:"replicas"`
		Items    []struct {
			Subject string `json:"subject"`
			Tier    string `json:"tier"`
			Denied  int64  `json:"denied"`
			Error   int64  `json:"error"`
			Last    denial `json:"last"`
		} `json:"items"`
		Partial bool `json:"partial"`
	}
	nearLimit struct {
		Subject string    `json:"subject"`
		Tier    string    `json:"tier"`
		Limit   string    `json:"limit"`
		Used    int64     `json:"used"`
		Max     int64     `json:"max"`
		EndsAt  time.Time `json:"ends_at"`
	}
)

// An overviewPage is how things stand.
type overviewPage struct {
	Counted bool // whether decisions are counted here
	Chart   chart
	Legend  []legend
	Minutes []minute
	Began   time.Time

	Rate     float64 // decisions a second in the last minute
	Allowed  uint64  // in the last half hour, as the next two
	Denied   uint64
	Degraded uint64

	Denials part[denialReport]
	Near    part[list[nearLimit]]
	Load    part[loadStatus]
	Health  []healthLine
}

// A legend is what one colour of the chart means, and how often it was.
type legend struct {
	outcome
	Count uint64
}

// DeniedShare returns the part of decisions that was denied.
func (p *overviewPage) DeniedShare() float64 {
	if p.Allowed+p.Denied == 0 {
		return 0
	}
	return float64(p.Denied) / float64(p.Allowed+p.Denied)
}

// Troubles returns the health lines that fail.
func (p *overviewPage) Troubles() (list []healthLine) {
	for _, line := range p.Health {
		if !line.OK {
			list = append(list, line)
		}
	}
	return list
}

// overview shows how things stand. With ?part=live it answers with the part that a script puts in
// the place of the old one.
func (v *visit) overview() error {
	const rows = "8"
	p := &overviewPage{
		Denials: readPart[denialReport](v, "/admin/v1/denials", url.Values{"limit": {rows}}),
		Near:    readPart[list[nearLimit]](v, "/admin/v1/usage/near", url.Values{"limit": {rows}}),
		Load:    readPart[loadStatus](v, "/v1/load", nil),
		Health:  v.health(),
	}
	if t := v.console.timeline; t != nil {
		p.count(t)
	}
	block := "layout"
	if v.r.URL.Query().Get("part") == "live" {
		block = "live"
	}
	v.renderBlock(http.StatusOK, "overview", block, "Overview", p)
	return nil
}

func (p *overviewPage) count(t *timeline) {
	ended, current := t.recent()
	p.Counted, p.Began = true, t.began
	p.Chart, p.Minutes = decisionsChart(ended), minutesOf(ended)
	all := append(slices.Clone(ended), current)
	sums := make(map[string]uint64)
	for i := range all {
		for key, n := range all[i].Counts {
			sums[key] += n
		}
	}
	whole := sample{Counts: sums}
	p.Denied, p.Degraded = whole.Denied(), sums[degraded]
	p.Allowed = whole.Total() - p.Denied
	for _, o := range outcomes {
		if n := sums[o.Key]; n > 0 {
			p.Legend = append(p.Legend, legend{o, n})
		}
	}
	last := ended[max(0, len(ended)-int(time.Minute/sampleEvery)):]
	seconds := time.Since(t.began).Seconds()
	if len(last) > 0 {
		seconds = float64(len(last)) * sampleEvery.Seconds()
	} else {
		last = []sample{current}
	}
	var n uint64
	for i := range last {
		n += last[i].Total()
	}
	p.Rate = float64(n) / max(seconds, 1)
}

// A healthLine is one line of /readyz?verbose.
type healthLine struct {
	Name, Words string
	OK          bool
}

// health returns what /readyz?verbose says.
func (v *visit) health() (lines []healthLine) {
	w := &recorder{header: make(http.Header), status: http.StatusOK}
	if err := v.send(w, request{method: http.MethodGet, path: "/readyz", query: url.Values{"verbose": {"true"}}}); err != nil {
		return []healthLine{{"this replica", "its health cannot be read", false}}
	}
	for i, text := range strings.Split(strings.TrimSpace(w.body.String()), "\n") {
		name, words, found := strings.Cut(text, ": ")
		if !found {
			name, words = "this replica", text
		}
		failing := strings.HasPrefix(words, "failing") || strings.HasPrefix(words, "not ")
		if i == 0 {
			failing = w.status != http.StatusOK
		}
		lines = append(lines, healthLine{name, words, !failing})
	}
	return lines
}
