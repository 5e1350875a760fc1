package httplimit_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/dunglas/httpsfv"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/httplimit"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/store/storetest"
	"github.com/tierlimit/tierlimit/tiers"
)

var noon = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)

type clock struct{ now time.Time }

func newLimiter(t *testing.T, c *clock) *tierlimit.Limiter {
	t.Helper()
	resolver, err := tiers.Static(tiers.Builtin(), func(subject string) string {
		if strings.HasPrefix(subject, "acct_") {
			return "pro"
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{
		Store: memstore.New(memstore.Config{Now: func() time.Time { return c.now }}),
		Tiers: resolver,
	})
	if err != nil {
		t.Fatal(err)
	}
	return lim
}

func serve(t *testing.T, lim httplimit.Limiter, cfg httplimit.Config) func(*http.Request) *httptest.ResponseRecorder {
	t.Helper()
	cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
	mw, err := httplimit.New(lim, cfg)
	if err != nil {
		t.Fatal(err)
	}
	h := mw(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, ok := tierlimit.FromContext(r.Context())
		if !ok && (cfg.Skip == nil || !cfg.Skip(r)) {
			t.Error("no decision in the request's context")
		}
		_, _ = io.WriteString(w, d.Subject)
	}))
	return func(r *http.Request) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
}

func get(header ...string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.RemoteAddr = "203.0.113.7:4711"
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	return r
}

func TestFiveAreServedAndTheSixthIsToldWhenToComeBack(t *testing.T) {
	c := &clock{now: noon}
	do := serve(t, newLimiter(t, c), httplimit.Config{})
	for i := range 5 {
		w := do(get())
		want := `"per_day";r=` + strconv.Itoa(999-i) + `;t=43200, "per_minute";r=` + strconv.Itoa(4-i) + `;t=60`
		if w.Code != 200 || w.Header().Get("RateLimit") != want {
			t.Fatalf("request %d: %d, RateLimit %s, want %s", i+1, w.Code, w.Header().Get("RateLimit"), want)
		}
		if got := w.Header().Get("RateLimit-Policy"); got != `"per_day";q=1000;w=86400, "per_minute";q=5;w=60` {
			t.Errorf("RateLimit-Policy: %s", got)
		}
	}
	c.now = noon.Add(18*time.Second + 500*time.Millisecond)
	w := do(get())
	if w.Code != 429 || w.Header().Get("Retry-After") != "42" || w.Header().Get("Content-Type") != "application/problem+json" || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("the sixth: %d %v", w.Code, w.Header())
	}
	var p struct {
		Type     string
		Status   int
		Violated []string `json:"violated-policies"`
		Decision tierlimit.Decision
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(p.Type, "#quota-exceeded") || p.Status != 429 || len(p.Violated) != 1 || p.Violated[0] != "per_minute" ||
		p.Decision.Reason != tierlimit.Exceeded || p.Decision.RetryAfter != 41500*time.Millisecond {
		t.Errorf("the problem: %s", w.Body)
	}
	c.now = noon.Add(60 * time.Second)
	if w := do(get()); w.Code != 200 {
		t.Errorf("a minute later: %d", w.Code)
	}
}

func TestTheHeadersAreStructuredFields(t *testing.T) {
	do := serve(t, newLimiter(t, &clock{now: noon}), httplimit.Config{})
	for range 7 {
		w := do(get())
		for _, name := range []string{"RateLimit", "RateLimit-Policy"} {
			list, err := httpsfv.UnmarshalList(w.Header().Values(name))
			if err != nil || len(list) != 2 {
				t.Fatalf("%s %q: %v, %v", name, w.Header().Values(name), list, err)
			}
			for _, member := range list {
				if _, ok := member.(httpsfv.Item).Value.(string); !ok {
					t.Errorf("%s: %v is no string item", name, member)
				}
			}
		}
	}
}

func TestMonthsAndUnlimitedWindowsSendOnlyWhatIsTrue(t *testing.T) {
	d := tierlimit.Decision{Allowed: true, Windows: []tierlimit.WindowState{
		{Limit: "burst", EffectiveMax: 3, Remaining: 2, Reset: 100 * time.Millisecond, Window: tierlimit.Window{Length: 250 * time.Millisecond}},
		{Limit: "ever", EffectiveMax: tierlimit.Unlimited, Remaining: tierlimit.Unlimited, Window: tierlimit.Window{Length: time.Hour}},
		{Limit: "per_month", EffectiveMax: 10, Remaining: 10, Reset: time.Hour, Window: tierlimit.Window{Period: tierlimit.Month}},
		{Limit: "trial_of_a_limit", EffectiveMax: 5, Window: tierlimit.Window{Length: time.Minute}, Shadow: true},
		{Limit: "unbegun", EffectiveMax: 5, Remaining: 5, Window: tierlimit.Window{Length: time.Minute}},
	}}
	h := http.Header{}
	httplimit.SetHeaders(h, &d, httplimit.NoLegacy)
	if got, want := h.Get("RateLimit-Policy"), `"burst";q=3;w=1, "per_month";q=10, "unbegun";q=5;w=60`; got != want {
		t.Errorf("RateLimit-Policy %s, want %s", got, want)
	}
	if got, want := h.Get("RateLimit"), `"burst";r=2;t=1, "per_month";r=10;t=3600, "unbegun";r=5`; got != want {
		t.Errorf("RateLimit %s, want %s", got, want)
	}
}

func TestLegacyHeaders(t *testing.T) {
	do := serve(t, newLimiter(t, &clock{now: noon}), httplimit.Config{Legacy: httplimit.LegacyDelta})
	w := do(get())
	for name, want := range map[string]string{"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "4", "X-RateLimit-Reset": "60"} {
		if got := w.Header().Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	do = serve(t, newLimiter(t, &clock{now: noon}), httplimit.Config{Legacy: httplimit.LegacyEpoch})
	reset, err := strconv.ParseInt(do(get()).Header().Get("X-RateLimit-Reset"), 10, 64)
	if until := time.Until(time.Unix(reset, 0)); err != nil || until < 50*time.Second || until > 61*time.Second {
		t.Errorf("epoch reset %d is %v from now", reset, until)
	}
	if _, err := httplimit.New(newLimiter(t, &clock{}), httplimit.Config{Legacy: "date"}); err == nil {
		t.Error(`Legacy "date" was accepted`)
	}
}

// Clients that read an older draft take the RateLimit header for something else.
func TestLegacyHeadersAlone(t *testing.T) {
	for legacy, reset := range map[httplimit.LegacyHeaders]func(int64) bool{
		httplimit.LegacyDeltaOnly: func(n int64) bool { return n == 60 },
		httplimit.LegacyEpochOnly: func(n int64) bool { return n > 1e9 },
	} {
		do := serve(t, newLimiter(t, &clock{now: noon}), httplimit.Config{Legacy: legacy})
		h := do(get()).Header()
		n, err := strconv.ParseInt(h.Get("X-RateLimit-Reset"), 10, 64)
		if h.Get("RateLimit") != "" || h.Get("RateLimit-Policy") != "" || h.Get("X-RateLimit-Remaining") != "4" || err != nil || !reset(n) {
			t.Errorf("%s: %v", legacy, h)
		}
	}
	h := http.Header{"X-Ratelimit-Remaining": {"1"}}
	httplimit.SetHeaders(h, &tierlimit.Decision{Allowed: true, Windows: []tierlimit.WindowState{{Limit: "a", EffectiveMax: 5, Remaining: 3}}}, httplimit.LegacyDeltaOnly)
	if h.Get("X-RateLimit-Remaining") != "1" {
		t.Errorf("not the tightest of two is shown: %v", h)
	}
}

// Regression test: X-RateLimit-Remaining of anything switched RateLimit off.
func TestHeadersOfSomethingElseAreLeftAlone(t *testing.T) {
	d := tierlimit.Decision{Allowed: true, Windows: []tierlimit.WindowState{{Limit: "a", EffectiveMax: 5, Remaining: 3, Window: tierlimit.Window{Length: time.Minute}}}}
	h := http.Header{"X-Ratelimit-Remaining": {"0"}}
	httplimit.SetHeaders(h, &d, httplimit.NoLegacy)
	if h.Get("RateLimit") != `"a";r=3` || h.Get("X-RateLimit-Remaining") != "0" {
		t.Errorf("%v", h)
	}
	// Of two limiters with different headers only the tightest is shown.
	h = http.Header{"Ratelimit": {`"outer";r=4`}, "Ratelimit-Policy": {`"outer";q=5;w=60`}}
	httplimit.SetHeaders(h, &d, httplimit.LegacyDeltaOnly)
	if h.Get("RateLimit") != "" || h.Get("X-RateLimit-Remaining") != "3" {
		t.Errorf("%v", h)
	}
	h = http.Header{"Ratelimit": {`"outer";r=4`}}
	httplimit.SetHeaders(h, &tierlimit.Decision{Denials: tierlimit.DenialsPlain, RetryAfter: time.Second}, httplimit.NoLegacy)
	if h.Get("RateLimit") != "" || h.Get("Retry-After") != "1" {
		t.Errorf("a plain denial inside of another limiter: %v", h)
	}
}

func TestAPlainDenialShowsNoUsage(t *testing.T) {
	minute := tierlimit.Window{Length: time.Minute}
	resolver, err := tiers.Static([]tiers.Tier{{
		Key: "quiet", Default: true, Denials: tierlimit.DenialsPlain,
		Limits: tiers.Limits{"per_minute": {Max: 1, Window: minute}},
	}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver})
	if err != nil {
		t.Fatal(err)
	}
	do := serve(t, lim, httplimit.Config{Legacy: httplimit.LegacyDelta})
	if w := do(get()); w.Code != 200 || w.Header().Get("RateLimit") == "" {
		t.Errorf("an allowed request: %d %v", w.Code, w.Header())
	}
	for range 2 { // the second is answered from memory, where the store allows it
		w := do(get())
		if w.Code != 429 || w.Header().Get("Retry-After") == "" || w.Header().Get("RateLimit") != "" || w.Header().Get("X-RateLimit-Limit") != "" {
			t.Errorf("%d %v", w.Code, w.Header())
		}
		if got, want := strings.TrimSpace(w.Body.String()), `{"title":"Too Many Requests","status":429,"violated-policies":["per_minute"]}`; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestScopeCostAndSkip(t *testing.T) {
	lim := newLimiter(t, &clock{now: noon})
	do := serve(t, lim, httplimit.Config{
		Cost: func(r *http.Request) int64 { n, _ := strconv.ParseInt(r.Header.Get("X-Cost"), 10, 64); return n },
		Skip: func(r *http.Request) bool { return r.Header.Get("X-Skip") != "" },
	})
	if w := do(get("X-Cost", "4")); w.Code != 200 || !strings.Contains(w.Header().Get("RateLimit"), `"per_minute";r=1;`) {
		t.Errorf("cost 4: %d %v", w.Code, w.Header())
	}
	if w := do(get("X-Cost", "2")); w.Code != 429 {
		t.Errorf("cost 2 with 1 left: %d", w.Code)
	}
	if w := do(get("X-Cost", "6")); w.Code != 403 || w.Header().Get("Retry-After") != "" || !strings.Contains(w.Body.String(), "waiting does not help") {
		t.Errorf("cost 6 of 5: %d, Retry-After %q, %s", w.Code, w.Header().Get("Retry-After"), w.Body)
	}
	do(get("X-Cost", "1"))
	if w := do(get("X-Cost", "0")); w.Code != 200 || !strings.Contains(w.Header().Get("RateLimit"), `"per_minute";r=0;`) {
		t.Errorf("a free request of an exhausted client: %d %v", w.Code, w.Header())
	}
	if w := do(get("X-Skip", "1")); w.Code != 200 || w.Header().Get("RateLimit") != "" {
		t.Errorf("skipped: %d %v", w.Code, w.Header())
	}
	if w := do(get("X-Cost", "-1")); w.Code != 500 { // the application's error
		t.Errorf("cost -1: %d %s", w.Code, w.Body)
	}
}

// Whoever brings no key, or one that is none, is told apart by address: no key at
// all is made up to escape a limit.
func TestAKeyIsTheDefaultWayOfKnowingWhoIsAsking(t *testing.T) {
	known := func(_ context.Context, key string) (string, error) {
		return map[string]string{"one": "acct_1", "two": "acct_2"}[key], nil
	}
	for _, c := range []struct {
		cfg    httplimit.Config
		header []string
		want   string
	}{
		{httplimit.Config{Who: httplimit.Who{Keys: known}}, []string{"X-Api-Key", "one"}, "acct_1"},
		{httplimit.Config{Who: httplimit.Who{Keys: known}}, []string{"Authorization", "Bearer two"}, "acct_2"},
		{httplimit.Config{Who: httplimit.Who{Keys: known}}, []string{"X-Api-Key", "one", "Authorization", "Bearer two"}, "acct_1"},
		{httplimit.Config{Who: httplimit.Who{Keys: known}}, []string{"X-Api-Key", "three"}, "ip:203.0.113.7"},
		{httplimit.Config{Who: httplimit.Who{Keys: known}}, nil, "ip:203.0.113.7"},
		{httplimit.Config{}, []string{"X-Api-Key", "one"}, "ip:203.0.113.7"},
		{
			httplimit.Config{Who: httplimit.Who{Keys: known, Address: httplimit.AddressConfig{Trusted: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}}}},
			[]string{"X-Forwarded-For", "198.51.100.1"},
			"ip:198.51.100.1",
		},
	} {
		var asked string
		limit, err := httplimit.New(limiterFunc(func(req tierlimit.Request) { asked = req.Subject }), c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.RemoteAddr = "203.0.113.7:1"
		for i := 0; i < len(c.header); i += 2 {
			r.Header.Set(c.header[i], c.header[i+1])
		}
		limit(http.NotFoundHandler()).ServeHTTP(httptest.NewRecorder(), r)
		if asked != c.want {
			t.Errorf("%v: %q was asked for, want %q", c.header, asked, c.want)
		}
	}
}

// noHolds implements Settle and Renew for a Limiter without holds.
type noHolds struct{}

func (noHolds) Settle(context.Context, string, int64, map[string]int64) (tierlimit.Settlement, error) {
	return tierlimit.Settlement{}, nil
}

func (noHolds) Renew(context.Context, string, time.Duration) (bool, error) { return false, nil }

// A limiterFunc is told of each request, and allows it.
type limiterFunc func(tierlimit.Request)

func (limiterFunc) Settle(context.Context, string, int64, map[string]int64) (tierlimit.Settlement, error) {
	return tierlimit.Settlement{}, nil
}

func (limiterFunc) Renew(context.Context, string, time.Duration) (bool, error) { return false, nil }

func (f limiterFunc) Take(_ context.Context, req tierlimit.Request) (tierlimit.Decision, error) {
	f(req)
	return tierlimit.Decision{Allowed: true}, nil
}

func (f limiterFunc) Peek(ctx context.Context, req tierlimit.Request) (tierlimit.Decision, error) {
	return f.Take(ctx, req)
}

func TestWhoIsAsking(t *testing.T) {
	proxies := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8:ff::/48")}
	keys := func(_ context.Context, key string) (string, error) {
		switch key {
		case "good":
			return "acct_42", nil
		case "trouble":
			return "", errors.New("database is down")
		}
		return "", nil
	}
	subject := httplimit.FirstOf(
		httplimit.ByAPIKey("Authorization", keys),
		httplimit.ByTrustedHeader("X-Account", proxies),
		httplimit.ByAddress(httplimit.AddressConfig{Trusted: proxies}),
	)
	const xff = "X-Forwarded-For"
	for name, c := range map[string]struct {
		peer   string
		header []string
		want   string // "" is 400
	}{
		"the TCP peer":                             {"203.0.113.7:1", nil, "ip:203.0.113.7"},
		"a peer that forges the header":            {"203.0.113.7:1", []string{xff, "198.51.100.1"}, "ip:203.0.113.7"},
		"behind a proxy":                           {"10.0.0.1:1", []string{xff, "198.51.100.1"}, "ip:198.51.100.1"},
		"behind two proxies":                       {"10.0.0.1:1", []string{xff, "198.51.100.1, 10.0.0.2"}, "ip:198.51.100.1"},
		"a client that forges the leftmost":        {"10.0.0.1:1", []string{xff, "192.0.2.66, 198.51.100.1"}, "ip:198.51.100.1"},
		"a client that names a trusted address":    {"10.0.0.1:1", []string{xff, "10.9.9.9, 198.51.100.1"}, "ip:198.51.100.1"},
		"the header twice":                         {"10.0.0.1:1", []string{xff, "192.0.2.66", xff, "198.51.100.1"}, "ip:198.51.100.1"},
		"garbage at the right end":                 {"10.0.0.1:1", []string{xff, "198.51.100.1, unknown"}, "ip:10.0.0.1"},
		"an empty last entry":                      {"10.0.0.1:1", []string{xff, "198.51.100.1,"}, "ip:198.51.100.1"},
		"only proxies":                             {"10.0.0.1:1", []string{xff, "10.0.0.3, 10.0.0.2"}, "ip:10.0.0.3"},
		"a proxy without the header":               {"10.0.0.1:1", nil, "ip:10.0.0.1"},
		"an address with a port":                   {"10.0.0.1:1", []string{xff, "198.51.100.1:4711"}, "ip:198.51.100.1"},
		"an IPv6 client":                           {"[2001:db8:1:2:3:4:5:6]:1", nil, "ip:2001:db8:1:2::/64"},
		"an IPv6 client's neighbour address":       {"[2001:db8:1:2:ffff::1]:1", nil, "ip:2001:db8:1:2::/64"},
		"IPv4 dressed as IPv6":                     {"[::ffff:203.0.113.7]:1", nil, "ip:203.0.113.7"},
		"a trusted proxy dressed as IPv6":          {"[::ffff:10.0.0.1]:1", []string{xff, "198.51.100.1"}, "ip:198.51.100.1"},
		"IPv6 in brackets behind an IPv6 proxy":    {"[2001:db8:ff::1]:1", []string{xff, "[2001:db8:1:2::9]:80"}, "ip:2001:db8:1:2::/64"},
		"a zone":                                   {"[fe80::1%eth0]:1", nil, "ip:fe80::/64"},
		"no address at all":                        {"@", nil, ""},
		"a key":                                    {"203.0.113.7:1", []string{"Authorization", "Bearer good"}, "acct_42"},
		"a key without a scheme":                   {"203.0.113.7:1", []string{"Authorization", "good"}, "acct_42"},
		"a made-up key is the address":             {"203.0.113.7:1", []string{"Authorization", "Bearer made-up"}, "ip:203.0.113.7"},
		"a header from a gateway":                  {"10.0.0.1:1", []string{"X-Account", "acct_7"}, "acct_7"},
		"a client's own header before a gateway's": {"10.0.0.1:1", []string{"X-Account", "acct_victim", "X-Account", "acct_7"}, "acct_7"},
		"a header from anybody":                    {"203.0.113.7:1", []string{"X-Account", "acct_victim"}, "ip:203.0.113.7"},
	} {
		do := serve(t, newLimiter(t, &clock{now: noon}), httplimit.Config{Subject: subject})
		r := get(c.header...)
		r.RemoteAddr = c.peer
		w := do(r)
		if c.want == "" && w.Code != 400 || c.want != "" && (w.Code != 200 || w.Body.String() != c.want) {
			t.Errorf("%s: %d %s, want %s", name, w.Code, w.Body, c.want)
		}
	}
	do := serve(t, newLimiter(t, &clock{now: noon}), httplimit.Config{Subject: subject})
	if w := do(get("Authorization", "Bearer trouble")); w.Code != 503 || strings.Contains(w.Body.String(), "database") {
		t.Errorf("a lookup that failed: %d %s", w.Code, w.Body)
	}
}

// broken stands for a limiter whose store is gone.
type broken struct {
	noHolds
	d tierlimit.Decision
}

func (b broken) Take(context.Context, tierlimit.Request) (tierlimit.Decision, error) {
	return b.d, tierlimit.ErrStoreUnavailable
}

func (b broken) Peek(ctx context.Context, r tierlimit.Request) (tierlimit.Decision, error) {
	return b.Take(ctx, r)
}

func TestThePolicyAnswersWhileTheStoreIsGone(t *testing.T) {
	open := broken{d: tierlimit.Decision{Allowed: true, Reason: tierlimit.StoreDown, Degraded: true}}
	if w := serve(t, open, httplimit.Config{})(get()); w.Code != 200 || w.Header()["Ratelimit"] != nil {
		t.Errorf("open: %d %v", w.Code, w.Header())
	}
	closed := broken{d: tierlimit.Decision{Reason: tierlimit.StoreDown, Degraded: true, RetryAfter: time.Second}}
	if w := serve(t, closed, httplimit.Config{})(get()); w.Code != 503 || w.Header().Get("Retry-After") != "1" {
		t.Errorf("closed: %d %v", w.Code, w.Header())
	}
}

func TestARefusedSubjectIsToldSo(t *testing.T) {
	suspended := refusing{d: tierlimit.Decision{Reason: tierlimit.Suspended}}
	if w := serve(t, suspended, httplimit.Config{})(get()); w.Code != 403 || w.Header().Get("Retry-After") != "" {
		t.Errorf("suspended: %d %v", w.Code, w.Header())
	}
	blocked := refusing{d: tierlimit.Decision{Reason: tierlimit.Blocked, RetryAfter: 90500 * time.Millisecond}}
	w := serve(t, blocked, httplimit.Config{})(get())
	if w.Code != 429 || w.Header().Get("Retry-After") != "91" || !strings.Contains(w.Body.String(), "#abnormal-usage-detected") {
		t.Errorf("blocked: %d %v %s", w.Code, w.Header(), w.Body)
	}
}

// What costs nothing was let through, whoever asked.
// "For ever" overflowed, and told clients to come back 292 years ago.
func TestABlockForEverIsNotInThePast(t *testing.T) {
	h := http.Header{}
	httplimit.SetHeaders(h, &tierlimit.Decision{Reason: tierlimit.Blocked, RetryAfter: math.MaxInt64}, httplimit.NoLegacy)
	if got := h.Get("Retry-After"); got != "9223372037" {
		t.Errorf("Retry-After: %s", got)
	}
}

func TestARefusedSubjectIsDeniedWhatCostsNothingToo(t *testing.T) {
	suspended := refusing{d: tierlimit.Decision{Reason: tierlimit.Suspended}}
	free := httplimit.Config{Cost: func(*http.Request) int64 { return 0 }}
	if w := serve(t, suspended, free)(get()); w.Code != 403 {
		t.Errorf("suspended: %d", w.Code)
	}
	blocked := refusing{d: tierlimit.Decision{Reason: tierlimit.Blocked, RetryAfter: time.Minute}}
	if w := serve(t, blocked, free)(get()); w.Code != 429 || w.Header().Get("Retry-After") != "60" {
		t.Errorf("blocked: %d", w.Code)
	}
}

// Once a limit in shadow mode was exceeded, customers lost their X-RateLimit-* headers.
func TestAShadowLimitLeavesTheLegacyHeadersAlone(t *testing.T) {
	resolver, err := tiers.Static([]tiers.Tier{{Key: "pro", Default: true, Limits: tiers.Limits{
		"per_hour":   {Max: 1, Window: tierlimit.Window{Length: time.Hour}, Shadow: true},
		"per_minute": {Max: 100, Window: tierlimit.Window{Length: time.Minute}},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: memstore.New(memstore.Config{}), Tiers: resolver})
	if err != nil {
		t.Fatal(err)
	}
	do := serve(t, lim, httplimit.Config{Legacy: httplimit.LegacyDelta})
	for _, want := range []string{"99", "98", "97"} {
		h := do(get()).Header()
		if h.Get("X-Ratelimit-Remaining") != want || h.Get("X-Ratelimit-Limit") != "100" || strings.Contains(h.Get("Ratelimit")+h.Get("Ratelimit-Policy"), "per_hour") {
			t.Errorf("%v, want %s remaining", h, want)
		}
	}
}

// Basic credentials, and those of any other scheme, were handed to the look-up of keys.
func TestOnlyABearerIsAnAPIKey(t *testing.T) {
	for value, want := range map[string]string{
		"Bearer key_1": "key_1", "bearer  key_1": "key_1", "key_1": "key_1",
		"Basic dXNlcjpwYXNz": "", "Digest username=x": "", "Negotiate abc": "", "Bearer": "Bearer", "": "",
	} {
		looked := ""
		subject := httplimit.ByAPIKey("Authorization", func(_ context.Context, key string) (string, error) {
			looked = key
			return "", nil
		})
		r := get()
		r.Header.Set("Authorization", value)
		if _, err := subject(r); err != nil || looked != want {
			t.Errorf("%q: %q was looked up, want %q, %v", value, looked, want, err)
		}
	}
}

type refusing struct {
	noHolds
	d tierlimit.Decision
}

func (r refusing) Take(context.Context, tierlimit.Request) (tierlimit.Decision, error) {
	return r.d, nil
}

func (r refusing) Peek(context.Context, tierlimit.Request) (tierlimit.Decision, error) {
	return r.d, nil
}

func TestARequestsBodyIsNeverRead(t *testing.T) {
	do := serve(t, newLimiter(t, &clock{now: noon}), httplimit.Config{})
	r := get()
	r.Body = io.NopCloser(unreadable{t})
	do(r)
}

type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("the body was read")
	return 0, io.EOF
}

// An answer that nothing was counted for had a RateLimit field without a value.
func TestWithoutCountsThereIsNoRateLimitField(t *testing.T) {
	resolver, err := tiers.Static([]tiers.Tier{{Key: "pro", Default: true, OnStoreError: tierlimit.Open, Limits: tiers.Limits{
		"per_minute": {Max: 100, Window: tierlimit.Window{Length: time.Minute}},
	}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	full := memstore.New(memstore.Config{MaxSubjects: 1})
	if _, err := full.Take(t.Context(), storetest.Charge("somebody", 1, tierlimit.Ceiling{Name: "a", Max: 1, Window: tierlimit.Window{Length: time.Hour}})); err != nil {
		t.Fatal(err)
	}
	lim, err := tierlimit.New(tierlimit.Config{Store: full, Tiers: resolver})
	if err != nil {
		t.Fatal(err)
	}
	w := serve(t, lim, httplimit.Config{})(get())
	if _, there := w.Header()["Ratelimit"]; w.Code != 200 || there || w.Header()["Ratelimit-Policy"] != nil {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}
