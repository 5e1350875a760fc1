package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/tiers"
)

// historyOperations are the operations about usage over time.
func (a *admin) historyOperations(subjects string) []operation {
	return []operation{
		{
			method: http.MethodGet, path: adminRoot + "/usage/near", id: "near-limits", tag: "Usage",
			summary: "Who has used most of a limit of a day or longer, the fullest first", rights: []access.Right{access.Read}, answer: "NearLimitPage",
			query: append([]parameter{
				{name: "over", description: "the part of the max that is used at least", schema: map[string]any{"type": "number", "minimum": 0.5, "maximum": 2, "default": 0.8}},
			}, pages...),
			fails: []int{http.StatusBadRequest, http.StatusServiceUnavailable}, serve: a.nearLimits,
		},
		{
			method: http.MethodGet, path: subjects + "/{id}/usage/history", id: "usage-history", tag: "Usage",
			summary: "What a subject used of each window of a day or longer, the latest first", rights: []access.Right{access.Read}, answer: "WindowUsagePage",
			query: []parameter{
				{name: "of", description: "only of this limit", schema: ofName},
				{name: "limit", description: "how many windows at most", schema: map[string]any{"type": "integer", "minimum": 1, "maximum": 500, "default": 50}},
			},
			fails: []int{http.StatusBadRequest, http.StatusServiceUnavailable}, serve: a.usageHistory,
		},
	}
}

// noHistory knows nothing, as a catalogue in memory does.
type noHistory struct{}

func (noHistory) NearLimits(context.Context, tiers.NearQuery) ([]tiers.WindowUsage, error) {
	return nil, nil
}

func (noHistory) History(context.Context, string, string, int) ([]tiers.WindowUsage, error) {
	return nil, nil
}

// history returns the catalogue as a UsageHistory.
func (a *admin) history() tiers.UsageHistory {
	if h, ok := a.catalogue.(tiers.UsageHistory); ok {
		return h
	}
	return noHistory{}
}

// A nearLimit is a window that is nearly used up, as it is now.
type nearLimit struct {
	Subject string    `json:"subject"`
	Tier    string    `json:"tier"`
	Limit   string    `json:"limit"`
	Used    int64     `json:"used"`
	Max     int64     `json:"max"`
	EndsAt  time.Time `json:"ends_at"`
}

// nearLimits answers with a page of windows. The table tells which to look at; what is shown is
// what the store and the plan say now, so a page may have fewer windows than asked for.
func (a *admin) nearLimits(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "over", "limit", "cursor")
	if err != nil {
		return err
	}
	most, err := mostOf(q)
	over, wrong := overOf(q)
	after, wrongCursor := windowOf(q.Get("cursor"))
	if err := errors.Join(err, wrong, wrongCursor); err != nil {
		return err
	}
	list, err := a.history().NearLimits(r.Context(), tiers.NearQuery{Over: over, After: after, Most: most + 1})
	if err != nil {
		return err
	}
	page := page[nearLimit]{Data: []nearLimit{}, HasMore: len(list) > most}
	if page.HasMore {
		list = list[:most]
		page.NextCursor = windowCursor(list[most-1])
	}
	for _, near := range a.asOfNow(r.Context(), list) {
		if near.Max > 0 && float64(near.Used) >= over*float64(near.Max) {
			page.Data = append(page.Data, near)
		}
	}
	respond(w, http.StatusOK, page)
	return nil
}

// usageAtOnce is how many subjects' usage is read at a time.
const usageAtOnce = 16

// asOfNow reads what is used of windows now. A window whose usage cannot be read stays as it is in
// the table.
func (a *admin) asOfNow(ctx context.Context, list []tiers.WindowUsage) []nearLimit {
	now := make([]nearLimit, len(list))
	places := make(chan struct{}, usageAtOnce)
	var wg sync.WaitGroup
	for i, w := range list {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			now[i] = nearLimit{Subject: w.Subject, Limit: w.Limit, Used: w.Used, Max: w.Max, EndsAt: w.EndsAt}
			usage, err := a.lim.Usage(ctx, w.Subject)
			if err != nil {
				return
			}
			now[i].Tier, now[i].Max = usage.Tier, 0 // of a limit that the plan no longer has
			for j := range usage.Windows {
				if u := &usage.Windows[j]; u.Limit == w.Limit {
					now[i].Used, now[i].Max = u.Used, max(u.Max, 0)
				}
			}
		})
	}
	wg.Wait()
	return now
}

func overOf(q url.Values) (float64, error) {
	if !q.Has("over") {
		return 0.8, nil
	}
	over, err := strconv.ParseFloat(q.Get("over"), 64)
	if err != nil || !(over >= 0.5 && over <= 2) { // a NaN is neither
		return 0, &tierlimit.FieldError{Field: "over", Value: q.Get("over"), Want: "a number from 0.5 to 2, such as 0.8"}
	}
	return over, nil
}

// windowCursor returns the cursor of the page behind w.
func windowCursor(w tiers.WindowUsage) string {
	text, err := json.Marshal(w)
	if err != nil {
		panic(err) // it is ours
	}
	return base64.RawURLEncoding.EncodeToString(text)
}

func windowOf(cursor string) (w tiers.WindowUsage, err error) {
	if cursor == "" {
		return w, nil
	}
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err == nil {
		err = json.Unmarshal(text, &w)
	}
	if err != nil || w.Max <= 0 || w.Used < 0 || !tierlimit.ValidSubject(w.Subject) {
		return w, &tierlimit.FieldError{Field: "cursor", Value: cursor, Want: "a next_cursor as it was sent"}
	}
	return w, nil
}

func (a *admin) usageHistory(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "of", "limit")
	if err != nil {
		return err
	}
	most, err := mostOf(q)
	id, limit := pathValue(r, "id"), q.Get("of")
	if !tierlimit.ValidSubject(id) {
		err = errors.Join(err, &tierlimit.FieldError{Field: "subject", Value: id, Want: tierlimit.SubjectRule})
	}
	if err := errors.Join(err, checkFilter(q, "of", limit == "" || tierlimit.ValidName(limit), "the name of a limit")); err != nil {
		return err
	}
	list, err := a.history().History(r.Context(), id, limit, most)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, page[tiers.WindowUsage]{Data: append([]tiers.WindowUsage{}, list...)})
	return nil
}
