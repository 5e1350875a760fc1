package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/internal/timestamp"
	"github.com/tierlimit/tierlimit/observe/denials"
	"github.com/tierlimit/tierlimit/tiers"
)

// Admin returns the handler of the admin listener.
func Admin(cfg Config) http.Handler {
	r := newRouter(&cfg)
	a := &admin{catalogue: cfg.Catalogue, lim: cfg.Limiter, log: cfg.Logger, catchUp: cfg.CatchUp, denials: cfg.Denials}
	if a.denials == nil {
		a.denials = denials.NewLog("")
	}
	allow := newGuard(&cfg).allow
	mount(r, cfg.Logger, allow, a.operations())
	mount(r, cfg.Logger, allow, cfg.Health.operations(true))
	mount(r, cfg.Logger, allow, documentOperations(adminListener))
	mountDiagnosis(r, cfg.Metrics, allow)
	return r
}

const adminRoot = "/admin/v1"

type admin struct {
	catalogue tiers.Catalogue
	lim       *tierlimit.Limiter
	log       *slog.Logger
	catchUp   func(context.Context) // may be nil
	denials   Denials
}

// catchUpWithin bounds how long the response to a change waits for this process to apply
// the change.
const catchUpWithin = 500 * time.Millisecond

// do runs a command and waits, for at most catchUpWithin, until this process applies the
// change: a client that reads afterwards sees the change.
func (a *admin) do(ctx context.Context, c tiers.Command) (tiers.Result, error) {
	result, err := a.catalogue.Do(ctx, c)
	if err == nil && !c.DryRun && len(result.Edits) > 0 && a.catchUp != nil {
		ctx, cancel := context.WithTimeout(ctx, catchUpWithin)
		defer cancel()
		a.catchUp(ctx)
	}
	return result, err
}

// operations are all that the admin listener does.
func (a *admin) operations() []operation {
	const (
		root      = adminRoot
		subjects  = root + "/subjects"
		overrides = subjects + "/{id}/overrides"
		usage     = subjects + "/{id}/usage"
		holds     = subjects + "/{id}/holds"
	)
	read, down, missing := []access.Right{access.Read}, http.StatusServiceUnavailable, http.StatusNotFound
	list := func(path, id, summary, tag, answer string, query []parameter, serve handlerFunc, fails ...int) operation {
		return operation{
			method: http.MethodGet, path: path, id: id, summary: summary, tag: tag, rights: read, query: query,
			answer: answer, fails: append(fails, down), serve: serve,
		}
	}
	return slices.Concat(
		[]operation{list(root+"/tiers", "list-tiers", "List all tiers, by priority", "Tiers", "TierPage", nil, a.listTiers)},
		a.tier().operations(root+"/tiers"),
		[]operation{{
			method: http.MethodPost, path: root + "/tiers:apply", id: "apply-tiers", summary: "Make the tiers what a file says, all or nothing", tag: "Tiers",
			rights: []access.Right{access.Govern}, body: "TierFile", answer: "Applied", dryRuns: true,
			fails: []int{http.StatusConflict, down}, serve: a.applyTiers,
		}},
		[]operation{list(subjects, "list-subjects", "List subjects, by id", "Subjects", "SubjectPage", append([]parameter{
			{name: "tier", description: "only those who are on this tier, try it or will be on it", schema: ofName},
			{name: "status", description: "only those of this status", schema: oneOf("active", "past_due", "suspended")},
			{name: "prefix", description: "only those whose id begins so", schema: ofText},
		}, pages...), a.listSubjects)},
		a.subject().operations(subjects),
		a.bulkOperations(subjects),
		a.denialOperations(subjects),
		a.historyOperations(subjects),
		[]operation{list(overrides, "list-overrides", "List a subject's overrides, by limit", "Subjects", "OverridePage", nil, a.listOverrides, missing)},
		a.override().operations(overrides),
		[]operation{
			list(usage, "admin-usage", "Read every window of a subject's plan", "Subjects", "Usage", nil, a.readUsage, http.StatusBadRequest),
			{
				method: http.MethodDelete, path: usage, id: "reset-usage", summary: "Forget what a subject has used", tag: "Subjects",
				rights: []access.Right{access.Change}, query: []parameter{
					{name: "limit", description: "only of this limit of its plan; may stand several times", schema: ofName, many: true},
				},
				status: http.StatusNoContent, dryRun: true, fails: []int{down}, serve: a.resetUsage,
			},
			list(holds, "list-holds", "List the holds that a subject has open, the first to expire first", "Subjects", "Holds", nil, a.listHolds, http.StatusBadRequest),
			{
				method: http.MethodDelete, path: holds + "/{hold}", id: "release-hold", tag: "Subjects",
				summary: "Give back what a hold has charged, and free its place", rights: []access.Right{access.Change},
				status: http.StatusNoContent, dryRun: true, fails: []int{http.StatusNotFound, down}, serve: a.releaseHold,
			},
		},
		[]operation{list(root+"/keys", "list-keys", "List API keys, by id", "Access", "KeyPage", append([]parameter{
			{name: "subject", description: "only those of this subject", schema: ofText},
		}, pages...), a.listCredentials(access.Key))},
		a.credential(access.Key, "API key", "Key", access.Change).operations(root+"/keys"),
		[]operation{list(root+"/tokens", "list-tokens", "List tokens, by id", "Access", "TokenPage", pages, a.listCredentials(access.Token))},
		a.credential(access.Token, "token", "Token", access.Govern).operations(root+"/tokens"),
		a.webhookOperations(root+"/webhooks"),
		[]operation{{
			method: http.MethodGet, path: root + "/identity", id: "read-identity", summary: "Say whose token it is, and of which role", tag: "Access",
			rights: []access.Right{access.Decide, access.Read}, answer: "Identity", serve: readIdentity,
		}},
		a.loadControl().operations(root+"/load"),
		[]operation{list(root+"/audit", "list-events", "List what administrators did, the newest first", "Audit", "EventPage", append([]parameter{
			{name: "kind", description: "only changes of this kind of thing", schema: oneOf(eventKinds...)},
			{name: "object", description: "only of this one", schema: ofText},
			{name: "actor", description: "only by this one", schema: ofText},
			{name: "since", description: "only from this instant on", schema: ofInstant},
			{name: "until", description: "only before this instant", schema: ofInstant},
		}, pages...), a.listEvents), {
			method: http.MethodPost, path: root + "/audit:erase", id: "erase-events", tag: "Audit",
			summary: "Erase a subject or an actor from the audit log, or all that is old", rights: []access.Right{access.Govern},
			body: "Erasure", answer: "Erased", dryRuns: true, fails: []int{down}, serve: a.eraseEvents,
		}},
	)
}

var ofInstant = map[string]any{"type": "string", "format": "date-time"}

// pages are the parameters of a list that comes in pages.
var pages = []parameter{
	{name: "limit", description: "how many at most", schema: map[string]any{"type": "integer", "minimum": 1, "maximum": 500, "default": 50}},
	{name: "cursor", description: "the next_cursor of the page before", schema: ofText},
}

var eventKinds = []string{tiers.KindTier, tiers.KindSubject, tiers.KindOverride, tiers.KindUsage, string(access.Key), string(access.Token), tiers.KindLoad, tiers.KindWebhook, tiers.KindAudit}

var conflict = []int{http.StatusConflict}

// reads adapts a catalogue's read method to a resource's.
func reads[T any](f func(context.Context, string) (T, error)) func(*http.Request, string) (T, error) {
	return func(r *http.Request, name string) (T, error) { return f(r.Context(), name) }
}

func (a *admin) tier() *resource[tiers.Tier] {
	return &resource[tiers.Tier]{
		admin: a, noun: "tier", schema: "Tier", tag: "Tiers", param: "key", change: access.Govern,
		name:     func(t *tiers.Tier) *string { return &t.Key },
		version:  func(t *tiers.Tier) int64 { return t.Version },
		ref:      func(_ *http.Request, key string) tiers.Ref { return tiers.TierRef(key) },
		read:     reads(a.catalogue.Tier),
		creating: conflict,
		changing: conflict,
		removing: conflict,
	}
}

func (a *admin) subject() *resource[tiers.Subject] {
	return &resource[tiers.Subject]{
		admin: a, noun: "subject", schema: "Subject", tag: "Subjects", param: "id", change: access.Change,
		name:    func(s *tiers.Subject) *string { return &s.ID },
		version: func(s *tiers.Subject) int64 { return s.Version },
		ref:     func(_ *http.Request, id string) tiers.Ref { return tiers.SubjectRef(id) },
		read:    a.readSubject,

		upserts: true, creating: conflict,
	}
}

func (a *admin) override() *resource[tiers.Override] {
	return &resource[tiers.Override]{
		admin: a, noun: "override", schema: "Override", tag: "Subjects", param: "limit", change: access.Change,
		name:    func(o *tiers.Override) *string { return &o.Limit },
		version: func(o *tiers.Override) int64 { return o.Version },
		ref: func(r *http.Request, limit string) tiers.Ref {
			return tiers.OverrideRef(pathValue(r, "id"), limit)
		},
		read: func(r *http.Request, limit string) (tiers.Override, error) {
			s, err := a.catalogue.Subject(r.Context(), pathValue(r, "id"))
			if err != nil {
				return tiers.Override{}, err
			}
			o, ok := s.Overrides[limit]
			if !ok {
				err = tiers.OverrideError(s.ID, limit, tiers.ErrNotFound)
			}
			return o, err
		},
		creating: []int{http.StatusConflict, http.StatusNotFound},
	}
}

// credential are the keys or the tokens. Their ids and secrets are made here.
func (a *admin) credential(kind access.Kind, noun, schema string, change access.Right) *resource[access.Credential] {
	res := &resource[access.Credential]{
		admin: a, noun: noun, schema: schema, tag: "Access", param: "id", change: change,
		name:    func(c *access.Credential) *string { return &c.ID },
		version: func(c *access.Credential) int64 { return c.Version },
		ref:     func(_ *http.Request, id string) tiers.Ref { return tiers.CredentialRef(kind, id) },
		read: func(r *http.Request, id string) (access.Credential, error) {
			return a.catalogue.Credential(r.Context(), kind, id)
		},
		prepare: func(c *access.Credential) { c.Kind = kind },
		create: func(c *access.Credential) error {
			if c.ID != "" || c.Secret != "" {
				return &tierlimit.FieldError{Field: "id", Value: c.ID, Want: "left out, like the secret: both are made for you"}
			}
			*c = c.WithSecret()
			return nil
		},
		shown: func(put, made access.Credential) access.Credential {
			made.Secret = put.Secret
			return made
		},
		made: true,
	}
	if kind == access.Token { // whose names are unique
		res.creating, res.changing = conflict, conflict
	}
	return res
}

func (a *admin) loadControl() *resource[tiers.LoadControl] {
	return &resource[tiers.LoadControl]{
		admin: a, noun: "load control", schema: "LoadControl", tag: "Load", change: access.Govern,
		version: func(l *tiers.LoadControl) int64 { return l.Version },
		ref:     func(*http.Request, string) tiers.Ref { return tiers.LoadRef() },
		read: func(r *http.Request, _ string) (tiers.LoadControl, error) {
			return a.catalogue.LoadControl(r.Context())
		},
		single: true,
	}
}

func (a *admin) listTiers(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	list, err := a.catalogue.Tiers(r.Context())
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, page[tiers.Tier]{Data: list})
	return nil
}

func (a *admin) listSubjects(w http.ResponseWriter, r *http.Request) error {
	q, after, most, err := pageOf(r, "tier", "status", "prefix")
	if err != nil {
		return err
	}
	f, err := subjectFilter(q)
	if err != nil {
		return err
	}
	f.After, f.Most = after, most+1
	list, err := a.catalogue.Subjects(r.Context(), f)
	if err != nil {
		return err
	}
	for i := range list {
		list[i] = list[i].AsOf(time.Now())
	}
	respond(w, http.StatusOK, pageOfThose(list, most, func(s *tiers.Subject) string { return encodeCursor(s.ID) }))
	return nil
}

// subjectFilter parses the query parameters that select subjects.
func subjectFilter(q url.Values) (f tiers.SubjectFilter, err error) {
	f = tiers.SubjectFilter{Tier: q.Get("tier"), Status: tiers.Status(q.Get("status")), Prefix: q.Get("prefix")}
	known := slices.Contains([]tiers.Status{"", tiers.Active, tiers.PastDue, tiers.Suspended}, f.Status)
	return f, errors.Join(
		checkFilter(q, "tier", f.Tier == "" || tierlimit.ValidName(f.Tier), "the key of a tier"),
		checkFilter(q, "status", known, "active, past_due or suspended"),
		checkFilter(q, "prefix", f.Prefix == "" || tierlimit.ValidSubject(f.Prefix), "the beginning of an id"),
	)
}

// checkFilter returns an error unless ok. A filter that is present and empty is an error too: a
// variable that was not set must not select everything.
func checkFilter(q url.Values, name string, ok bool, want string) error {
	if !ok || q.Has(name) && q.Get(name) == "" {
		return &tierlimit.FieldError{Field: name, Value: q.Get(name), Want: want}
	}
	return nil
}

// readSubject shows what is in force: a change that was due is made.
func (a *admin) readSubject(r *http.Request, id string) (tiers.Subject, error) {
	s, err := a.catalogue.Subject(r.Context(), id)
	return s.AsOf(time.Now()), err
}

func (a *admin) listOverrides(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	s, err := a.catalogue.Subject(r.Context(), pathValue(r, "id"))
	if err != nil {
		return err
	}
	list := slices.SortedFunc(maps.Values(s.Overrides), func(a, b tiers.Override) int { return strings.Compare(a.Limit, b.Limit) })
	respond(w, http.StatusOK, page[tiers.Override]{Data: list})
	return nil
}

func (a *admin) listCredentials(kind access.Kind) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		var filters []string
		if kind == access.Key {
			filters = []string{"subject"}
		}
		q, after, most, err := pageOf(r, filters...)
		if err != nil {
			return err
		}
		f := tiers.CredentialFilter{Kind: kind, Subject: q.Get("subject"), After: after, Most: most + 1}
		if err := checkFilter(q, "subject", f.Subject == "" || tierlimit.ValidSubject(f.Subject), tierlimit.SubjectRule); err != nil {
			return err
		}
		list, err := a.catalogue.Credentials(r.Context(), f)
		if err != nil {
			return err
		}
		respond(w, http.StatusOK, pageOfThose(list, most, func(c *access.Credential) string { return encodeCursor(c.ID) }))
		return nil
	}
}

// listEvents lists what administrators did, the newest first.
func (a *admin) listEvents(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "kind", "object", "actor", "since", "until", "limit", "cursor")
	if err != nil {
		return err
	}
	most, err := mostOf(q)
	if err != nil {
		return err
	}
	f := tiers.EventFilter{Kind: q.Get("kind"), Object: q.Get("object"), Actor: q.Get("actor"), Most: most + 1}
	if cursor := q.Get("cursor"); cursor != "" {
		if f.Before, err = strconv.ParseInt(cursor, 10, 64); err != nil || f.Before < 1 {
			return &tierlimit.FieldError{Field: "cursor", Value: cursor, Want: "a next_cursor as it was sent"}
		}
	}
	if err := checkFilter(q, "kind", f.Kind == "" || slices.Contains(eventKinds, f.Kind), strings.Join(eventKinds, ", ")); err != nil {
		return err
	}
	for _, name := range []string{"object", "actor"} {
		if err := checkFilter(q, name, q.Get(name) == "" || tierlimit.ValidSubject(q.Get(name)), tierlimit.SubjectRule); err != nil {
			return err
		}
	}
	for name, into := range map[string]*time.Time{"since": &f.Since, "until": &f.Until} {
		if v := q.Get(name); v != "" {
			if *into, err = time.Parse(time.RFC3339Nano, v); err != nil {
				return &tierlimit.FieldError{Field: name, Value: v, Want: "an instant such as 2026-12-01T00:00:00Z"}
			}
		}
	}
	list, err := a.catalogue.Events(r.Context(), f)
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, pageOfThose(list, most, func(e *tiers.Event) string { return strconv.FormatInt(e.ID, 10) }))
	return nil
}

type erasureJSON struct {
	Subject *string `json:"subject"`
	ActorID *string `json:"actor_id"`
	Before  *string `json:"before"`
}

// erasure returns j as a value. A field that is present and empty is an error: a variable that
// was not set must not select something else.
func (j *erasureJSON) erasure() (e tiers.Erasure, err error) {
	for field, from := range map[string]*string{"subject": j.Subject, "actor_id": j.ActorID} {
		if from != nil && *from == "" {
			return e, &tierlimit.FieldError{Field: field, Want: "left out, or not empty"}
		}
	}
	if j.Subject != nil {
		e.Subject = *j.Subject
	}
	if j.ActorID != nil {
		e.ActorID = *j.ActorID
	}
	var p timestamp.Parser
	if before := p.Optional("before", j.Before); before != nil {
		e.Before = *before
	}
	return e, errors.Join(p.Errs...)
}

// erased is the response to an erasure.
type erased struct {
	DryRun bool `json:"dry_run"`
	Events int  `json:"events"` // changed or deleted, or to be
}

func (a *admin) eraseEvents(w http.ResponseWriter, r *http.Request) error {
	dry, err := dryRun(r, false)
	if err != nil {
		return err
	}
	body, err := readBody(w, r)
	if err != nil {
		return err
	}
	var j erasureJSON
	if err := decodeJSON(body, &j); err != nil {
		return err
	}
	e, err := j.erasure()
	if err != nil {
		return err
	}
	n, err := a.catalogue.Erase(r.Context(), actorOf(r), e, dry)
	if err != nil && n > 0 {
		err = fmt.Errorf("%w; %d events were erased before that", err, n)
	}
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, erased{DryRun: dry, Events: n})
	return nil
}

func encodeCursor(id string) string { return base64.RawURLEncoding.EncodeToString([]byte(id)) }

func (a *admin) readUsage(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	usage, err := a.lim.Usage(r.Context(), pathValue(r, "id"))
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, usage)
	return nil
}

// Actions of events about usage.
const (
	usageReset  = "usage.reset"
	holdRelease = "hold.release"
)

// usedOf returns the usage of the named limits before and after a reset. Without names it returns
// that of all limits.
func usedOf(windows []tierlimit.WindowState, limits []string) (before, after map[string]int64) {
	before, after = make(map[string]int64), make(map[string]int64)
	for i := range windows {
		if name := windows[i].Limit; len(limits) == 0 || slices.Contains(limits, name) {
			before[name], after[name] = windows[i].Used, 0
			if windows[i].Algorithm == tierlimit.Concurrent { // open holds stay open
				after[name] = windows[i].Used
			}
		}
	}
	return before, after
}

// resetUsage forgets all of a subject's usage, or that of the limits named by
// ?limit=, which must be of its plan: a slip must not look like a reset.
func (a *admin) resetUsage(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "limit", "dry_run")
	if err != nil {
		return err
	}
	dry, err := flag(q, "dry_run")
	if err != nil {
		return err
	}
	subject, limits := pathValue(r, "id"), q["limit"]
	if !tierlimit.ValidSubject(subject) {
		return &tierlimit.FieldError{Field: "subject", Value: subject, Want: tierlimit.SubjectRule}
	}
	if len(limits) > 0 || dry {
		usage, err := a.lim.Usage(r.Context(), subject)
		if err != nil {
			return err
		}
		if err := checkLimits(limits, usage.Windows); err != nil {
			return err
		}
		if dry {
			before, after := usedOf(usage.Windows, limits)
			return triedUsage(w, usageReset, subject, before, after)
		}
	}
	err = a.record(r, tiers.Event{
		Action: usageReset, Kind: tiers.KindUsage, Object: subject, Detail: strings.Join(limits, ","),
	}, func(ctx context.Context) error { return a.lim.Reset(ctx, subject, limits...) })
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// record runs do, which changes something outside the catalogue, and writes its event in
// the audit log: see tiers.Catalogue.
func (a *admin) record(r *http.Request, e tiers.Event, do func(context.Context) error) error {
	e.Actor, e.ActorID = actorOf(r).Name, actorOf(r).ID
	return a.catalogue.Record(r.Context(), e, do)
}

type holdJSON struct {
	ID        string     `json:"id"`
	ExpiresAt time.Time  `json:"expires_at"`
	Limits    []heldJSON `json:"limits"`
}

type heldJSON struct {
	Limit      string `json:"limit"`
	Cost       int64  `json:"cost"`
	Concurrent bool   `json:"concurrent,omitempty"`
}

func holdJSONOf(h *tierlimit.OpenHoldState) holdJSON {
	one := holdJSON{ID: h.ID, ExpiresAt: h.Expires, Limits: []heldJSON{}}
	for _, l := range h.Limits {
		one.Limits = append(one.Limits, heldJSON(l))
	}
	return one
}

func (a *admin) listHolds(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	open, err := a.lim.Holds(r.Context(), pathValue(r, "id"))
	if err != nil {
		return err
	}
	answer := struct {
		Holds []holdJSON `json:"holds"`
	}{Holds: []holdJSON{}}
	for i := range open {
		answer.Holds = append(answer.Holds, holdJSONOf(&open[i]))
	}
	respond(w, http.StatusOK, answer)
	return nil
}

// releaseHold settles an open hold of the subject at a cost of 0.
func (a *admin) releaseHold(w http.ResponseWriter, r *http.Request) error {
	dry, err := dryRun(r, false)
	if err != nil {
		return err
	}
	subject, id := pathValue(r, "id"), pathValue(r, "hold")
	open, err := a.lim.Holds(r.Context(), subject)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(open, func(h tierlimit.OpenHoldState) bool { return h.ID == id })
	if at < 0 {
		return fmt.Errorf("hold %q of subject %q %w", id, subject, tiers.ErrNotFound)
	}
	if dry {
		return triedUsage(w, holdRelease, subject, holdJSONOf(&open[at]), nil)
	}
	err = a.record(r, tiers.Event{
		Action: holdRelease, Kind: tiers.KindUsage, Object: subject, Detail: id,
	}, func(ctx context.Context) error {
		settled, err := a.lim.Settle(ctx, id, 0, nil)
		if err == nil && !settled.Found { // the hold was settled or expired in the meantime
			err = fmt.Errorf("hold %q of subject %q %w", id, subject, tiers.ErrNotFound)
		}
		return err
	})
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func checkLimits(names []string, windows []tierlimit.WindowState) error {
	known := make([]string, len(windows))
	for i := range windows {
		known[i] = windows[i].Limit
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return &tierlimit.FieldError{Field: "limit", Value: name, Want: "a limit of the subject's plan: " + strings.Join(known, ", ")}
		}
	}
	return nil
}
