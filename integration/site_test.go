package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/access"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/pgtiers"
)

// A site is both listeners in this process, on real Postgres and Redis, and the
// document they serve.
type site struct {
	*testing.T
	public, admin http.Handler
	blind         handlers // the same with a blindRing
	catalogue     *pgtiers.Catalogue
	draining      atomic.Bool
	document      document
	validator     validator.Validator
	seen          map[string]map[int]bool // by operation: the statuses that were answered
	made, calls   int
}

// A document is what of OpenAPI the tests look at themselves.
type document struct {
	Paths map[string]map[string]json.RawMessage
}

type documentedOperation struct {
	OperationID string `json:"operationId"`
	Responses   map[string]any
	Parameters  []struct{ Name, In string }
	RequestBody *struct{}
}

func newSite(t *testing.T) *site {
	t.Helper()
	url := newDatabase(t)
	s := &site{T: t, catalogue: openCatalogue(t, url), seen: make(map[string]map[int]bool)}
	cache := follow(t, url)
	cpu, err := load.New(load.Config{Tiers: cache.Tiers, Control: cache.LoadControl, Meter: load.Fixed(0)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cpu.Close)
	lim, err := tierlimit.New(tierlimit.Config{
		Store: newStore(t, newClient(t, redisServer.URL, 2*time.Second)), Tiers: cache, Load: cpu, Budget: 2 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg := api.Config{
		Limiter: lim, Catalogue: s.catalogue, Keyring: cache, Load: cpu, AdminToken: adminToken,
		Health: api.Health{Draining: &s.draining}, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	if s.public, err = api.Public(cfg); err != nil {
		t.Fatal(err)
	}
	s.admin = api.Admin(cfg)
	cfg.Keyring = blindRing{}
	if s.blind.public, err = api.Public(cfg); err != nil {
		t.Fatal(err)
	}
	s.blind.admin = api.Admin(cfg)
	text := s.serve(s.public, "GET", "/openapi.json", "").Body.Bytes()
	if err := json.Unmarshal(text, &s.document); err != nil {
		t.Fatal(err)
	}
	doc, err := libopenapi.NewDocument(text)
	if err != nil {
		t.Fatal(err)
	}
	var errs []error
	if s.validator, errs = validator.NewValidator(doc); len(errs) > 0 {
		t.Fatal(errs)
	}
	return s
}

func (s *site) serve(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// A call is one request to an operation.
type call struct {
	method, path, body string
	tag                string // of what it changes
	header             map[string]string
	reader             io.Reader       // in place of the body
	ctx                context.Context //nolint:containedctx // to be a dead one
	from               string          // the client's address; default: one of its own
	blind              bool            // whether token look-ups fail
}

func (c call) with(name, value string) call {
	header := map[string]string{name: value}
	for n, v := range c.header {
		if n != name {
			header[n] = v
		}
	}
	c.header = header
	return c
}

func (c call) without(name string) call {
	c = c.with(name, "")
	delete(c.header, name)
	return c
}

func (c call) query(q string) call {
	separator := "?"
	if strings.Contains(c.path, "?") {
		separator = "&"
	}
	c.path += separator + q
	return c
}

func (s *site) handler(c call) http.Handler {
	h := handlers{s.public, s.admin}
	if c.blind {
		h = s.blind
	}
	if strings.HasPrefix(c.path, "/admin/") {
		return h.admin
	}
	return h.public
}

// handlers are the handlers of both listeners.
type handlers struct{ public, admin http.Handler }

// A blindRing is a keyring whose look-ups fail.
type blindRing struct{}

func (blindRing) Held(string) (access.Credential, error) {
	return access.Credential{}, tiers.ErrUnavailable
}

func (blindRing) Authenticate(context.Context, string) (access.Credential, error) {
	return access.Credential{}, tiers.ErrUnavailable
}

// do makes a call and holds what is answered against the document; what is sent
// too, where it was accepted.
func (s *site) do(id string, c call) *httptest.ResponseRecorder {
	s.Helper()
	send := func() *http.Request {
		var body io.Reader = strings.NewReader(c.body)
		if c.reader != nil {
			body = c.reader
		}
		r := httptest.NewRequest(c.method, "http://127.0.0.1:8080"+c.path, body)
		if strings.HasPrefix(c.path, "/admin/") {
			r = httptest.NewRequest(c.method, "http://127.0.0.1:8081"+c.path, body)
		}
		if r.RemoteAddr = c.from; c.from == "" {
			s.calls++
			r.RemoteAddr = fmt.Sprintf("10.0.%d.%d:4711", s.calls>>8, s.calls&255)
		}
		if c.ctx != nil {
			r = r.WithContext(c.ctx)
		}
		if c.body != "" {
			r.Header.Set("Content-Type", kindOf(c.path))
			if c.method == http.MethodPatch {
				r.Header.Set("Content-Type", "application/merge-patch+json")
			}
		}
		for name, value := range c.header {
			r.Header.Set(name, value)
		}
		return r
	}
	w := httptest.NewRecorder()
	s.handler(c).ServeHTTP(w, send())
	if s.seen[id] == nil {
		s.seen[id] = make(map[int]bool)
	}
	s.seen[id][w.Code] = true
	if w.Header().Get("Content-Type") != "application/x-ndjson" { // the validator expects one JSON value
		result := w.Result()
		result.Body = io.NopCloser(bytes.NewReader(w.Body.Bytes()))
		c.reader = nil
		if ok, errs := s.validator.ValidateHttpResponse(send(), result); !ok {
			s.Errorf("%s %s answers %d, which is not as documented: %v\n%s", c.method, c.path, w.Code, errs, w.Body)
		}
	}
	if w.Code < 300 {
		if ok, errs := s.validator.ValidateHttpRequest(send()); !ok {
			s.Errorf("%s %s is accepted, which is not as documented: %v\n%s", c.method, c.path, errs, c.body)
		}
	}
	return w
}

// operations calls each with every operation of the document, in the order of paths and
// methods.
func (s *site) operations(each func(method, path string, o documentedOperation)) {
	s.Helper()
	for _, path := range slices.Sorted(maps.Keys(s.document.Paths)) {
		item := s.document.Paths[path]
		for _, method := range slices.Sorted(maps.Keys(item)) {
			text := item[method]
			if method == "servers" || method == "parameters" {
				continue
			}
			var o documentedOperation
			if err := json.Unmarshal(text, &o); err != nil {
				s.Fatal(err)
			}
			each(strings.ToUpper(method), path, o)
		}
	}
}

// name makes a name that nothing else has: acct_42, which some calls are about, is nobody's.
func (s *site) name(kind string) string {
	s.made++
	return fmt.Sprintf("%s_made_%d", kind, s.made)
}

// fixtures make what the calls are about.

func (s *site) subject() (id, version string) {
	s.Helper()
	made, err := edit(s.catalogue).CreateSubject(s.Context(), tiers.Subject{ID: s.name("acct"), Tier: "free"})
	if err != nil {
		s.Fatal(err)
	}
	return made.ID, tag(made.Version)
}

func (s *site) tier() (key, version string) {
	s.Helper()
	t := tiers.Builtin()[0]
	t.Key, t.Default = s.name("tier"), false
	made, err := edit(s.catalogue).CreateTier(s.Context(), t)
	if err != nil {
		s.Fatal(err)
	}
	return made.Key, tag(made.Version)
}

func (s *site) override() (path, version string) {
	s.Helper()
	id, _ := s.subject()
	made, err := edit(s.catalogue).CreateOverride(s.Context(), id, tiers.Override{
		Limit: "per_minute", Max: 9, StartsAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour), Reason: "a test",
	})
	if err != nil {
		s.Fatal(err)
	}
	return "/admin/v1/subjects/" + id + "/overrides/per_minute", tag(made.Version)
}

func (s *site) credential(kind access.Kind, role access.Role) (c access.Credential) {
	s.Helper()
	c = access.Credential{Kind: kind, Name: s.name("name"), Role: role}
	if kind == access.Key {
		c.Subject, _ = s.subject()
	}
	c = c.WithSecret()
	made, err := edit(s.catalogue).CreateCredential(s.Context(), c)
	if err != nil {
		s.Fatal(err)
	}
	c.Version = made.Version
	return c
}

func (s *site) loadVersion() string {
	s.Helper()
	l, err := s.catalogue.LoadControl(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	return tag(l.Version)
}

// kindOf returns the Content-Type of a request to path.
func kindOf(path string) string {
	if strings.Contains(path, ":import") {
		return "application/x-ndjson"
	}
	return "application/json"
}

func tag(version int64) string { return strconv.Quote(strconv.FormatInt(version, 10)) }

const limitsJSON = `"limits":{"per_minute":{"max":5,"window":"60s","adaptive":true},"per_month":{"max":null,"period":"month","anchor":"billing"}}`

// good makes a call that each operation does as it is asked. It is new each time.
func (s *site) good(id string) call {
	s.Helper()
	c := s.goodAs(id).with("Authorization", "Bearer "+adminToken)
	if c.tag != "" {
		c.header["If-Match"] = c.tag
	}
	return c
}

func change(method, path, tag, body string) call {
	return call{method: method, path: path, tag: tag, body: body}
}

func (s *site) goodAs(id string) call {
	s.Helper()
	const v1 = "/admin/v1"
	switch id {
	case "take", "peek":
		return call{method: "POST", path: "/v1/" + id, body: fmt.Sprintf(`{"subject":%q,"scope":"search","cost":1}`, s.name("acct"))}
	case "settle", "renew":
		w := s.serve(s.public, "POST", "/v1/take", fmt.Sprintf(`{"subject":%q,"hold_ms":60000}`, s.name("acct")), "Authorization", "Bearer "+adminToken)
		var d struct{ ID string }
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || d.ID == "" {
			s.Fatalf("take answers %s", w.Body)
		}
		body := fmt.Sprintf(`{"id":%q,"hold_ms":60000}`, d.ID)
		if id == "settle" {
			body = fmt.Sprintf(`{"id":%q,"cost":2,"costs":{"tokens":3}}`, d.ID)
		}
		return call{method: "POST", path: "/v1/" + id, body: body}
	case "usage":
		return call{method: "GET", path: "/v1/usage/acct_42"}
	case "own-usage":
		return call{method: "GET", path: "/v1/usage"}.with("X-Api-Key", s.credential(access.Key, "").Secret)
	case "load":
		return call{method: "GET", path: "/v1/load"}
	case "report-load":
		return call{method: "POST", path: "/v1/load/report", body: `{"source":"api-1","cpu":0.5,"capacity":4}`}
	case "live":
		return call{method: "GET", path: "/livez"}
	case "ready":
		return call{method: "GET", path: "/readyz"}
	case "openapi":
		return call{method: "GET", path: "/openapi.json"}
	case "docs":
		return call{method: "GET", path: "/docs"}

	case "list-tiers":
		return call{method: "GET", path: v1 + "/tiers"}
	case "create-tier":
		return call{method: "POST", path: v1 + "/tiers", body: fmt.Sprintf(`{"key":%q,%s}`, s.name("tier"), limitsJSON)}
	case "apply-tiers":
		return call{method: "POST", path: v1 + "/tiers:apply", body: fmt.Sprintf(`{"tiers":[{"key":%q,%s}]}`, s.name("tier"), limitsJSON)}
	case "read-tier":
		return call{method: "GET", path: v1 + "/tiers/pro"}
	case "replace-tier":
		key, version := s.tier()
		return change("PUT", v1+"/tiers/"+key, version, fmt.Sprintf(`{"key":%q,"name":"Ours","load":{"start":0.5,"full":0.9,"floor":0.2},%s}`, key, limitsJSON))
	case "patch-tier":
		key, version := s.tier()
		return change("PATCH", v1+"/tiers/"+key, version, `{"limits":{"per_minute":{"max":7}}}`)
	case "delete-tier":
		key, version := s.tier()
		return change("DELETE", v1+"/tiers/"+key, version, "")

	case "list-subjects":
		return call{method: "GET", path: v1 + "/subjects?tier=free&status=active&prefix=acct&limit=2"}
	case "create-subject":
		return call{method: "POST", path: v1 + "/subjects", body: fmt.Sprintf(`{"id":%q,"tier":"free","trial":{"tier":"pro","ends_at":"2926-12-01T00:00:00Z"},"billing_anchor":"2026-11-30T00:00:00Z"}`, s.name("acct"))}
	case "read-subject":
		subject, _ := s.subject()
		return call{method: "GET", path: v1 + "/subjects/" + subject}
	case "replace-subject":
		subject, version := s.subject()
		return change("PUT", v1+"/subjects/"+subject, version, fmt.Sprintf(`{"id":%q,"tier":"free","status":"past_due","grace_until":"2926-12-01T00:00:00Z","next":{"tier":"pro","at":"2926-12-01T00:00:00Z"}}`, subject))
	case "patch-subject":
		subject, version := s.subject()
		return change("PATCH", v1+"/subjects/"+subject, version, `{"tier":"pro","blocked_until":"2926-12-01T00:00:00Z"}`)
	case "delete-subject":
		subject, version := s.subject()
		return change("DELETE", v1+"/subjects/"+subject, version, "")

	case "import-subjects":
		return call{method: "POST", path: v1 + "/subjects:import", body: fmt.Sprintf("{\"id\":%q,\"tier\":\"free\"}\n", s.name("acct"))}
	case "export-subjects":
		return call{method: "GET", path: v1 + "/subjects:export?prefix=acct"}
	case "move-subjects":
		subject, _ := s.subject()
		return call{method: "POST", path: v1 + "/subjects:move?to=pro&prefix=" + subject}

	case "list-overrides":
		path, _ := s.override()
		return call{method: "GET", path: strings.TrimSuffix(path, "/per_minute")}
	case "create-override":
		subject, _ := s.subject()
		return call{method: "POST", path: v1 + "/subjects/" + subject + "/overrides", body: `{"limit":"per_minute","max":9,"expires_at":"2926-12-01T00:00:00Z","reason":"launch day"}`}
	case "read-override":
		path, _ := s.override()
		return call{method: "GET", path: path}
	case "replace-override":
		path, version := s.override()
		return change("PUT", path, version, `{"limit":"per_minute","max":null,"expires_at":"2926-12-01T00:00:00Z","reason":"launch day"}`)
	case "patch-override":
		path, version := s.override()
		return change("PATCH", path, version, `{"max":12}`)
	case "delete-override":
		path, version := s.override()
		return change("DELETE", path, version, "")
	case "admin-usage":
		return call{method: "GET", path: v1 + "/subjects/acct_42/usage"}
	case "list-holds", "release-hold":
		subject := s.name("acct")
		w := s.serve(s.public, "POST", "/v1/take", fmt.Sprintf(`{"subject":%q,"hold_ms":60000}`, subject), "Authorization", "Bearer "+adminToken)
		var d struct{ ID string }
		if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || d.ID == "" {
			s.Fatalf("take answers %s", w.Body)
		}
		if id == "list-holds" {
			return call{method: "GET", path: v1 + "/subjects/" + subject + "/holds"}
		}
		return call{method: "DELETE", path: v1 + "/subjects/" + subject + "/holds/" + d.ID}
	case "reset-usage":
		return call{method: "DELETE", path: v1 + "/subjects/acct_42/usage?limit=per_minute&limit=per_day"}

	case "list-keys":
		k := s.credential(access.Key, "")
		return call{method: "GET", path: v1 + "/keys?subject=" + k.Subject}
	case "create-api-key":
		subject, _ := s.subject()
		return call{method: "POST", path: v1 + "/keys", body: fmt.Sprintf(`{"name":"production","subject":%q,"expires_at":"2926-12-01T00:00:00Z"}`, subject)}
	case "read-identity":
		return call{method: "GET", path: v1 + "/identity"}
	case "list-tokens":
		return call{method: "GET", path: v1 + "/tokens?limit=1"}
	case "create-token":
		return call{method: "POST", path: v1 + "/tokens", body: fmt.Sprintf(`{"name":%q,"role":"viewer"}`, s.name("token"))}
	case "read-api-key", "replace-api-key", "patch-api-key", "delete-api-key":
		k := s.credential(access.Key, "")
		return s.onCredential(strings.TrimSuffix(id, "-api-key"), v1+"/keys/", k, fmt.Sprintf(`{"name":"ours","subject":%q}`, k.Subject))
	case "read-token", "replace-token", "patch-token", "delete-token":
		return s.onCredential(strings.TrimSuffix(id, "-token"), v1+"/tokens/", s.credential(access.Token, access.Viewer), fmt.Sprintf(`{"name":%q,"role":"operator"}`, s.name("token")))

	case "read-load-control":
		return call{method: "GET", path: v1 + "/load"}
	case "replace-load-control":
		return change("PUT", v1+"/load", s.loadVersion(), `{"mode":"observe","pins":{"free":{"multiplier":0.5,"expires_at":"2926-12-01T00:00:00Z"}}}`)
	case "patch-load-control":
		return change("PATCH", v1+"/load", s.loadVersion(), `{"pins":{"free":null}}`)
	case "list-webhooks":
		s.webhook()
		return call{method: "GET", path: v1 + "/webhooks"}
	case "create-webhook":
		s.webhook() // makes room
		return call{method: "POST", path: v1 + "/webhooks", body: webhookBody}
	case "read-webhook", "replace-webhook", "patch-webhook", "delete-webhook", "change-webhook-secret", "test-webhook", "list-deliveries", "resend-dead", "resend-message":
		return s.onWebhook(id, v1+"/webhooks/")
	case "list-events":
		return call{method: "GET", path: v1 + "/audit?kind=subject&actor=unknown&limit=3"}
	case "list-denials":
		return call{method: "GET", path: v1 + "/denials?tier=free&limit=3"}
	case "near-limits":
		return call{method: "GET", path: v1 + "/usage/near?over=0.9&limit=3"}
	case "subject-denials", "explain", "usage-history":
		subject, _ := s.subject()
		return call{method: "GET", path: v1 + "/subjects/" + subject + map[string]string{
			"subject-denials": "/denials", "explain": "/explain?cost=2", "usage-history": "/usage/history?of=per_day",
		}[id]}
	case "check", "check-nginx":
		return call{method: "GET", path: map[string]string{"check": "/v1/check", "check-nginx": "/v1/check/nginx"}[id]}
	case "check-envoy":
		return call{method: "GET", path: "/v1/check/envoy/v1"}
	case "erase-events":
		subject, _ := s.subject()
		return call{method: "POST", path: v1 + "/audit:erase", body: fmt.Sprintf(`{"subject":%q}`, subject)}
	}
	s.Fatalf("the document has %q, of which the tests know nothing", id)
	return call{}
}

const webhookBody = `{"name":"billing","url":"https://example.com/hooks","events":["limit.threshold"]}`

// webhook creates a webhook, and deletes the others before there are too many.
func (s *site) webhook() tiers.Webhook {
	s.Helper()
	e := tiers.NewEditor(s.catalogue, tiers.Actor{ID: "test", Name: "test"})
	list, err := e.Webhooks(s.Context())
	must(s.T, err)
	for _, w := range list {
		if len(list) > tiers.MaxWebhooks/2 {
			must(s.T, e.DeleteWebhook(s.Context(), w.ID, w.Version))
		}
	}
	w, err := e.CreateWebhook(s.Context(), tiers.Webhook{Name: "billing", URL: "https://example.com/hooks", Events: []string{tiers.LimitThreshold}}.WithID(time.Now()))
	must(s.T, err)
	return w
}

func (s *site) onWebhook(id, path string) call {
	s.Helper()
	w := s.webhook()
	path += w.ID
	switch id {
	case "read-webhook":
		return call{method: "GET", path: path}
	case "replace-webhook":
		return change("PUT", path, tag(w.Version), webhookBody)
	case "patch-webhook":
		return change("PATCH", path, tag(w.Version), `{"paused":true}`)
	case "delete-webhook":
		return change("DELETE", path, tag(w.Version), "")
	case "change-webhook-secret":
		return call{method: "POST", path: path + "/secret"}
	case "test-webhook":
		return call{method: "POST", path: path + "/test"}
	case "resend-dead":
		return call{method: "POST", path: path + "/deliveries:resend"}
	}
	message, err := s.catalogue.SendTest(s.Context(), w.ID)
	must(s.T, err)
	if id == "list-deliveries" {
		return call{method: "GET", path: path + "/deliveries?state=pending&limit=2"}
	}
	return call{method: "POST", path: path + "/deliveries/" + message + "/resend"}
}

func (s *site) onCredential(verb, path string, c access.Credential, body string) call {
	path += c.ID
	switch verb {
	case "read":
		return call{method: "GET", path: path}
	case "replace":
		return change("PUT", path, tag(c.Version), body)
	case "patch":
		return change("PATCH", path, tag(c.Version), `{"expires_at":"2926-12-01T00:00:00Z"}`)
	default:
		return change("DELETE", path, tag(c.Version), "")
	}
}
