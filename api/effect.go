package api

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/internal/jsondiff"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/tiers"
)

// An effect is what a change would do: the answer to ?dry_run=true.
type effect struct {
	DryRun   bool              `json:"dry_run"`
	Action   string            `json:"action"`
	Before   json.RawMessage   `json:"before"`
	After    json.RawMessage   `json:"after"`
	Changes  []jsondiff.Change `json:"changes"`
	Affected affected          `json:"affected"`
	Along    *along            `json:"along,omitempty"`
}

// along are the changes that a change implies, such as the deletion of a subject's keys with
// the subject.
type along struct {
	Changes int          `json:"changes"`
	Sample  []alongEvent `json:"sample"` // the first of them
}

type alongEvent struct {
	Action string `json:"action"`
	Object string `json:"object"`
	Detail string `json:"detail,omitempty"`
}

// affected is who a change concerns, and how.
type affected struct {
	Subjects int           `json:"subjects"`         // how many of those that are known; once for each tier where pins of several change
	Sample   []string      `json:"sample"`           // the first of them
	Unknown  bool          `json:"unknown"`          // also whoever is not known, and so on the default tier
	Limits   []limitEffect `json:"limits,omitempty"` // of a change to one subject: what it does to its limits

	Refused tierlimit.Reason `json:"refused,omitempty"` // why it would be denied whatever it has used

	// For a change of a tier: the number of subjects whose usage was read, and those whose next
	// request the change would deny, although it is allowed now.
	Checked int            `json:"checked,omitempty"`
	Denied  []deniedEffect `json:"denied,omitempty"`
}

// A deniedEffect is a subject that a change of its tier would deny.
type deniedEffect struct {
	Subject string `json:"subject"`
	Limit   string `json:"limit"`
	Used    int64  `json:"used"`
	Max     int64  `json:"max"`
	Over    int64  `json:"over"` // used minus max; 0 if the max is reached exactly
}

// A limitEffect is what becomes of one limit of a subject.
type limitEffect struct {
	Limit  string `json:"limit"`
	Before *most  `json:"before"` // null: there was none
	After  *most  `json:"after"`  // null: there will be none
	Used   *int64 `json:"used"`   // null: the store does not answer
	Denies *bool  `json:"denies"` // it would deny the next request, and does not now; null likewise
}

// A most is a limit's max; null is unlimited.
type most struct {
	Max  *int64 `json:"max"`
	From string `json:"from"`
}

// sampled is how many of those affected are named.
const sampled = 10

// checked is how many subjects' usage a dry run of a tier reads at most.
const checked = 200

// dryRun parses ?dry_run=, a parameter of all changes.
func dryRun(r *http.Request, upserts bool) (bool, error) {
	known := []string{"dry_run"}
	if upserts {
		known = append(known, "upsert")
	}
	q, err := query(r, known...)
	if err != nil {
		return false, err
	}
	return flag(q, "dry_run")
}

// tried writes what a command of one change would do.
func (a *admin) tried(w http.ResponseWriter, r *http.Request, c *tiers.Command, result *tiers.Result) error {
	made, _ := result.Made(0)
	e, err := tiers.EventOf(c, made)
	if err != nil {
		return err
	}
	changes, err := jsondiff.Of(e.Before, e.After)
	if err != nil {
		return err
	}
	out := effect{DryRun: true, Action: e.Action, Before: e.Before, After: e.After, Changes: changes}
	if out.Affected, err = a.affected(r, &e); err != nil {
		return err
	}
	if out.Along, err = alongside(c, result, made); err != nil {
		return err
	}
	out.respond(w)
	return nil
}

// alongside returns the edits of a command other than made, nil if there are none.
func alongside(c *tiers.Command, result *tiers.Result, made *tiers.Edit) (*along, error) {
	var out *along
	for i := range result.Edits {
		edit := &result.Edits[i]
		if edit == made {
			continue
		}
		if out == nil {
			out = &along{}
		}
		out.Changes++
		if len(out.Sample) < sampled {
			e, err := tiers.EventOf(c, edit)
			if err != nil {
				return nil, err
			}
			out.Sample = append(out.Sample, alongEvent{e.Action, e.Object, e.Detail})
		}
	}
	return out, nil
}

// triedUsage writes the effect of a change of a subject's usage. before and after are objects, or
// nil.
func triedUsage(w http.ResponseWriter, action, subject string, before, after any) error {
	out := effect{DryRun: true, Action: action, Affected: affected{Subjects: 1, Sample: []string{subject}}}
	var err error
	if out.Before, err = json.Marshal(before); err != nil {
		return err
	}
	if out.After, err = json.Marshal(after); err != nil {
		return err
	}
	if out.Changes, err = jsondiff.Of(out.Before, out.After); err != nil {
		return err
	}
	out.respond(w)
	return nil
}

func (out *effect) respond(w http.ResponseWriter) {
	if out.Changes == nil {
		out.Changes = []jsondiff.Change{}
	}
	if out.Affected.Sample == nil {
		out.Affected.Sample = []string{}
	}
	respond(w, http.StatusOK, out)
}

// affected finds out whom the change that e tells of concerns.
func (a *admin) affected(r *http.Request, e *tiers.Event) (affected, error) {
	switch e.Kind {
	case tiers.KindTier:
		return a.affectedByTier(r, e)
	case tiers.KindLoad:
		return a.affectedByLoad(r, e)
	case tiers.KindSubject, tiers.KindOverride:
		return a.affectedSubject(r, e)
	case "key":
		return affected{Subjects: 1, Sample: []string{e.Detail}}, nil
	default: // a token is nobody's
		return affected{}, nil
	}
}

func (a *admin) affectedByTier(r *http.Request, e *tiers.Event) (out affected, err error) {
	var before, after struct{ Default bool }
	if err := errors.Join(decodeIfAny(e.Before, &before), decodeIfAny(e.After, &after)); err != nil {
		return out, err
	}
	out.Unknown = before.Default || after.Default
	if err := a.count(r, &out, tiers.SubjectFilter{Tier: e.Object}); err != nil || len(e.After) == 0 {
		return out, err
	}
	return out, a.findDenied(r, e, &out)
}

// findDenied adds to out the subjects on a tier that the change e would deny.
func (a *admin) findDenied(r *http.Request, e *tiers.Event, out *affected) error {
	var changed tiers.Tier
	if err := json.Unmarshal(e.After, &changed); err != nil {
		return err
	}
	now, err := a.catalogue.Tiers(r.Context())
	if err != nil {
		return err
	}
	next := append(slices.DeleteFunc(slices.Clone(now), func(t tiers.Tier) bool { return t.Key == changed.Key }), changed)
	if changed.Default {
		for i := range next {
			next[i].Default = next[i].Key == changed.Key
		}
	}
	list, err := a.catalogue.Subjects(r.Context(), tiers.SubjectFilter{Tier: e.Object, Most: checked})
	if err != nil {
		return err
	}
	found := make([]newDenials, len(list))
	places := make(chan struct{}, usageAtOnce)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range list {
		before, err := tiers.PlanOf(now, &list[i], time.Now())
		if err != nil {
			return err
		}
		after, err := tiers.PlanOf(next, &list[i], time.Now())
		if err != nil {
			return err
		}
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			found[i] = a.newlyDenied(r, list[i].ID, before, after)
		})
	}
	wg.Wait()
	for _, one := range found {
		if !one.looked { // the store did not answer
			return nil
		}
		out.Checked++
		out.Denied = append(out.Denied, one.list...)
	}
	return nil
}

// newDenials are the limits of a subject that a change would make deny.
type newDenials struct {
	list   []deniedEffect
	looked bool // false: the store failed
}

// newlyDenied returns the limits that would deny a subject's next request under the plan
// after, but do not deny it under the plan before.
func (a *admin) newlyDenied(r *http.Request, subject string, before, after *tierlimit.Plan) newDenials {
	was, err := a.lim.UsageUnder(r.Context(), subject, before)
	if err != nil {
		return newDenials{}
	}
	will, err := a.lim.UsageUnder(r.Context(), subject, after)
	if err != nil {
		return newDenials{}
	}
	out := newDenials{looked: true}
	denied := make(map[string]bool)
	for i := range was.Windows {
		denied[was.Windows[i].Limit] = denies(&was.Windows[i])
	}
	for i := range will.Windows {
		if w := &will.Windows[i]; denies(w) && !denied[w.Limit] {
			out.list = append(out.list, deniedEffect{Subject: subject, Limit: w.Limit, Used: w.Used, Max: w.EffectiveMax, Over: w.Used - w.EffectiveMax})
		}
	}
	return out
}

// count adds the subjects of f to who is affected.
func (a *admin) count(r *http.Request, out *affected, f tiers.SubjectFilter) error {
	n, err := a.catalogue.CountSubjects(r.Context(), f)
	if err != nil {
		return err
	}
	out.Subjects += n
	f.Most = sampled - len(out.Sample)
	first, err := a.catalogue.Subjects(r.Context(), f)
	for _, s := range first {
		if !slices.Contains(out.Sample, s.ID) {
			out.Sample = append(out.Sample, s.ID)
		}
	}
	return err
}

func (a *admin) affectedByLoad(r *http.Request, e *tiers.Event) (out affected, err error) {
	var before, after tiers.LoadControl
	if err := errors.Join(decodeIfAny(e.Before, &before), decodeIfAny(e.After, &after)); err != nil {
		return out, err
	}
	if before.Mode != after.Mode {
		out.Unknown = true
		return out, a.count(r, &out, tiers.SubjectFilter{})
	}
	list, err := a.catalogue.Tiers(r.Context())
	if err != nil {
		return out, err
	}
	for _, t := range list {
		if after.Mode == string(load.Off) || reflect.DeepEqual(before.Pins[t.Key], after.Pins[t.Key]) {
			continue
		}
		out.Unknown = out.Unknown || t.Default
		if err := a.count(r, &out, tiers.SubjectFilter{Tier: t.Key}); err != nil {
			return out, err
		}
	}
	return out, nil
}

func decodeIfAny(text json.RawMessage, into any) error {
	if len(text) == 0 {
		return nil
	}
	return json.Unmarshal(text, into)
}

// affectedSubject compares the plans of a subject before and after, and says what
// that does with what it has used.
func (a *admin) affectedSubject(r *http.Request, e *tiers.Event) (affected, error) {
	out := affected{Subjects: 1, Sample: []string{e.Object}}
	before, after, err := a.subjectsOf(r, e)
	if err != nil {
		return out, err
	}
	list, err := a.catalogue.Tiers(r.Context())
	if err != nil {
		return out, err
	}
	old, err := tiers.PlanOf(list, before, time.Now())
	if err != nil {
		return out, err
	}
	next, err := tiers.PlanOf(list, after, time.Now())
	if err != nil {
		return out, err
	}
	out.Refused = next.Config().Refusal
	out.Limits = a.limitEffects(r, e.Object, old, next)
	return out, nil
}

// limitEffects compares two plans of a subject, by what it has used and what load
// leaves of each max now.
func (a *admin) limitEffects(r *http.Request, subject string, old, next *tierlimit.Plan) []limitEffect {
	before, errBefore := a.lim.UsageUnder(r.Context(), subject, old)
	after, errAfter := a.lim.UsageUnder(r.Context(), subject, next)
	limits := make(map[string]*limitEffect)
	of := func(name string) *limitEffect {
		if limits[name] == nil {
			limits[name] = &limitEffect{Limit: name}
		}
		return limits[name]
	}
	for _, l := range old.Config().Limits {
		of(l.Name).Before = mostOfLimit(l)
	}
	for _, l := range next.Config().Limits {
		of(l.Name).After = mostOfLimit(l)
	}
	if errBefore == nil && errAfter == nil { // else nobody knows
		denied := make(map[string]bool)
		for i := range before.Windows {
			w := &before.Windows[i]
			denied[w.Limit] = denies(w)
			of(w.Limit).Used, of(w.Limit).Denies = &w.Used, new(bool)
		}
		for i := range after.Windows {
			w := &after.Windows[i]
			newly := denies(w) && !denied[w.Limit]
			of(w.Limit).Used, of(w.Limit).Denies = &w.Used, &newly
		}
	}
	var list []limitEffect
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		list = append(list, *limits[name])
	}
	return list
}

func mostOfLimit(l tierlimit.Limit) *most {
	m := &most{From: l.From}
	if l.Max != tierlimit.Unlimited {
		m.Max = &l.Max
	}
	return m
}

// denies reports whether a window would deny a request at a cost of 1.
func denies(w *tierlimit.WindowState) bool {
	return !w.Shadow && w.EffectiveMax != tierlimit.Unlimited && w.Used >= w.EffectiveMax
}

// subjectsOf returns the subject that e is of before and after, nil for nobody
// known.
func (a *admin) subjectsOf(r *http.Request, e *tiers.Event) (before, after *tiers.Subject, err error) {
	now, err := a.catalogue.Subject(r.Context(), e.Object)
	switch {
	case err == nil:
		before = &now
	case !errors.Is(err, tiers.ErrNotFound):
		return nil, nil, err
	}
	if e.Kind == tiers.KindSubject {
		if len(e.After) == 0 {
			return before, nil, nil
		}
		after = new(tiers.Subject)
		err = json.Unmarshal(e.After, after)
		if before != nil {
			after.Overrides = before.Overrides
		}
		return before, after, err
	}
	changed := now
	changed.Overrides = maps.Clone(now.Overrides)
	if changed.Overrides == nil {
		changed.Overrides = make(tiers.Overrides)
	}
	delete(changed.Overrides, e.Detail)
	if len(e.After) > 0 {
		var o tiers.Override
		err = json.Unmarshal(e.After, &o)
		changed.Overrides[o.Limit] = o
	}
	return before, &changed, err
}
