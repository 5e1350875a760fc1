package api

import (
	"net/http"
	"net/http/pprof"

	"github.com/go-chi/chi/v5"

	"github.com/tierlimit/tierlimit/access"
)

// mountDiagnosis serves what an operator's tools read of a process: its metrics to everybody who
// reaches the listener, and its profiles to owners. Neither is part of the API's document: their
// formats are those of Prometheus and of Go.
func mountDiagnosis(r chi.Router, metrics http.Handler, allow func(...access.Right) func(http.Handler) http.Handler) {
	if metrics != nil {
		r.Method(http.MethodGet, "/metrics", metrics)
	}
	profiles := allow(access.Govern)(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch name := chi.URLParam(r, "name"); name {
		case "":
			pprof.Index(w, r)
		case "cmdline", "symbol": // the arguments may have secrets
			http.NotFound(w, r)
		case "profile":
			pprof.Profile(w, r)
		case "trace":
			pprof.Trace(w, r)
		default:
			pprof.Handler(name).ServeHTTP(w, r)
		}
	}))
	r.Method(http.MethodGet, "/debug/pprof/", profiles)
	r.Method(http.MethodGet, "/debug/pprof/{name}", profiles)
}
