package console

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/tierlimit/tierlimit/tiers"
)

// A loadStatus is what /v1/load answers: the load of what is protected, as all replicas have it.
type loadStatus struct {
	Mode     string                `json:"mode"`
	CPU      float64               `json:"cpu"`
	Smoothed float64               `json:"smoothed"`
	AgeMS    int64                 `json:"age_ms"`
	Agreed   bool                  `json:"agreed"`
	Readings []reading             `json:"readings"`
	Tiers    map[string]tierStatus `json:"tiers"`
}

// A reading is how busy one source is.
type reading struct {
	Source   string  `json:"source"`
	Kind     string  `json:"kind"`
	CPU      float64 `json:"cpu"`
	Capacity float64 `json:"capacity"`
	AgeMS    int64   `json:"age_ms"`
	Counts   bool    `json:"counts"`
}

// Age writes how old the reading is.
func (r reading) Age() string { return fmt.Sprintf("%.1f s ago", float64(r.AgeMS)/1000) }

// By says who has the multipliers.
func (l *loadStatus) By() string {
	if l.Agreed {
		return "all replicas agree"
	}
	return "this replica alone"
}

type tierStatus struct {
	Multiplier float64 `json:"multiplier"`
	Computed   float64 `json:"computed"`
	Pinned     bool    `json:"pinned"`
}

// Age writes the age of the last reading.
func (l *loadStatus) Age() string {
	if l.AgeMS < 0 {
		return "no reading counts"
	}
	return fmt.Sprintf("read %.1f s ago", float64(l.AgeMS)/1000)
}

// A loadPage shows what load does to limits.
type loadPage struct {
	Status  part[loadStatus]
	Control part[tiers.LoadControl]
	Tiers   []tierLoad
	Done    *event
}

// A tierLoad is what load does to the limits of one tier.
type tierLoad struct {
	Tier   tiers.Tier
	Status tierStatus
	Pin    *tiers.Pin
}

// Adaptive returns how many limits load scales.
func (t tierLoad) Adaptive() (n int) {
	for _, l := range t.Tier.Limits {
		if l.Adaptive {
			n++
		}
	}
	return n
}

func (v *visit) load() error {
	p := &loadPage{
		Status:  readPart[loadStatus](v, "/v1/load", nil),
		Control: readPart[tiers.LoadControl](v, "/admin/v1/load", nil),
	}
	list, err := v.tierList()
	if err != nil {
		return err
	}
	for i := range list {
		one := tierLoad{Tier: list[i], Status: p.Status.Value.Tiers[list[i].Key]}
		if pin, ok := p.Control.Value.Pins[list[i].Key]; ok && pin.Holds(time.Now()) {
			one.Pin = &pin
		}
		p.Tiers = append(p.Tiers, one)
	}
	if p.Done, err = v.done(); err != nil {
		return err
	}
	v.render(http.StatusOK, "load", "Load", p)
	return nil
}

// loadForm returns a form that changes the load control by a merge patch.
func loadForm(v *visit, f *form, patch func(url.Values) any) (*form, tiers.LoadControl, error) {
	control, etag, err := readTagged[tiers.LoadControl](v, "/admin/v1/load", nil)
	if f.Hidden == nil {
		f.Hidden = make(url.Values)
	}
	f.Hidden.Set("etag", etag)
	f.Back, f.kind = "load", tiers.KindLoad
	f.request = func(values url.Values) request {
		return request{method: http.MethodPatch, path: "/admin/v1/load", header: tagged(values), body: patch(values)}
	}
	return f, control, err
}

func changeMode(v *visit, _ url.Values) (*form, error) {
	mode := &field{Name: "mode", Label: "Mode", Kind: chooseField, Options: []option{
		{"", "As each replica is configured"}, {"off", "Off: nothing is scaled"}, {"observe", "Observe: shown, and only pins act"}, {"enforce", "Enforce: adaptive limits are scaled"},
	}}
	f, control, err := loadForm(v, &form{
		Title: "Load mode", Lead: "What all replicas do with the load of what is protected.", Verb: "Apply change", Fields: []*field{mode},
	}, func(values url.Values) any { return map[string]any{"mode": values.Get("mode")} })
	mode.Values = []string{control.Mode}
	return f, err
}

func changePin(v *visit, q url.Values) (*form, error) {
	key := q.Get("key")
	path := "pins." + key
	multiplier := &field{Name: path + ".multiplier", Label: "Multiplier", Kind: numberField, Values: []string{"0.5"}, Required: true, Help: "0.05 to 1. At 0.5 an adaptive limit of 100 allows 50."}
	expires := &field{Name: path + ".expires_at", Label: "Until", Kind: timeField, Help: "Empty: until the pin is removed."}
	fields := []*field{multiplier, expires}
	f, control, err := loadForm(v, &form{
		Title: "Pin the multiplier of " + key, Lead: "The adaptive limits of the tier are scaled by it, whatever the load.", Verb: "Pin",
		Fields: fields, Hidden: url.Values{"key": {key}},
	}, func(values url.Values) any { return bodyOf(fields, values) })
	if pin, ok := control.Pins[key]; ok {
		multiplier.Values, expires.Values = []string{fmt.Sprint(pin.Multiplier)}, []string{inputOf(pin.ExpiresAt)}
	}
	return f, err
}

func deletePin(v *visit, q url.Values) (*form, error) {
	key := q.Get("key")
	f, _, err := loadForm(v, &form{
		Title: "Remove the pin of " + key, Lead: "The load decides again how far the limits of the tier are scaled.", Verb: "Remove pin", Hidden: url.Values{"key": {key}},
	}, func(url.Values) any { return map[string]any{"pins": map[string]any{key: nil}} })
	return f, err
}
