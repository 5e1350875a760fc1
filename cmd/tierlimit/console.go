package main

import (
	"net/http"
	"strings"

	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/api/console"
)

// withConsole returns the handler of the admin listener with the console. The caller must close the
// console.
func withConsole(public, admin http.Handler, m *metrics, cfg *api.Config) (http.Handler, *console.Console, error) {
	readings := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			public.ServeHTTP(w, r)
			return
		}
		admin.ServeHTTP(w, r)
	})
	c, err := console.New(console.Config{
		API: readings, Secrets: cfg.Tokens.OwnerHashes, Counts: m.decisions, Replica: m.replica, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == strings.TrimSuffix(console.Path, "/"):
			w.Header().Set("Location", strings.Trim(console.Path, "/")+"/") // relative: a proxy may add a prefix
			w.WriteHeader(http.StatusMovedPermanently)
		case strings.HasPrefix(r.URL.Path, console.Path):
			c.ServeHTTP(w, r)
		default:
			admin.ServeHTTP(w, r)
		}
	}), c, nil
}
