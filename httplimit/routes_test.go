package httplimit_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/httplimit/routefile"
	"github.com/tierlimit/tierlimit/store/memstore"
)

const someRoutes = `
routes:
  - {pattern: "GET /healthz", skip: true}
  - {pattern: "POST /v1/exports/{id...}", scope: exports, cost: 10}
  - {pattern: "POST /v1/chat/", scope: chat, costs: {tokens: 500}, hold: 60s}
  - {pattern: "/v1/free", cost: 0}
  - {pattern: "OPTIONS /charged", cost: 2}
`

func parseRoutes(t *testing.T, text string) *httplimit.Routes {
	t.Helper()
	routes, err := routefile.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return routes
}

func TestARouteSaysWhatARequestCosts(t *testing.T) {
	var asked []tierlimit.Request
	limit, err := httplimit.New(limiterFunc(func(req tierlimit.Request) { asked = append(asked, req) }), httplimit.Config{Routes: parseRoutes(t, someRoutes)})
	if err != nil {
		t.Fatal(err)
	}
	h := limit(http.NotFoundHandler())
	const subject = "ip:192.0.2.1"
	plain := tierlimit.Request{Subject: subject, Cost: 1, Hold: time.Minute, HoldIfCounted: true}
	exports, chat, free := plain, plain, plain
	exports.Scope, exports.Cost = "exports", 10
	chat.Scope, chat.HoldIfCounted = "chat", false
	free.Cost = 0
	for _, c := range []struct {
		method, path string
		want         *tierlimit.Request // nil: nobody is asked
	}{
		{"GET", "/healthz", nil},
		{"HEAD", "/healthz", nil},
		{"POST", "/healthz", &plain},
		{"GET", "/healthz/", &plain},
		{"POST", "/v1/exports/7", &exports},
		{"POST", "//v1/exports/7/8", &exports},
		{"POST", "/v1%2Fexports/7", &exports}, // the API may read it so
		{"GET", "/healthz/%2e%2e/v1/items", nil},
		{"GET", "/v1/items/../../healthz", nil},
		{"GET", "/v1/items;/..;/../healthz", nil},
		{"GET", "/v1/items%5c..%5chealthz", nil},
		{"POST", "/v1/exports/a%2Fb", &exports},
		{"GET", "/v1/exports/7", &plain},
		{"POST", "/v1/chat", &chat},
		{"POST", "/v1/chat/completions", &chat},
		{"GET", "/v1/free", &free},
		{"GET", "/elsewhere", &plain},
	} {
		asked = nil
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(c.method, c.path, nil))
		if odd := strings.Contains(c.path, "..") || strings.Contains(c.path, "%2e") || strings.Contains(c.path, "%5c"); odd != (w.Code == 400) {
			t.Errorf("%s %s: %d", c.method, c.path, w.Code)
		}
		switch {
		case c.want == nil && len(asked) != 0, c.want != nil && len(asked) != 1:
			t.Errorf("%s %s: asked %+v", c.method, c.path, asked)
		case c.want != nil:
			got := asked[0]
			if c.want.Scope == "chat" && got.Costs["tokens"] != 500 {
				t.Errorf("%s %s: %+v", c.method, c.path, got)
			}
			got.Costs = nil
			if got.Subject != c.want.Subject || got.Scope != c.want.Scope || got.Cost != c.want.Cost || got.Hold != c.want.Hold || got.HoldIfCounted != c.want.HoldIfCounted {
				t.Errorf("%s %s: %+v, want %+v", c.method, c.path, got, *c.want)
			}
		}
	}
}

func TestWhoAsksIsToldAtDebugWithoutSecrets(t *testing.T) {
	var log bytes.Buffer
	cfg := httplimit.Config{
		Routes: parseRoutes(t, someRoutes), Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Who: httplimit.Who{Keys: func(context.Context, string) (string, error) { return "acct_42", nil }},
	}
	limit, err := httplimit.New(limiterFunc(func(tierlimit.Request) {}), cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodPost, "/v1/exports/7", nil)
	r.Header.Set("X-Api-Key", "tl_key_secret")
	limit(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
	for _, want := range []string{"subject=acct_42", `route="POST /v1/exports/{id...}"`, "scope=exports", "cost=10", "allowed=true"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("%s is not in %s", want, log.String())
		}
	}
	if strings.Contains(log.String(), "secret") {
		t.Errorf("the key is in %s", log.String())
	}
}

func TestAHostIsTheSameHoweverItIsWritten(t *testing.T) {
	routes := parseRoutes(t, `routes: [{pattern: "API.example.com/", cost: 4}]`)
	for _, host := range []string{"api.example.com", "API.Example.Com", "api.example.com.", "api.example.com:8080"} {
		r := httptest.NewRequest(http.MethodGet, "/x", nil)
		r.Host = host
		if charge, pattern := routes.Match(r); charge.Cost == nil || *charge.Cost != 4 || pattern != "API.example.com/" {
			t.Errorf("%s: %+v %s", host, charge, pattern)
		}
	}
}

func TestAPreflightIsNotChargedUnlessARouteSaysSo(t *testing.T) {
	asked := 0
	count := limiterFunc(func(tierlimit.Request) { asked++ })
	for name, routes := range map[string]*httplimit.Routes{"without routes": nil, "with routes": parseRoutes(t, someRoutes)} {
		limit, err := httplimit.New(count, httplimit.Config{Routes: routes})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct {
			path      string
			preflight bool
			want      int
		}{
			{"/v1/exports/7", true, 0},
			{"/v1/exports/7", false, 1},
			{"/v1/free", true, 0}, // a route of every method is no route of preflights
			{"/charged", true, map[string]int{"with routes": 1}[name]},
		} {
			asked = 0
			r := httptest.NewRequest(http.MethodOptions, c.path, nil)
			if c.preflight {
				r.Header.Set("Access-Control-Request-Method", "POST")
			}
			limit(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
			if asked != c.want {
				t.Errorf("%s, OPTIONS %s, preflight %v: asked %d times, want %d", name, c.path, c.preflight, asked, c.want)
			}
		}
	}
}

func TestWrongRoutesAreNamedAllAtOnce(t *testing.T) {
	_, err := routefile.Parse([]byte(`
routes:
  - {pattern: "GET /a", scope: "Not a name", cost: -1, hold: 10h}
  - {scope: b}
  - {pattern: "GET /c", costs: {tokens: -5}, prize: 7}
  - {pattern: "GET /d", hold: soon}
`))
	for _, want := range []string{"GET /a: hold", "route 2: pattern", "GET /c: prize", "GET /d: hold"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not named: %v", want, err)
		}
	}
	for text, want := range map[string]string{
		``:           "routes",
		`routes: []`: "routes",
		`routen: []`: "routen",
		`routes: [{pattern: "GET /a"}, {pattern: "GET /a"}]`:                    "different from",
		`routes: [{pattern: "GET /{a}"}, {pattern: "GET /{b}"}]`:                "conflicts",
		`routes: [{pattern: "GET /{a"}]`:                                        "GET /{a",
		`routes: [{pattern: "GET /a", scope: "Not a name", cost: -1}]`:          "GET /a: cost",
		`routes: [{pattern: "GET /a", skip: true, cost: 5}]`:                    "GET /a: skip",
		`routes: [{pattern: "GET /a", costs: {"no name": 5}}]`:                  "no name",
		`routes: [{pattern: "post /a", cost: 7}]`:                               "capitals",
		`routes: [{pattern: "/a/../b"}]`:                                        "dot segments",
		`routes: [{pattern: "/a//b"}]`:                                          "dot segments",
		`routes: [{pattern: "/a", cost: 10, Cost: 0}]`:                          "Cost",
		`Routes: [{pattern: "/a"}]`:                                             "Routes",
		`routes: [{pattern: "/a", costs: {tokens: }}]`:                          "costs.tokens",
		`routes: [{pattern: "/a", cost: 0, costs: {tokens: 5}}]`:                "beside costs",
		`routes: [{pattern: "/a", skip: true, costs: {}}]`:                      "skip",
		`routes: [{pattern: "GET /a", cost: 010}]`:                              "leading 0",
		`routes: [{pattern: "/a", cost: "10"}]`:                                 `cost "\"10\"": must be ` + tierlimit.CostRule,
		`routes: [{pattern: "/a", cost: 99999999999999999999}]`:                 `99999999999999999999`,
		`routes: [{pattern: "/a", hold: 10}]`:                                   `hold "10": must be a duration`,
		`routes: [{pattern: "/a", skip: 1}]`:                                    `skip "1": must be true or false`,
		`- {pattern: "/a"}`:                                                     "routes: must be the name of the list",
		"routes: [{pattern: \"GET /a\"}]\n---\nroutes: [{pattern: \"GET /b\"}]": "begins another",
	} {
		if _, err := routefile.Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := routefile.Parse([]byte(`routes: [{pattern: "GET /{a}"}, {pattern: "GET /{b}"}]`)); err == nil || strings.Contains(err.Error(), ".go") {
		t.Errorf("a line of the program is shown: %v", err)
	}
	var wrong *tierlimit.FieldError
	cfg := httplimit.Config{Routes: parseRoutes(t, someRoutes), Scope: func(*http.Request) string { return "x" }}
	if _, err := httplimit.New(limiterFunc(func(tierlimit.Request) {}), cfg); !errors.As(err, &wrong) || wrong.Field != "Routes" {
		t.Errorf("routes beside a function: %v", err)
	}
}

// The headers were those of the limiter that wrote last.
func TestOfTwoLimitersTheTightestIsShown(t *testing.T) {
	decision := func(limit string, remaining int64) *tierlimit.Decision {
		plan, err := tierlimit.NewPlan(tierlimit.PlanConfig{Tier: "x", Limits: []tierlimit.Limit{{Name: limit, Max: 10, Window: tierlimit.Window{Length: time.Minute}}}})
		if err != nil {
			t.Fatal(err)
		}
		lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: onPlan{plan}})
		if err != nil {
			t.Fatal(err)
		}
		d, err := lim.Take(t.Context(), tierlimit.Request{Subject: "acct_42", Cost: 10 - remaining})
		if err != nil {
			t.Fatal(err)
		}
		return &d
	}
	for _, c := range []struct {
		outer, inner int64
		want         string
	}{{3, 7, `"outer";r=3;t=60`}, {7, 3, `"inner";r=3;t=60`}, {3, 3, `"inner";r=3;t=60`}} {
		h := http.Header{}
		httplimit.SetHeaders(h, decision("outer", c.outer), httplimit.LegacyDelta)
		httplimit.SetHeaders(h, decision("inner", c.inner), httplimit.LegacyDelta)
		if got := h.Values("RateLimit"); len(got) != 1 || got[0] != c.want {
			t.Errorf("%d and %d left: %v, want %s", c.outer, c.inner, got, c.want)
		}
		if got := h.Get("X-RateLimit-Remaining"); got != "3" {
			t.Errorf("%d and %d left: X-RateLimit-Remaining %s", c.outer, c.inner, got)
		}
	}
	h := http.Header{"Ratelimit": {"what is this; r = 7"}}
	httplimit.SetHeaders(h, decision("inner", 5), httplimit.NoLegacy)
	if got := h.Get("RateLimit"); got != `"inner";r=5;t=60` {
		t.Errorf("over nonsense: %s", got)
	}
}

type onPlan struct{ plan *tierlimit.Plan }

func (p onPlan) Resolve(context.Context, string, time.Time) (*tierlimit.Plan, error) {
	return p.plan, nil
}

// A 429 without Retry-After is retried at once by widely used clients.
func TestADenialThatWaitingDoesNotLiftIs403(t *testing.T) {
	for name, c := range map[string]struct {
		d      tierlimit.Decision
		status int
	}{
		"exceeded":       {tierlimit.Decision{Reason: tierlimit.Exceeded, RetryAfter: time.Second}, 429},
		"a max of 0":     {tierlimit.Decision{Reason: tierlimit.Exceeded}, 403},
		"cost too large": {tierlimit.Decision{Reason: tierlimit.CostTooLarge}, 403},
		"store down":     {tierlimit.Decision{Reason: tierlimit.StoreDown, RetryAfter: time.Second}, 503},
	} {
		w := httptest.NewRecorder()
		w.Header().Set("Content-Length", "5")
		w.Header().Set("ETag", `"1"`)
		w.Header().Set("Content-Encoding", "gzip")
		httplimit.SetHeaders(w.Header(), &c.d, httplimit.NoLegacy)
		httplimit.Deny(w, &c.d)
		if w.Code != c.status || (w.Header().Get("Retry-After") != "") != (c.d.RetryAfter > 0) {
			t.Errorf("%s: %d %v", name, w.Code, w.Header())
		}
		for _, gone := range []string{"Content-Length", "ETag", "Content-Encoding"} {
			if v := w.Header().Get(gone); v != "" {
				t.Errorf("%s: %s: %s is of the response that was meant", name, gone, v)
			}
		}
	}
}
