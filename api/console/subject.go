package console

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// What the page of a subject reads of the API.
type (
	openHold struct {
		ID        string    `json:"id"`
		ExpiresAt time.Time `json:"expires_at"`
		Limits    []struct {
			Limit      string `json:"limit"`
			Cost       int64  `json:"cost"`
			Concurrent bool   `json:"concurrent"`
		} `json:"limits"`
	}
	openHolds struct {
		Holds []openHold `json:"holds"`
	}
	windowUsage struct {
		Limit  string    `json:"limit"`
		Used   int64     `json:"used"`
		Max    int64     `json:"max"`
		EndsAt time.Time `json:"ends_at"`
	}
	explanation struct {
		Steps []struct {
			Step string `json:"step"`
			Text string `json:"text"`
		} `json:"steps"`
		Decision tierlimit.Decision `json:"decision"`
		Denials  []denial           `json:"denials"`
	}
)

// max returns the max of a window; 0 in the history is unlimited, or not known.
func (w *windowUsage) max() int64 {
	if w.Max == 0 {
		return tierlimit.Unlimited
	}
	return w.Max
}

// Maximum returns max for templates.
func (w windowUsage) Maximum() int64 { return w.max() }

// A subjectPage is all about one subject.
type subjectPage struct {
	ID      string
	Known   bool
	Subject tiers.Subject

	Usage     part[tierlimit.Usage]
	Overrides part[list[tiers.Override]]
	Holds     part[openHolds]
	History   part[list[windowUsage]]
	Explained part[explanation]
	Keys      part[list[access.Credential]]
	Events    part[list[event]]
	Done      *event

	Scope string // of the request that is explained
	Cost  string
}

// A limitHistory is the usage of the windows of one limit.
type limitHistory struct {
	Limit   string
	Chart   chart
	Windows []windowUsage
}

// Histories returns the history of each limit.
func (p *subjectPage) Histories() (all []limitHistory) {
	byLimit := make(map[string][]windowUsage)
	for _, w := range p.History.Value.Data {
		byLimit[w.Limit] = append(byLimit[w.Limit], w)
	}
	for _, name := range sortedKeys(byLimit) {
		windows := byLimit[name]
		all = append(all, limitHistory{name, historyChart(name, windows), windows})
	}
	return all
}

// OverrideState says in one word whether an override is in force.
func (p *subjectPage) OverrideState(o tiers.Override) string {
	now := time.Now()
	switch {
	case now.Before(o.StartsAt):
		return "scheduled"
	case !now.Before(o.ExpiresAt):
		return "ended"
	}
	return "in force"
}

// Blocked reports whether the subject is blocked now.
func (p *subjectPage) Blocked() bool {
	return p.Subject.BlockedUntil != nil && time.Now().Before(*p.Subject.BlockedUntil)
}

// Source says where a limit comes from.
func (p *subjectPage) Source(from string) string {
	switch from {
	case tierlimit.FromOverride:
		return "override"
	case tierlimit.FromTrial:
		return "trial of " + p.Usage.Value.Tier
	case tierlimit.FromFallback:
		return "default tier, as the account could not be read in time"
	case tierlimit.FromDefault:
		return "default tier"
	}
	return "tier " + p.Usage.Value.Tier
}

// subject shows one subject. A subject that is not known has usage all the same.
func (v *visit) subject() error {
	q := v.r.URL.Query()
	id := q.Get("id")
	if id == "" {
		v.redirect("subjects")
		return nil
	}
	p := &subjectPage{ID: id, Scope: q.Get("scope"), Cost: q.Get("cost")}
	var err error
	p.Subject, err = read[tiers.Subject](v, subjectPath(id), nil)
	if err != nil && !isStatus(err, http.StatusNotFound) {
		return err
	}
	p.Known = err == nil
	path, asked := subjectPath(id), make(url.Values)
	if p.Scope != "" {
		asked.Set("scope", p.Scope)
	}
	if p.Cost != "" {
		asked.Set("cost", p.Cost)
	}
	p.Usage = readPart[tierlimit.Usage](v, path+"/usage", nil)
	p.Holds = readPart[openHolds](v, path+"/holds", nil)
	p.History = readPart[list[windowUsage]](v, path+"/usage/history", url.Values{"limit": {"120"}})
	p.Explained = readPart[explanation](v, path+"/explain", asked)
	p.Events = readPart[list[event]](v, "/admin/v1/audit", url.Values{"object": {id}, "limit": {"5"}})
	if p.Known {
		p.Overrides = readPart[list[tiers.Override]](v, path+"/overrides", nil)
		p.Keys = readPart[list[access.Credential]](v, "/admin/v1/keys", url.Values{"subject": {id}})
	}
	slices.SortStableFunc(p.Usage.Value.Windows, func(a, b tierlimit.WindowState) int { return cmp.Compare(lengthOf(a.Window), lengthOf(b.Window)) })
	if p.Done, err = v.done(); err != nil {
		return err
	}
	v.render(http.StatusOK, "subject", id, p)
	return nil
}

// lengthOf returns about how long a window is, to show short ones first.
func lengthOf(w tierlimit.Window) time.Duration {
	const day = 24 * time.Hour
	switch w.Period {
	case tierlimit.Day:
		return day
	case tierlimit.Week:
		return 7 * day
	case tierlimit.Month:
		return 30 * day
	}
	return w.Length
}
