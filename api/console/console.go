package console

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"io/fs"
	"log/slog"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
)

// Config is what a Console is made of.
type Config struct {
	// API answers the requests of both listeners: /admin/v1, /v1/load and /readyz. Required.
	API http.Handler
	// Secrets returns the secrets that all replicas share, at least one. The first seals sessions,
	// each of them opens sessions. Required.
	Secrets func() [][]byte
	Counts  Counts       // the decisions of this process; nil: the overview has no chart
	Replica string       // the name of this process
	Logger  *slog.Logger // default slog.Default
}

// A Console serves the pages under Path. Close it.
type Console struct {
	cfg      Config
	sealer   sealer
	pages    pages
	handler  http.Handler
	timeline *timeline // nil: nothing is counted

	stop    context.CancelFunc
	running sync.WaitGroup
}

// Path is where a Console serves.
const Path = "/console/"

// New returns a Console that counts decisions until Close.
func New(cfg Config) (*Console, error) {
	switch {
	case cfg.API == nil:
		return nil, &tierlimit.FieldError{Field: "API", Value: "nil", Want: "the handler of the API"}
	case cfg.Secrets == nil || len(cfg.Secrets()) == 0:
		return nil, &tierlimit.FieldError{Field: "Secrets", Value: "none", Want: "a function that returns at least one secret"}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	c := &Console{cfg: cfg, sealer: sealer{secrets: cfg.Secrets}, pages: parsePages()}
	c.handler = c.routes()
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	if cfg.Counts != nil {
		c.timeline = newTimeline(cfg.Counts)
		c.running.Go(func() { c.timeline.run(ctx) })
	}
	return c, nil
}

// Close stops the goroutine that counts decisions over time.
func (c *Console) Close() {
	c.stop()
	c.running.Wait()
}

// ServeHTTP implements http.Handler. It serves Path and what is below.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	// Without a referrer a form's Origin would be null, and the form refused as that of another site.
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	c.handler.ServeHTTP(w, r)
}

// policy lets a page load what this package serves, and nothing else.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// routes maps paths to pages. All pages are in one folder, so that links between them are relative
// and hold under any prefix. What a page is about stands in the query: ids may have any character.
func (c *Console) routes() http.Handler {
	mux := http.NewServeMux()
	look := func(pattern string, show func(*visit) error) {
		mux.HandleFunc("GET "+Path+pattern, c.page(access.Read, show))
	}
	look("{$}", (*visit).overview)
	look("subjects", (*visit).subjects)
	look("subject", (*visit).subject)
	look("tiers", (*visit).tiers)
	look("tier", (*visit).tier)
	look("keys", (*visit).keys)
	look("tokens", (*visit).tokens)
	look("webhooks", (*visit).webhooks)
	look("webhook", (*visit).webhook)
	mux.HandleFunc("POST "+Path+"webhook", c.page(access.Govern, (*visit).useWebhook))
	look("load", (*visit).load)
	look("audit", (*visit).audit)
	look("change", (*visit).changeForm)
	mux.HandleFunc("POST "+Path+"change", c.page(access.Change, (*visit).makeChange))
	mux.HandleFunc("GET "+Path+"bulk", c.page(access.Change, (*visit).bulk))
	mux.HandleFunc("POST "+Path+"move", c.page(access.Change, (*visit).move))
	mux.HandleFunc("POST "+Path+"import", c.page(access.Change, (*visit).importSubjects))
	mux.HandleFunc("GET "+Path+"sign-in", c.signInForm)
	mux.HandleFunc("POST "+Path+"sign-in", c.signIn)
	mux.HandleFunc("POST "+Path+"sign-out", c.signOut)
	mux.Handle("GET "+Path+"static/", http.StripPrefix(Path+"static/", newAssets()))
	mux.HandleFunc(Path, c.page(access.Read, func(*visit) error {
		return &problem{Status: http.StatusNotFound, Detail: "There is no such page."}
	}))
	guarded := http.NewCrossOriginProtection()
	guarded.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.failed(&visit{console: c, w: w, r: r}, &problem{Status: http.StatusForbidden, Detail: "This form was sent by a page of another site."})
	}))
	return guarded.Handler(mux)
}

// A visit is one request of somebody who is signed in.
type visit struct {
	console *Console
	w       http.ResponseWriter
	r       *http.Request
	session session
	who     identity
}

// An identity is whose token a session has.
type identity struct {
	Actor string      `json:"actor"`
	Role  access.Role `json:"role"`
}

// page serves show to those who have the right. Whoever is not signed in is sent to sign in. The
// API looks at the token with each request, so that a revoked token ends its sessions.
func (c *Console) page(right access.Right, show func(*visit) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v := &visit{console: c, w: w, r: r}
		var err error
		if v.session, err = c.session(r); err == nil {
			v.who, err = read[identity](v, "/admin/v1/identity", nil)
		}
		switch {
		case isStatus(err, http.StatusUnauthorized):
			c.clearSession(w)
			v.redirect(signInFor(r))
			return
		case err == nil && !v.who.Role.May(right):
			err = &problem{Status: http.StatusForbidden, Detail: "Your role, " + string(v.who.Role) + ", does not allow this."}
		}
		if err == nil {
			err = show(v)
		}
		if err != nil {
			c.failed(v, err)
		}
	}
}

// redirect sends the browser to another page of the console. The location is relative: this process
// does not know what a proxy puts before the path.
func (v *visit) redirect(location string) {
	v.w.Header().Set("Location", location)
	v.w.WriteHeader(http.StatusSeeOther)
}

// failed shows why a page could not be made.
func (c *Console) failed(v *visit, err error) {
	var p *problem
	if !errors.As(err, &p) {
		c.cfg.Logger.Error("console: page failed", "path", v.r.URL.Path, "error", err)
		p = &problem{Status: http.StatusInternalServerError, Detail: "This page could not be made. The log of this replica says why."}
	}
	v.render(p.Status, "error", "Error", p)
}

//go:embed templates static
var files embed.FS

// assets are the styles and scripts.
type assets map[string]asset

type asset struct {
	kind, tag string
	data      []byte
}

func newAssets() assets {
	a := make(assets)
	folder, err := fs.Sub(files, "static")
	if err != nil {
		panic(err) // it is embedded
	}
	entries, err := fs.ReadDir(folder, ".")
	if err != nil {
		panic(err) // likewise
	}
	for _, e := range entries {
		data, err := fs.ReadFile(folder, e.Name())
		if err != nil {
			panic(err) // likewise
		}
		sum := sha256.Sum256(data)
		a[e.Name()] = asset{mime.TypeByExtension(path.Ext(e.Name())), `"` + hex.EncodeToString(sum[:8]) + `"`, data}
	}
	return a
}

// ServeHTTP serves a file that the browser keeps and asks again about.
func (a assets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	one, ok := a[strings.TrimPrefix(r.URL.Path, "/")]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", one.kind)
	h.Set("Cache-Control", "no-cache")
	h.Set("Etag", one.tag)
	http.ServeContent(w, r, "", noTime, bytes.NewReader(one.data))
}
