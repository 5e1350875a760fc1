package api

import (
	"log/slog"
	"net/http"
	"slices"
	"strings"

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
		create:  a.catalogue.CreateTier,
		read:    a.catalogue.Tier,
		replace: a.catalogue.ReplaceTier,
		remove:  a.catalogue.DeleteTier,
	}
	subject := &resource[tiers.Subject]{
		param:   "id",
		name:    func(s *tiers.Subject) *string { return &s.ID },
		version: func(s *tiers.Subject) int64 { return s.Version },
		create:  a.catalogue.CreateSubject,
		read:    a.catalogue.Subject,
		replace: a.catalogue.ReplaceSubject,
		remove:  a.catalogue.DeleteSubject,
	}
	r.Route("/admin/v1", func(r chi.Router) {
		r.Use(requireToken(cfg.AdminToken))
		r.Get("/tiers", a.handle(a.listTiers))
		tier.mount(r, "/tiers", a.handle)
		r.Get("/subjects", a.handle(a.listSubjects))
		subject.mount(r, "/subjects", a.handle)
		r.Get("/subjects/{id}/usage", a.handle(a.readUsage))
		r.Delete("/subjects/{id}/usage", a.handle(a.resetUsage))
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
	p := page[tiers.Subject]{Data: list}
	if len(list) > most {
		p.Data, p.HasMore = list[:most], true
		p.NextCursor = cursorAfter(list[most-1].ID)
	}
	respond(w, http.StatusOK, p)
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
