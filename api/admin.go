package api

import (
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// Admin returns the handler of the admin listener.
func Admin(cfg Config) http.Handler {
	r := newRouter(&cfg)
	cfg.Health.routes(r, true)
	a := &admin{catalogue: cfg.Catalogue, lim: cfg.Limiter, log: cfg.Logger}
	tier := &resource[tiers.Tier]{
		param:   "key",
		name:    func(t *tiers.Tier) *string { return &t.Key },
		version: func(t *tiers.Tier) int64 { return t.Version },
		create:  creates(a.catalogue.CreateTier),
		read:    reads(a.catalogue.Tier),
		replace: replaces(a.catalogue.ReplaceTier),
		remove:  removes(a.catalogue.DeleteTier),
	}
	subject := &resource[tiers.Subject]{
		param:   "id",
		name:    func(s *tiers.Subject) *string { return &s.ID },
		version: func(s *tiers.Subject) int64 { return s.Version },
		create:  creates(a.catalogue.CreateSubject),
		read:    a.readSubject,
		replace: replaces(a.catalogue.ReplaceSubject),
		remove:  removes(a.catalogue.DeleteSubject),
	}
	override := &resource[tiers.Override]{
		param:   "limit",
		name:    func(o *tiers.Override) *string { return &o.Limit },
		version: func(o *tiers.Override) int64 { return o.Version },
		create: func(r *http.Request, o tiers.Override) (tiers.Override, error) {
			return a.catalogue.CreateOverride(r.Context(), pathValue(r, "id"), o)
		},
		read: func(r *http.Request, limit string) (tiers.Override, error) {
			return a.catalogue.Override(r.Context(), pathValue(r, "id"), limit)
		},
		replace: func(r *http.Request, o tiers.Override, version int64) (tiers.Override, error) {
			return a.catalogue.ReplaceOverride(r.Context(), pathValue(r, "id"), o, version)
		},
		remove: func(r *http.Request, limit string, version int64) error {
			return a.catalogue.DeleteOverride(r.Context(), pathValue(r, "id"), limit, version)
		},
	}
	r.Route("/admin/v1", func(r chi.Router) {
		r.Use(requireToken(cfg.AdminToken))
		r.Get("/tiers", a.handle(a.listTiers))
		tier.mount(r, "/tiers", a.handle)
		r.Get("/subjects", a.handle(a.listSubjects))
		subject.mount(r, "/subjects", a.handle)
		r.Get("/subjects/{id}/overrides", a.handle(a.listOverrides))
		override.mount(r, "/subjects/{id}/overrides", a.handle)
		r.Get("/subjects/{id}/usage", a.handle(a.readUsage))
		r.Delete("/subjects/{id}/usage", a.handle(a.resetUsage))
		r.Get("/audit", a.handle(a.listEvents))
	})
	return r
}

type admin struct {
	catalogue tiers.Catalogue
	lim       *tierlimit.Limiter
	log       *slog.Logger
}

// A handlerFunc answers, or returns why it could not.
type handlerFunc func(http.ResponseWriter, *http.Request) error

func (a *admin) handle(h handlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			fail(w, r, a.log, err)
		}
	}
}

func (a *admin) listTiers(w http.ResponseWriter, r *http.Request) error {
	list, err := a.catalogue.Tiers(r.Context())
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, page[tiers.Tier]{Data: list})
	return nil
}

func (a *admin) listSubjects(w http.ResponseWriter, r *http.Request) error {
	after, most, err := pageOf(r)
	if err != nil {
		return err
	}
	list, err := a.catalogue.Subjects(r.Context(), after, most+1)
	if err != nil {
		return err
	}
	for i := range list {
		list[i] = list[i].AsOf(time.Now())
	}
	p := page[tiers.Subject]{Data: list}
	if len(list) > most {
		p.Data, p.HasMore = list[:most], true
		p.NextCursor = cursorAfter(list[most-1].ID)
	}
	respond(w, http.StatusOK, p)
	return nil
}

// listEvents lists what administrators did, the newest first.
func (a *admin) listEvents(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "kind", "object", "actor", "limit", "cursor")
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
	if strings.ContainsRune(f.Kind+f.Object+f.Actor, 0) {
		return &tierlimit.FieldError{Field: "query", Want: "without NUL"}
	}
	list, err := a.catalogue.Events(r.Context(), f)
	if err != nil {
		return err
	}
	p := page[tiers.Event]{Data: list}
	if len(list) > most {
		p.Data, p.HasMore = list[:most], true
		p.NextCursor = strconv.FormatInt(list[most-1].ID, 10)
	}
	respond(w, http.StatusOK, p)
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
	list, err := a.catalogue.Overrides(r.Context(), pathValue(r, "id"))
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, page[tiers.Override]{Data: list})
	return nil
}

func (a *admin) readUsage(w http.ResponseWriter, r *http.Request) error {
	usage, err := a.lim.Usage(r.Context(), pathValue(r, "id"))
	if err != nil {
		return err
	}
	respond(w, http.StatusOK, usage)
	return nil
}

// resetUsage forgets all of a subject's usage, or that of the limits named by
// ?limit=, which must be of its plan: a slip must not look like a reset.
func (a *admin) resetUsage(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "limit")
	if err != nil {
		return err
	}
	subject, limits := pathValue(r, "id"), q["limit"]
	if len(limits) > 0 {
		usage, err := a.lim.Usage(r.Context(), subject)
		if err != nil {
			return err
		}
		if err := checkLimits(limits, usage.Windows); err != nil {
			return err
		}
	}
	if err := a.lim.Reset(r.Context(), subject, limits...); err != nil {
		return err
	}
	// Counters are not in the catalogue: what was done there is told afterwards.
	if err := a.catalogue.Record(r.Context(), tiers.Event{
		Action: "usage.reset", Kind: tiers.KindUsage, Object: subject, Detail: strings.Join(limits, ","),
	}); err != nil {
		a.log.Error("api: a reset is not in the audit log", "subject", subject, "error", err)
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
