package api

import (
	"log/slog"
	"net/http"

	"github.com/go-chi/chi/v5"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/tiers"
)

// Admin returns the handler of the admin listener.
func Admin(cfg Config) http.Handler {
	r := newRouter(&cfg)
	cfg.Health.routes(r)
	a := &admin{catalogue: cfg.Catalogue, lim: cfg.Limiter, log: cfg.Logger}
	r.Route("/admin/v1", func(r chi.Router) {
		r.Use(requireToken(cfg.AdminToken))
		r.Get("/tiers", a.handle(a.listTiers))
		r.Post("/tiers", a.handle(a.createTier))
		r.Get("/tiers/{key}", a.handle(a.readTier))
		r.Put("/tiers/{key}", a.handle(a.replaceTier))
		r.Delete("/tiers/{key}", a.handle(a.deleteTier))
		r.Get("/subjects", a.handle(a.listSubjects))
		r.Post("/subjects", a.handle(a.createSubject))
		r.Get("/subjects/{id}", a.handle(a.readSubject))
		r.Put("/subjects/{id}", a.handle(a.replaceSubject))
		r.Delete("/subjects/{id}", a.handle(a.deleteSubject))
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

// handle answers what a handler could not.
func (a *admin) handle(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
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

func (a *admin) createTier(w http.ResponseWriter, r *http.Request) error {
	var t tiers.Tier
	if err := decode(w, r, &t); err != nil {
		return err
	}
	created, err := a.catalogue.CreateTier(r.Context(), t)
	if err != nil {
		return err
	}
	respondVersion(w, http.StatusCreated, created.Version, created)
	return nil
}

func (a *admin) readTier(w http.ResponseWriter, r *http.Request) error {
	t, err := a.catalogue.Tier(r.Context(), pathValue(r, "key"))
	if err != nil {
		return err
	}
	respondVersion(w, http.StatusOK, t.Version, t)
	return nil
}

func (a *admin) replaceTier(w http.ResponseWriter, r *http.Request) error {
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	t := tiers.Tier{}
	if err := decode(w, r, &t); err != nil {
		return err
	}
	if t.Key, err = samePath(r, "key", t.Key); err != nil {
		return err
	}
	replaced, err := a.catalogue.ReplaceTier(r.Context(), t, version)
	if err != nil {
		return err
	}
	respondVersion(w, http.StatusOK, replaced.Version, replaced)
	return nil
}

func (a *admin) deleteTier(w http.ResponseWriter, r *http.Request) error {
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	if err := a.catalogue.DeleteTier(r.Context(), pathValue(r, "key"), version); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
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

func (a *admin) createSubject(w http.ResponseWriter, r *http.Request) error {
	var s tiers.Subject
	if err := decode(w, r, &s); err != nil {
		return err
	}
	created, err := a.catalogue.CreateSubject(r.Context(), s)
	if err != nil {
		return err
	}
	respondVersion(w, http.StatusCreated, created.Version, created)
	return nil
}

func (a *admin) readSubject(w http.ResponseWriter, r *http.Request) error {
	s, err := a.catalogue.Subject(r.Context(), pathValue(r, "id"))
	if err != nil {
		return err
	}
	respondVersion(w, http.StatusOK, s.Version, s)
	return nil
}

func (a *admin) replaceSubject(w http.ResponseWriter, r *http.Request) error {
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	var s tiers.Subject
	if err := decode(w, r, &s); err != nil {
		return err
	}
	if s.ID, err = samePath(r, "id", s.ID); err != nil {
		return err
	}
	replaced, err := a.catalogue.ReplaceSubject(r.Context(), s, version)
	if err != nil {
		return err
	}
	respondVersion(w, http.StatusOK, replaced.Version, replaced)
	return nil
}

func (a *admin) deleteSubject(w http.ResponseWriter, r *http.Request) error {
	version, err := ifMatch(r)
	if err != nil {
		return err
	}
	if err := a.catalogue.DeleteSubject(r.Context(), pathValue(r, "id"), version); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
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
// ?limit=.
func (a *admin) resetUsage(w http.ResponseWriter, r *http.Request) error {
	if err := a.lim.Reset(r.Context(), pathValue(r, "id"), r.URL.Query()["limit"]...); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
