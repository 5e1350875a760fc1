package main

import (
	"bytes"
	"os"
	"testing"
)

func TestTheCommittedDashboardIsTheGeneratedOne(t *testing.T) {
	want, err := encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile("tierlimit.json")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("tierlimit.json is old: go run ./deploy/grafana")
	}
}

func TestPanelsDoNotOverlap(t *testing.T) {
	titles, taken := make(map[string]bool), make(map[[2]int]string)
	for _, p := range tierlimit().Panels {
		if titles[p.Title] {
			t.Errorf("two panels are called %q", p.Title)
		}
		titles[p.Title] = true
		if p.Grid.X+p.Grid.W > width || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s: %+v, %d queries", p.Title, p.Grid, len(p.Targets))
		}
		for x := range p.Grid.W {
			for y := range p.Grid.H {
				cell := [2]int{p.Grid.X + x, p.Grid.Y + y}
				if other := taken[cell]; other != "" {
					t.Fatalf("%s lies on %s", p.Title, other)
				}
				taken[cell] = p.Title
			}
		}
	}
}
