package api

import (
	"context"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Health answers /livez and /readyz. A process is ready as long as it can
// decide: it starts with tiers loaded, and decides by policy when a server it
// needs is gone. Checks tell an operator which (/readyz?verbose on the admin
// listener); they do not take it out of rotation.
type Health struct {
	Draining *atomic.Bool // true: about to stop, send nothing more
	Checks   map[string]func(context.Context) error
	Advice   map[string]string        // what a failing check means and what to do, by its name
	Notes    map[string]func() string // further lines of /readyz?verbose, by name
}

const (
	checkTimeout = time.Second
	// reportFor is how long a report is repeated: checks cost the same however often they are
	// asked for.
	reportFor = time.Second
)

// A reportCache repeats the last report for reportFor. Requests that come together share one.
type reportCache struct {
	mu   sync.Mutex
	text string
	made time.Time
}

func (c *reportCache) get(ctx context.Context, report func(context.Context) string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.made) >= reportFor {
		c.text, c.made = report(context.WithoutCancel(ctx)), time.Now()
	}
	return c.text
}

// operations are those of health; verbose reports need the admin listener: each
// asks the servers behind, which strangers should not be able to have done.
func (h Health) operations(verbose bool) []operation {
	live := func(w http.ResponseWriter, _ *http.Request) error {
		plain(w, http.StatusOK, "ok\n")
		return nil
	}
	var reports reportCache
	ready := func(w http.ResponseWriter, r *http.Request) error {
		status, words := h.state()
		if verbose && r.URL.Query().Has("verbose") {
			words += reports.get(r.Context(), h.report)
		}
		plain(w, status, words)
		return nil
	}
	const tag = "Health"
	return []operation{
		{method: http.MethodGet, path: "/livez", id: "live", summary: "Whether the process runs", tag: tag, answer: text, serve: live},
		{method: http.MethodGet, path: "/readyz", id: "ready", summary: "Whether to send requests here", tag: tag, answer: text, unready: true, serve: ready},
	}
}

func (h Health) state() (status int, text string) {
	if h.Draining != nil && h.Draining.Load() {
		return http.StatusServiceUnavailable, "draining\n"
	}
	return http.StatusOK, "ready\n"
}

// report makes all checks at once, each with its own deadline.
func (h Health) report(ctx context.Context) string {
	names := slices.Sorted(maps.Keys(h.Checks))
	lines := make([]string, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, checkTimeout)
			defer cancel()
			lines[i] = name + ": ok\n"
			if h.Checks[name](ctx) != nil { // the error may show a secret; it is in the log
				lines[i] = strings.TrimSpace(name+": failing. "+h.Advice[name]) + "\n"
			}
		})
	}
	wg.Wait()
	for _, name := range slices.Sorted(maps.Keys(h.Notes)) {
		lines = append(lines, name+": "+h.Notes[name]()+"\n")
	}
	return strings.Join(lines, "")
}

func plain(w http.ResponseWriter, status int, text string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(text)) // the client may be gone
}
