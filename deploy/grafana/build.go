package main

import "strings"

// selector chooses the replicas of the variables.
const selector = `job=~"$job",instance=~"$instance"`

var prometheus = &datasource{Type: "prometheus", UID: "$datasource"}

// tierlimit returns the dashboard of sections.
func tierlimit() dashboard {
	d := dashboard{
		UID: "tierlimit", Title: "tierlimit", Tags: []string{"tierlimit"},
		Description:   "Decisions, limits, Redis, Postgres and processes of tierlimit. Made by go run ./deploy/grafana.",
		SchemaVersion: 39, Editable: true, GraphTooltip: 1, Refresh: "30s", Timezone: "browser",
		Time: timeRange{"now-1h", "now"},
		Templating: templating{[]variable{
			{Name: "datasource", Label: "Data source", Type: "datasource", Query: "prometheus", Refresh: 1, Current: struct{}{}},
			choice("job", "Job", "label_values(tierlimit_build_info, job)"),
			choice("instance", "Replica", `label_values(tierlimit_build_info{job=~"$job"}, instance)`),
		}},
	}
	y, closed := 0, false
	add := func(p panel) {
		p.ID = len(d.Panels) + 1
		d.Panels = append(d.Panels, p)
	}
	// place adds panels from left to right, and below each other when a line is full.
	place := func(graphs []graph, w, h int, draw func(*graph) panel) {
		x := 0
		for i := range graphs {
			if x+w > width {
				x, y = 0, y+h
			}
			p := draw(&graphs[i])
			p.Grid = grid{H: h, W: w, X: x, Y: y}
			add(p)
			x += w
		}
		if len(graphs) > 0 {
			y += h
		}
	}
	for i := range sections {
		s := &sections[i]
		add(panel{Type: "row", Title: s.title, Grid: grid{H: 1, W: width, Y: y}, Collapsed: &closed})
		y++
		place(s.stats, 4, 4, stat)
		place(s.graphs, 12, 8, timeSeries)
	}
	return d
}

// width is that of Grafana's grid.
const width = 24

// choice returns a variable whose values are those of a label; at first all are chosen.
func choice(name, label, values string) variable {
	return variable{
		Name: name, Label: label, Type: "query", Query: variableQuery{values, name}, Definition: values, Datasource: prometheus,
		Refresh: 2, Sort: 1, Multi: true, IncludeAll: true, AllValue: ".*",
		Current: map[string]any{"text": []string{"All"}, "value": []string{"$__all"}},
	}
}

func (g *graph) panel(kind string) panel {
	p := panel{Type: kind, Title: g.title, Description: g.description, Datasource: prometheus, Field: &field{Defaults: defaults{Unit: g.unit}, Overrides: []any{}}}
	for i, q := range g.queries {
		p.Targets = append(p.Targets, target{RefID: string(rune('A' + i)), Expr: selecting(q.expr), Legend: q.legend, Datasource: prometheus})
	}
	if !g.negative {
		p.Field.Defaults.Min = new(float64)
	}
	if g.max > 0 {
		p.Field.Defaults.Max = &g.max
	}
	return p
}

// selecting puts the selector in the place of {} and {,.
func selecting(expr string) string {
	return strings.NewReplacer("{}", "{"+selector+"}", "{,", "{"+selector+",").Replace(expr)
}

func stat(g *graph) panel {
	p := g.panel("stat")
	steps := []threshold{{Color: "green"}}
	if g.warn > 0 {
		steps = append(steps, threshold{Color: "red", Value: &g.warn})
	}
	p.Field.Defaults.Thresholds = &thresholds{Mode: "absolute", Steps: steps}
	p.Options = statOptions{ColorMode: "value", GraphMode: "area", ReduceOptions: reduceOptions{[]string{"lastNotNull"}}}
	return p
}

func timeSeries(g *graph) panel {
	p := g.panel("timeseries")
	lines := &custom{LineWidth: 1, ShowPoints: "never", Stacking: stacking{Mode: "none", Group: "A"}}
	if g.stack {
		lines.FillOpacity, lines.Stacking.Mode = 20, "normal"
	}
	p.Field.Defaults.Custom = lines
	p.Options = graphOptions{
		Legend:  legend{DisplayMode: "list", Placement: "bottom", ShowLegend: true, Calcs: []string{}},
		Tooltip: tooltip{Mode: "multi", Sort: "desc"},
	}
	return p
}
