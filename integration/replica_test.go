package integration

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/load"
	library "github.com/tierlimit/tierlimit/replica"
	"github.com/tierlimit/tierlimit/tiers"
)

// openReplica opens a replica as a program that imports the package does.
func openReplica(t *testing.T, redisURL, databaseURL string) *library.Replica {
	t.Helper()
	r, err := library.Open(t.Context(), library.Config{
		Redis: library.Redis{URL: redisURL}, Database: library.Database{URL: databaseURL, Wait: 30 * time.Second},
		Budget: 2 * time.Second, LoadMode: load.Off, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	})
	must(t, err)
	return r
}

// A program has the product of serve by one call: it shares counts with a serve process, follows
// changes of plans, and writes what was used of long windows.
func TestAProgramIsAReplica(t *testing.T) {
	url, subject := newDatabase(t), newSubject(t)
	r := openReplica(t, redisServer.URL, url)
	defer r.Close()
	serve := startReplica(t, redisServer.URL, url)
	editor := tiers.NewEditor(r.Catalogue, tiers.Actor{})
	_, err := editor.CreateSubject(t.Context(), tiers.Subject{ID: subject, Tier: "free"})
	must(t, err)
	key := access.Credential{Kind: access.Key, Name: "k", Subject: subject}.WithSecret()
	_, err = editor.CreateCredential(t.Context(), key)
	must(t, err)
	r.Cache.CatchUp(t.Context())
	limit, err := r.Middleware(httplimit.Config{})
	must(t, err)
	handler := limit(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		d, _ := tierlimit.FromContext(req.Context())
		_, _ = io.WriteString(w, d.Subject)
	}))
	ask := func() (int, string) {
		w, req := httptest.NewRecorder(), httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		req.Header.Set("X-Api-Key", key.Secret)
		handler.ServeHTTP(w, req)
		return w.Code, w.Body.String()
	}
	if d := serve.must("take", subject); !d.Allowed {
		t.Fatalf("serve: %+v", d)
	}
	for range 4 {
		if code, who := ask(); code != 200 || who != subject {
			t.Fatalf("%d, %s", code, who)
		}
	}
	if code, _ := ask(); code != 429 {
		t.Errorf("%d after serve and the program have charged 5 of 5", code)
	}
	customer, err := r.Catalogue.Subject(t.Context(), subject)
	must(t, err)
	customer.Tier = "pro"
	_, err = editor.ReplaceSubject(t.Context(), customer, customer.Version)
	must(t, err)
	r.Cache.CatchUp(t.Context())
	if code, _ := ask(); code != 200 {
		t.Errorf("%d after the customer has moved to pro", code)
	}
	for name, check := range r.Checks() {
		if err := check(t.Context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	r.Close()
	r.Close() // again is harmless
	if d, err := r.Limiter.Take(context.Background(), tierlimit.Request{Subject: subject}); err == nil {
		t.Errorf("after Close: %+v", d)
	}
}

// Redis may be away when a program starts; a Redis that refuses, or no Postgres, is an error that
// leaves nothing open.
func TestAProgramStartsWithoutRedisAndNotWithoutPostgres(t *testing.T) {
	r := openReplica(t, "redis://127.0.0.1:1", newDatabase(t))
	d, err := r.Limiter.Take(t.Context(), tierlimit.Request{Subject: newSubject(t)})
	if err == nil || !d.Allowed || !d.Degraded {
		t.Errorf("%+v, %v", d, err)
	}
	r.Close()
	if _, err := library.Open(t.Context(), library.Config{
		Redis: library.Redis{URL: redisServer.URL}, Database: library.Database{URL: "postgres://127.0.0.1:1/nothing"},
	}); err == nil {
		t.Error("opened without Postgres")
	}
}
