package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/observe/denials"
	"github.com/tierlimit/tierlimit/tiers"
)

// Denials knows who was denied and why: *denials.Fleet or *denials.Log. With an error both methods
// return what this process knows by itself.
type Denials interface {
	Most(ctx context.Context) (denials.Report, error)
	Of(ctx context.Context, subject string) ([]denials.Denial, error)
}

// denialOperations are the operations about denials and their reasons.
func (a *admin) denialOperations(subjects string) []operation {
	const tag = "Denials"
	look := []access.Right{access.Read}
	return []operation{
		{
			method: http.MethodGet, path: adminRoot + "/denials", id: "list-denials", tag: tag,
			summary: "Who is denied most, over all replicas, in the last half hour or a little more", rights: look, answer: "DenialReport",
			query: []parameter{
				{name: "tier", description: "only subjects of this tier", schema: ofName},
				{name: "limit", description: "how many at most", schema: map[string]any{"type": "integer", "minimum": 1, "maximum": 500, "default": 50}},
			},
			fails: []int{http.StatusBadRequest}, serve: a.listDenials,
		},
		{
			method: http.MethodGet, path: subjects + "/{id}/denials", id: "subject-denials", tag: tag,
			summary: "The last denials of a subject, the last one first", rights: look, answer: "Denials",
			fails: []int{http.StatusBadRequest}, serve: a.subjectDenials,
		},
		{
			method: http.MethodGet, path: subjects + "/{id}/explain", id: "explain", tag: tag,
			summary: "Say step by step what would happen to a request of a subject, and why", rights: look, answer: "Explanation",
			query: []parameter{
				{name: "scope", description: "the scope of the request", schema: ofName},
				{name: "cost", description: "what the request would cost", schema: map[string]any{"type": "integer", "minimum": 1, "maximum": 1000000000000000, "default": 1}},
			},
			fails: []int{http.StatusBadRequest, http.StatusServiceUnavailable}, serve: a.explain,
		},
	}
}

type denialReport struct {
	denials.Report
	Partial bool `json:"partial,omitempty"` // other replicas could not be asked
}

func (a *admin) listDenials(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "tier", "limit")
	if err != nil {
		return err
	}
	most, err := mostOf(q)
	tier := q.Get("tier")
	if err := errors.Join(err, checkFilter(q, "tier", tier == "" || tierlimit.ValidName(tier), "the key of a tier")); err != nil {
		return err
	}
	report, err := a.denials.Most(r.Context())
	if err != nil {
		a.log.Debug("api: denials of other replicas are not known", "error", err)
	}
	respond(w, http.StatusOK, denialReport{report.Top(tier, most), err != nil})
	return nil
}

type subjectDenials struct {
	Subject string           `json:"subject"`
	Items   []denials.Denial `json:"items"`
	Partial bool             `json:"partial,omitempty"` // other replicas could not be asked
}

func (a *admin) subjectDenials(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id := pathValue(r, "id")
	if !tierlimit.ValidSubject(id) {
		return &tierlimit.FieldError{Field: "subject", Value: id, Want: tierlimit.SubjectRule}
	}
	respond(w, http.StatusOK, a.denialsOf(r.Context(), id))
	return nil
}

func (a *admin) denialsOf(ctx context.Context, id string) subjectDenials {
	items, err := a.denials.Of(ctx, id)
	if err != nil {
		a.log.Debug("api: denials of other replicas are not known", "error", err)
	}
	if items == nil {
		items = []denials.Denial{}
	}
	return subjectDenials{id, items, err != nil}
}

// An explanation says what would happen to a request and why.
type explanation struct {
	Subject  string             `json:"subject"`
	Steps    []step             `json:"steps"`
	Decision tierlimit.Decision `json:"decision"` // what the request would be answered
	Denials  []denials.Denial   `json:"denials"`  // the last ones
}

// A step is one step of an explanation, in words.
type step struct {
	Step string `json:"step"` // account, plan, override, limit, load, store or answer
	Text string `json:"text"`
}

// explain answers what a request would be answered now, and how that comes about. The decision is
// this replica's; the account is what the catalogue says.
func (a *admin) explain(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "scope", "cost")
	if err != nil {
		return err
	}
	req, err := explained(pathValue(r, "id"), q)
	if err != nil {
		return err
	}
	now := time.Now()
	subject, err := a.catalogue.Subject(r.Context(), req.Subject)
	known := err == nil
	if err != nil && !errors.Is(err, tiers.ErrNotFound) {
		return err
	}
	e := explanation{Subject: req.Subject}
	decision, err := a.lim.Peek(r.Context(), req)
	if isFieldError(err) {
		return err
	}
	e.Decision = decision
	e.account(&subject, known, now)
	e.plan(&subject, known, now)
	e.limits(&req)
	if err != nil {
		e.add("store", "Usage cannot be counted now (%v); the policy of the tier, on_store_error, answers.", err)
	}
	e.answer()
	e.Denials = a.denialsOf(r.Context(), req.Subject).Items
	respond(w, http.StatusOK, e)
	return nil
}

func explained(id string, q url.Values) (tierlimit.Request, error) {
	req := tierlimit.Request{Subject: id, Scope: q.Get("scope"), Cost: 1}
	if !tierlimit.ValidSubject(id) {
		return req, &tierlimit.FieldError{Field: "subject", Value: id, Want: tierlimit.SubjectRule}
	}
	if q.Has("cost") {
		n, err := strconv.ParseInt(q.Get("cost"), 10, 64)
		if err != nil || n < 1 || n > tierlimit.MaxCount {
			return req, &tierlimit.FieldError{Field: "cost", Value: q.Get("cost"), Want: "a whole number from 1 to 1000000000000000"}
		}
		req.Cost = n
	}
	return req, nil
}

func (e *explanation) add(kind, format string, args ...any) {
	e.Steps = append(e.Steps, step{kind, fmt.Sprintf(format, args...)})
}

func (e *explanation) account(s *tiers.Subject, known bool, now time.Time) {
	if !known {
		e.add("account", "%s is not a customer: nobody has created it.", e.Subject)
		return
	}
	switch {
	case s.Status == tiers.Suspended:
		e.add("account", "The account is suspended: every request is denied.")
	case s.Status == tiers.PastDue && s.GraceUntil != nil && !now.Before(*s.GraceUntil):
		e.add("account", "The account is past due, and its grace ended at %s: every request is denied.", instant(*s.GraceUntil))
	case s.Status == tiers.PastDue:
		e.add("account", "The account is past due%s.", until(s.GraceUntil))
	default:
		e.add("account", "The account is active.")
	}
	if s.BlockedUntil != nil && now.Before(*s.BlockedUntil) {
		e.add("account", "The account is blocked until %s: every request is denied.", instant(*s.BlockedUntil))
	}
}

func until(t *time.Time) string {
	if t == nil {
		return ""
	}
	return ", and served until " + instant(*t)
}

func instant(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (e *explanation) plan(s *tiers.Subject, known bool, now time.Time) {
	d := &e.Decision
	if !known {
		e.add("plan", "The plan is that of the default tier, %s.", d.Tier)
		return
	}
	inForce := s.AsOf(now)
	e.add("plan", "The tier of the account is %s.", inForce.Tier)
	if t := s.Trial; t != nil && now.Before(t.EndsAt) {
		e.add("plan", "A trial of %s is in force until %s.", t.Tier, instant(t.EndsAt))
	} else if t != nil {
		e.add("plan", "A trial of %s has ended at %s.", t.Tier, instant(t.EndsAt))
	}
	if n := inForce.Next; n != nil {
		e.add("plan", "The tier will be %s from %s on.", n.Tier, instant(n.At))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Overrides)) {
		o := s.Overrides[name]
		switch {
		case now.Before(o.StartsAt):
			e.add("override", "An override of %s to %s begins at %s.", name, maxText(o.Max), instant(o.StartsAt))
		case !now.Before(o.ExpiresAt):
			e.add("override", "An override of %s to %s has ended at %s.", name, maxText(o.Max), instant(o.ExpiresAt))
		default:
			e.add("override", "An override of %s to %s is in force until %s%s.", name, maxText(o.Max), instant(o.ExpiresAt), because(o.Reason))
		}
	}
	if d.Degraded && d.Source != tierlimit.SourcePolicy {
		e.add("plan", "This replica does not know the account for sure at the moment, and holds it to %s.", d.Tier)
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return " (" + strconv.Quote(reason) + ")"
}

func maxText(n int64) string {
	if n == tierlimit.Unlimited {
		return "unlimited"
	}
	return strconv.FormatInt(n, 10)
}

// sourceText names the sources of limits.
var sourceText = map[string]string{
	tierlimit.FromOverride: "an override", tierlimit.FromTrial: "the trial", tierlimit.FromTier: "the tier",
	tierlimit.FromDefault: "the default tier", tierlimit.FromFallback: "the default tier, as the account's could not be learned in time",
}

// limits says where each limit that applies comes from and where it stands.
func (e *explanation) limits(req *tierlimit.Request) {
	d := &e.Decision
	for i := range d.Windows {
		w := &d.Windows[i]
		length := "open holds at a time"
		if w.Algorithm != tierlimit.Concurrent {
			length = "per " + w.Window.String()
		}
		text := fmt.Sprintf("%s allows %s %s (from %s); %d used", w.Limit, maxText(w.EffectiveMax), length, cmp.Or(sourceText[w.From], "the tier"), w.Used)
		if w.Reset > 0 {
			text += fmt.Sprintf(", free again in %s", w.Reset.Round(time.Second))
		}
		if w.Shadow {
			text += "; it is in shadow mode and denies nobody"
		}
		e.add("limit", "%s.", text)
		if w.EffectiveMax != w.Max && d.Multiplier < 1 {
			e.add("load", "Load scales %s by %s: from %s to %s.", w.Limit, strconv.FormatFloat(d.Multiplier, 'g', 3, 64), maxText(w.Max), maxText(w.EffectiveMax))
		}
	}
	if len(d.Windows) == 0 && d.Source != tierlimit.SourcePolicy {
		e.add("limit", "No limit of the plan applies to the scope %q.", req.Scope)
	}
}

func (e *explanation) answer() {
	d := &e.Decision
	after := ""
	if d.RetryAfter > 0 {
		after = fmt.Sprintf(" A retry can succeed in %s.", d.RetryAfter.Round(time.Second))
	}
	switch {
	case d.Allowed && d.Reason == tierlimit.Shadowed:
		e.add("answer", "A request of cost %d would be allowed; %s would deny it if it were not in shadow mode.", d.Cost, d.Limit)
	case d.Allowed:
		e.add("answer", "A request of cost %d would be allowed.", d.Cost)
	case d.Limit != "":
		e.add("answer", "A request of cost %d would be denied by %s: %s.%s", d.Cost, d.Limit, d.Reason, after)
	default:
		e.add("answer", "A request of cost %d would be denied: %s.%s", d.Cost, d.Reason, after)
	}
}
