package api

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-chi/chi/v5"
)

// Health answers /livez and /readyz. A process is ready as long as it can
// decide: it starts with tiers loaded, and decides by policy when a server it
// needs is gone. Checks tell an operator which; they do not take it out of
// rotation.
type Health struct {
	Draining *atomic.Bool // true: about to stop, send nothing more
	Checks   map[string]func(context.Context) error
}

const checkTimeout = time.Second

func (h Health) routes(r chi.Router) {
	r.Get("/livez", func(w http.ResponseWriter, _ *http.Request) { plain(w, http.StatusOK, "ok\n") })
	r.Get("/readyz", h.ready)
}

func (h Health) ready(w http.ResponseWriter, r *http.Request) {
	status, text := http.StatusOK, "ready\n"
	if h.Draining != nil && h.Draining.Load() {
		status, text = http.StatusServiceUnavailable, "draining\n"
	}
	if r.URL.Query().Has("verbose") {
		text += h.report(r.Context())
	}
	plain(w, status, text)
}

func (h Health) report(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(h.Checks)) {
		if err := h.Checks[name](ctx); err != nil {
			fmt.Fprintf(&b, "%s: failing\n", name)
		} else {
			fmt.Fprintf(&b, "%s: ok\n", name)
		}
	}
	return b.String()
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client may be gone
}
