package tiers

import (
	"cmp"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/strictjson"
)

// A Tier is a named plan: a set of limits and how they behave under load and
// without a store.
type Tier struct {
	Key          string           `json:"key"`
	Name         string           `json:"name"` // for people; defaults to the key
	Default      bool             `json:"default"`
	Priority     int              `json:"priority"`       // 0 to 1000; under load a lower one gives way first
	OnStoreError tierlimit.Policy `json:"on_store_error"` // default local
	// Denials says what customers of the tier see of a denial; default tierlimit.DenialsFull.
	Denials tierlimit.Denials `json:"denials"`
	// Alerts are the thresholds of the tier's limits with a window, in percent of their max. A
	// customer who reaches one causes the event limit.threshold: see Webhook.
	Alerts  []int  `json:"alerts,omitempty"`
	Load    *Curve `json:"load"` // how load scales the adaptive limits; null: only as a higher priority is
	Limits  Limits `json:"limits"`
	Version int64  `json:"version,omitzero"` // set by the catalogue; greater with each change
}

// A Curve says how far load scales a tier's adaptive limits: not at all up to a
// CPU utilisation of Start, down to Floor from Full on, linearly in between.
type Curve struct {
	Start float64 `json:"start"` // 0 <= Start < Full
	Full  float64 `json:"full"`  // Start < Full <= 1
	Floor float64 `json:"floor"` // 0.05 to 1: the multiplier at full load
}

// An Anchor says when the calendar periods of a limit begin. The zero Anchor is the calendar: at
// midnight UTC, on Monday, on the first of the month.
type Anchor string

// Anchors of a period other than the calendar.
const (
	AnchorBilling Anchor = "billing" // with the subject's billing, where that is known; else as the calendar
	AnchorSpread  Anchor = "spread"  // at one of 64 instants that follows from the subject's id: not all begin at once
)

// Limits are a tier's limits by name.
type Limits map[string]Limit

// A Limit is a ceiling inside a tier, which holds it by name.
type Limit struct {
	Scope    string
	Max      int64 // or tierlimit.Unlimited
	Window   tierlimit.Window
	Adaptive bool
	Shadow   bool   // counted and reported, and never denies
	Anchor   Anchor // when its period begins

	Algorithm tierlimit.Algorithm // default fixed
	OnExpiry  tierlimit.OnExpiry  // default charge

	Alerts []int // thresholds in place of those of the tier; nil: those of the tier, empty: none
}

// Multiplier returns m = 1 - (1-Floor) * clamp((u-Start) / (Full-Start)) for a
// CPU utilisation u, 0 to 1. A nil curve is always 1.
func (c *Curve) Multiplier(u float64) float64 {
	if c == nil {
		return 1
	}
	way := min(max((u-c.Start)/(c.Full-c.Start), 0), 1)
	return 1 - (1-c.Floor)*way
}

// Normalize fills in what a tier may leave out.
func (t *Tier) Normalize() {
	if t.Name == "" {
		t.Name = t.Key
	}
	if t.OnStoreError == "" {
		t.OnStoreError = tierlimit.Local
	}
	if t.Denials == "" {
		t.Denials = tierlimit.DenialsFull
	}
	if len(t.Alerts) == 0 {
		t.Alerts = nil
	}
}

// Validate reports everything that is wrong with t, each as a
// *tierlimit.FieldError, joined.
func (t *Tier) Validate() error {
	var errs []error
	check := func(ok bool, field, value, want string) {
		if !ok {
			errs = append(errs, &tierlimit.FieldError{Field: field, Value: value, Want: want})
		}
	}
	check(tierlimit.ValidName(t.Key), "key", t.Key, tierlimit.NameRule)
	check(len(t.Name) <= 200 && strictjson.Printable(t.Name), "name", t.Name, "at most 200 bytes of UTF-8 without control characters")
	check(t.Priority >= 0 && t.Priority <= tierlimit.MaxPriority, "priority", strconv.Itoa(t.Priority), "a whole number from 0 to 1000")
	check(t.OnStoreError.Valid(), "on_store_error", string(t.OnStoreError), "open, closed or local")
	check(t.Denials.Valid(), "denials", string(t.Denials), "full or plain")
	if err := tierlimit.CheckAlerts(t.Alerts); err != nil {
		errs = append(errs, err)
	}
	check(len(t.Limits) >= 1 && len(t.Limits) <= tierlimit.MaxLimits, "limits", strconv.Itoa(len(t.Limits))+" limits", "1 to 16 limits")
	if t.Load != nil {
		errs = append(errs, t.Load.validate()...)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Limits)) {
		limit := t.Limits[name].named(name, "")
		if err := limit.Validate(); err != nil {
			errs = append(errs, strictjson.In("limits."+name, err)...)
		}
		check(t.Limits[name].Anchor == "" || limit.Window.Period != "", "limits."+name+".anchor", string(t.Limits[name].Anchor), "left out for a window of fixed length")
		check(slices.Contains([]Anchor{"", AnchorBilling, AnchorSpread}, t.Limits[name].Anchor), "limits."+name+".anchor", string(t.Limits[name].Anchor), anchorRule)
	}
	return errors.Join(errs...)
}

func (c *Curve) validate() (errs []error) {
	check := func(ok bool, field string, value float64, want string) {
		if !ok {
			errs = append(errs, &tierlimit.FieldError{
				Field: "load." + field, Value: strconv.FormatFloat(value, 'g', -1, 64), Want: want,
			})
		}
	}
	check(c.Start >= 0 && c.Start < 1, "start", c.Start, "from 0 to less than 1")
	check(c.Full > c.Start && c.Full <= 1, "full", c.Full, "more than start and at most 1")
	check(c.Floor >= 0.05 && c.Floor <= 1, "floor", c.Floor, "from 0.05 to 1")
	return errs
}

// alertsOf returns the thresholds of a limit of t.
func (t *Tier) alertsOf(l *Limit) []int {
	switch {
	case l.Alerts != nil:
		return l.Alerts
	case l.Algorithm == tierlimit.Concurrent:
		return nil
	}
	return t.Alerts
}

func (l Limit) named(name, from string) tierlimit.Limit {
	return tierlimit.Limit{
		Name: name, Scope: l.Scope, Max: l.Max, Window: l.Window, Adaptive: l.Adaptive, Shadow: l.Shadow, Algorithm: l.Algorithm, OnExpiry: l.OnExpiry, From: from, Alerts: l.Alerts,
	}
}

// Clone returns a copy that shares nothing with t.
func (t Tier) Clone() Tier {
	t.Limits = maps.Clone(t.Limits)
	t.Alerts = slices.Clone(t.Alerts)
	if t.Load != nil {
		curve := *t.Load
		t.Load = &curve
	}
	return t
}

// UnmarshalJSON reads limits and reports everything that is wrong in them,
// joined, each under the limit's name.
func (l *Limits) UnmarshalJSON(data []byte) (err error) {
	*l, err = strictjson.Named[Limit]("limits", data)
	return err
}

type limitJSON struct {
	Scope    string          `json:"scope,omitempty"`
	Max      json.RawMessage `json:"max,omitempty"`
	Window   string          `json:"window,omitempty"`
	Period   string          `json:"period,omitempty"`
	Anchor   string          `json:"anchor,omitempty"`
	Adaptive bool            `json:"adaptive,omitempty"`
	Shadow   bool            `json:"shadow,omitempty"`

	Algorithm  tierlimit.Algorithm `json:"algorithm,omitempty"`
	Concurrent bool                `json:"concurrent,omitempty"`
	OnExpiry   tierlimit.OnExpiry  `json:"on_expiry,omitempty"`
	Alerts     *[]int              `json:"alerts,omitempty"`
}

// MarshalJSON writes a fixed window as "window", a calendar period as "period" with its
// "anchor", and a concurrent limit as "concurrent".
func (l Limit) MarshalJSON() ([]byte, error) {
	j := limitJSON{Scope: l.Scope, Max: maxText(l.Max), Adaptive: l.Adaptive, Shadow: l.Shadow}
	if l.Algorithm == tierlimit.Sliding {
		j.Algorithm = l.Algorithm
	}
	if l.OnExpiry != tierlimit.ChargeOnExpiry {
		j.OnExpiry = l.OnExpiry
	}
	if l.Alerts != nil {
		j.Alerts = &l.Alerts
	}
	switch {
	case l.Algorithm == tierlimit.Concurrent:
		j.Concurrent = true
	case l.Window.Period == "":
		j.Window = l.Window.String()
	default:
		j.Period, j.Anchor = string(l.Window.Period), cmp.Or(string(l.Anchor), calendar)
	}
	return json.Marshal(j)
}

// UnmarshalJSON reads what MarshalJSON writes, and refuses fields it does not
// know. A max must be there: leaving it out by mistake must not mean unlimited.
func (l *Limit) UnmarshalJSON(data []byte) error {
	var j limitJSON
	wrong := strictjson.Strict(data, &j)
	*l = Limit{Scope: j.Scope, Adaptive: j.Adaptive, Shadow: j.Shadow, Algorithm: j.Algorithm, OnExpiry: j.OnExpiry}
	var wrongMax, wrongWindow, wrongAlgorithm error
	if j.Algorithm != "" && (j.Concurrent || j.Algorithm != tierlimit.Fixed && j.Algorithm != tierlimit.Sliding) {
		wrongAlgorithm = &tierlimit.FieldError{Field: "algorithm", Value: string(j.Algorithm), Want: "fixed or sliding, and not beside concurrent"}
	}
	if j.Concurrent {
		l.Algorithm = tierlimit.Concurrent
	}
	if j.Anchor != calendar {
		l.Anchor = Anchor(j.Anchor)
	}
	if j.Alerts != nil {
		l.Alerts = *j.Alerts
	}
	l.Max, wrongMax = parseMax(j.Max)
	l.Window, wrongWindow = parseWindow(j)
	return errors.Join(wrong, wrongMax, wrongWindow, wrongAlgorithm)
}

// calendar is how the zero Anchor is written.
const calendar = "calendar"

// anchorRule is what an anchor may be, as an error says it.
const anchorRule = `"calendar", "billing" or "spread", and only beside a period`

// maxRule is what a max may be, as an error says it.
const maxRule = "a whole number from 0 to 1000000000000000, or null for unlimited"

func maxText(most int64) json.RawMessage {
	if most == tierlimit.Unlimited {
		return json.RawMessage("null")
	}
	return strconv.AppendInt(nil, most, 10)
}

func parseMax(raw json.RawMessage) (int64, error) {
	if string(raw) == "null" {
		return tierlimit.Unlimited, nil
	}
	var n int64
	if err := json.Unmarshal(raw, &n); err != nil || n < 0 {
		return 0, &tierlimit.FieldError{
			Field: "max", Value: string(raw), Want: maxRule,
		}
	}
	return n, nil
}

func parseWindow(j limitJSON) (tierlimit.Window, error) {
	switch {
	case j.Concurrent && j.Window == "" && j.Period == "" && j.Anchor == "":
		return tierlimit.Window{}, nil
	case j.Concurrent || (j.Window == "") == (j.Period == ""):
		return tierlimit.Window{}, &tierlimit.FieldError{
			Field: "window", Value: j.Window, Want: "given, or period or concurrent, and no two of them",
		}
	case j.Anchor != "" && (!slices.Contains([]Anchor{calendar, AnchorBilling, AnchorSpread}, Anchor(j.Anchor)) || j.Period == ""):
		return tierlimit.Window{}, &tierlimit.FieldError{Field: "anchor", Value: j.Anchor, Want: anchorRule}
	case j.Period != "":
		w := tierlimit.Window{Period: tierlimit.Period(j.Period)}
		if w.Validate() != nil {
			return w, &tierlimit.FieldError{Field: "period", Value: j.Period, Want: "day, week or month"}
		}
		return w, nil
	}
	d, err := time.ParseDuration(j.Window)
	w := tierlimit.Window{Length: d}
	if err != nil || w.Validate() != nil {
		return w, &tierlimit.FieldError{
			Field: "window", Value: j.Window, Want: "a duration of whole milliseconds from 1ms to 87840h, such as 60s",
		}
	}
	return w, nil
}
