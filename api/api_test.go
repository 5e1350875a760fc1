package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tierlimit/tierlimit"
	"github.com/tierlimit/tierlimit/api"
	"github.com/tierlimit/tierlimit/load"
	"github.com/tierlimit/tierlimit/store/memstore"
	"github.com/tierlimit/tierlimit/tiers"
	"github.com/tierlimit/tierlimit/tiers/memtiers"
)

const (
	adminToken   = "owner-token-of-the-tests"
	serviceToken = "service-token-of-the-tests"
)

// A site is both listeners on memory.
type site struct {
	*testing.T
	public, admin http.Handler
	draining      atomic.Bool
	store         *flakyStore
	cfg           api.Config
}

// A flakyStore is a store that can be taken away.
type flakyStore struct {
	tierlimit.Store
	err error
}

func (f *flakyStore) Take(ctx context.Context, c tierlimit.Charge) (tierlimit.Outcome, error) {
	if f.err != nil {
		return tierlimit.Outcome{}, f.err
	}
	return f.Store.Take(ctx, c)
}

func (f *flakyStore) Reset(ctx context.Context, subject string, limits ...string) error {
	if f.err != nil {
		return f.err
	}
	return f.Store.Reset(ctx, subject, limits...)
}

func newSite(t *testing.T, utilisation float64) *site {
	t.Helper()
	catalogue, err := memtiers.New(tiers.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	cpu, err := load.New(load.Config{Tiers: tiers.Builtin, Meter: load.Fixed(utilisation)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cpu.Close)
	s := &site{T: t, store: &flakyStore{Store: memstore.New(memstore.Config{})}}
	lim, err := tierlimit.New(tierlimit.Config{Store: s.store, Tiers: catalogue, Load: cpu})
	if err != nil {
		t.Fatal(err)
	}
	cfg := api.Config{
		Limiter: lim, Catalogue: catalogue, Keyring: catalogue, Load: cpu, AdminToken: adminToken, ServiceToken: serviceToken, Demo: true,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Health: api.Health{Draining: &s.draining, Checks: map[string]func(context.Context) error{
			"good": func(context.Context) error { return nil },
			"gone": func(context.Context) error { return errors.New("password=hunter2") },
		}},
	}
	s.cfg = cfg
	if s.public, err = api.Public(cfg); err != nil {
		t.Fatal(err)
	}
	s.admin = api.Admin(cfg)
	return s
}

// An answer is a response with its body read.
type answer struct {
	*testing.T
	code   int
	header http.Header
	body   []byte
}

func (s *site) ask(h http.Handler, method, path, body string, header ...string) answer {
	s.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+adminToken)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return answer{s.T, w.Code, w.Header(), w.Body.Bytes()}
}

func (a answer) want(code int, parts ...string) answer {
	a.Helper()
	if a.code != code {
		a.Fatalf("answered %d, want %d: %s", a.code, code, a.body)
	}
	for _, part := range parts {
		if !bytes.Contains(a.body, []byte(part)) {
			a.Fatalf("no %s in %s", part, a.body)
		}
	}
	if code >= 400 && a.header.Get("Content-Type") != "application/problem+json" {
		a.Errorf("%d came as %s", code, a.header.Get("Content-Type"))
	}
	return a
}

func (a answer) decision() (d tierlimit.Decision) {
	a.Helper()
	if err := json.Unmarshal(a.want(200).body, &d); err != nil {
		a.Fatal(err)
	}
	return d
}

func (s *site) take(body string) answer { s.Helper(); return s.ask(s.public, "POST", "/v1/take", body) }

func TestTakeAndPeek(t *testing.T) {
	s := newSite(t, 0)
	a := s.take(`{"subject":"acct_42","cost":4}`)
	if d := a.decision(); !d.Allowed || d.Windows[1].Used != 4 || a.header.Get("RateLimit") == "" {
		t.Fatalf("%s %v", a.body, a.header)
	}
	for path, body := range map[string]string{
		"/v1/peek": `{"subject":"acct_42","cost":2}`,
		"/v1/take": `{"subject":"acct_42","cost":0}`,
	} {
		if d := s.ask(s.public, "POST", path, body).decision(); d.Windows[1].Used != 4 || d.Allowed != (path == "/v1/take") {
			t.Errorf("%s %s: %+v", path, body, d)
		}
	}
	s.take(`{"subject":"acct_42"}`)
	a = s.take(`{"subject":"acct_42"}`)
	if d := a.decision(); d.Allowed || d.Reason != tierlimit.Exceeded || a.header.Get("Retry-After") == "" {
		t.Errorf("the sixth: %s %v", a.body, a.header)
	}
	s.ask(s.public, "GET", "/v1/usage/acct_42", "").want(200, `"used":5`, `"limit":"per_day"`)
}

func TestAHoldIsSettledOnce(t *testing.T) {
	s := newSite(t, 0)
	var taken struct{ ID string }
	if err := json.Unmarshal(s.take(`{"subject":"acct_42","cost":5,"hold_ms":60000}`).body, &taken); err != nil || taken.ID == "" {
		t.Fatalf("%+v, %v", taken, err)
	}
	id := `{"id":"` + taken.ID + `"`
	s.ask(s.public, "GET", "/v1/usage/acct_42", "").want(200, `"held":5`)
	s.ask(s.public, "POST", "/v1/renew", id+`,"hold_ms":60000}`).want(200, `{"renewed":true}`)
	s.ask(s.public, "POST", "/v1/settle", id+`,"cost":2}`).want(200, `"settled":true`, `{"limit":"per_minute","estimate":5,"cost":2,"used":2}`)
	s.ask(s.public, "POST", "/v1/settle", id+`,"cost":0}`).want(200, `{"settled":false,"limits":[]}`)
	s.ask(s.public, "POST", "/v1/renew", id+`,"hold_ms":60000}`).want(200, `{"renewed":false}`)
	if d := s.take(`{"subject":"acct_42","cost":3}`).decision(); !d.Allowed {
		t.Errorf("after the settlement: %+v", d)
	}
	for body, part := range map[string]string{
		`{"id":"nonsense","cost":1}`:           `"id"`,
		id + `}`:                               "cost: must be given",
		id + `,"cost":-1}`:                     `cost \"-1\"`,
		id + `,"costs":{"tokens":-1}}`:         `costs.tokens \"-1\"`,
		id + `,"costs":{"tokens":"x"}}`:        `costs.tokens`,
		id + `,"costs":7}`:                     `an object of costs by limit`,
		id + `,"cost":1,"hold_ms":1000,"x":1}`: "must be left out",
	} {
		s.ask(s.public, "POST", "/v1/settle", body).want(400, part)
	}
	for _, ms := range []string{"0", "999", "3600001", "-1"} {
		s.ask(s.public, "POST", "/v1/renew", id+`,"hold_ms":`+ms+`}`).want(400, `hold_ms \"`+ms+`\": must be a whole number from 1000 to 3600000`)
	}
	s.ask(s.public, "POST", "/v1/take", `{"subject":"acct_42","hold_ms":999}`).want(400, "hold_ms")
	s.ask(s.public, "POST", "/v1/settle", id+`,"cost":2}`, "Authorization", "").want(401)
}

func TestAnAdministratorReleasesAHold(t *testing.T) {
	s := newSite(t, 0)
	var taken struct{ ID string }
	if err := json.Unmarshal(s.take(`{"subject":"acct_42","cost":5,"hold_ms":60000}`).body, &taken); err != nil || taken.ID == "" {
		t.Fatalf("%+v, %v", taken, err)
	}
	const holds = "/admin/v1/subjects/acct_42/holds"
	s.ask(s.admin, "GET", holds, "").want(200, taken.ID, `"limits":[{"limit":"per_day","cost":5},{"limit":"per_minute","cost":5}]`)
	s.ask(s.admin, "DELETE", "/admin/v1/subjects/acct_43/holds/"+taken.ID, "").want(404)
	s.ask(s.admin, "DELETE", holds+"/"+taken.ID, "").want(204)
	s.ask(s.admin, "DELETE", holds+"/"+taken.ID, "").want(404, "not found")
	s.ask(s.admin, "GET", holds, "").want(200, `{"holds":[]}`)
	s.ask(s.public, "GET", "/v1/usage/acct_42", "").want(200, `"used":0`)
	s.ask(s.admin, "GET", "/admin/v1/audit?kind=usage", "").want(200, `"action":"hold.release"`, `"object":"acct_42"`, taken.ID)
}

func TestBadInputIsNamedAndChargesNothing(t *testing.T) {
	s := newSite(t, 0)
	long := strings.Repeat("x", 10_000)
	for body, part := range map[string]string{
		``:                               "ends too early",
		`{`:                              "ends too early",
		`{"subject":}`:                   "malformed at byte",
		`[]`:                             "body",
		`"x"`:                            "body",
		`null`:                           "body",
		`{"subject":"a"}{"subject":"b"}`: "nothing behind it",
		`{"` + long + `":1}`:             "must be left out",
		`{"subject":"a","extra":1}`:      "extra: must be left out",
		`{"subject":"a","cost":-1}`:      `cost \"-1\"`,
		`{"subject":"a","cost":1e300}`:   `cost \"1e300\"`,
		`{"subject":"a","cost":1.5}`:     `cost \"1.5\"`,
		`{"subject":"a","cost":"1"}`:     `cost`,
		`{"subject":"a","cost":9e18}`:    `cost`,
		`{"subject":"a","cost":1000000000000001}`: `cost \"1000000000000001\"`,
		`{"subject":5}`:                     `subject \"number\": must be a string`,
		`{"subject":""}`:                    "subject: must be",
		`{"subject":"a\nb"}`:                "subject",
		`{"subject":"a\u0000"}`:             "subject",
		`{"subject":"a\ud800"}`:             "subject",
		"{\"subject\":\"a\xff\"}":           "UTF-8",
		`{"subject":"` + long + `"}`:        "(10000 bytes)",
		`{"subject":"a","scope":"Search!"}`: "scope",
	} {
		a := s.take(body).want(400, part)
		if len(a.body) > 1000 {
			t.Errorf("%.30s: %d bytes of answer", body, len(a.body))
		}
	}
	s.take(strings.Repeat(" ", 10<<20)).want(413)
	if d := s.take(`{"subject":"a","cost":0}`).decision(); d.Windows[0].Used != 0 {
		t.Errorf("%d used by malformed requests", d.Windows[0].Used)
	}
}

func TestSubjectsInPaths(t *testing.T) {
	s := newSite(t, 0)
	for _, subject := range []string{"acct_42", "a b", "a/b", "a%b", "a%2Fb", "ip:2001:db8::/64", "}{", "ü", "?", "#", "..", "%"} {
		s.ask(s.admin, "POST", "/admin/v1/subjects", fmt.Sprintf(`{"id":%q,"tier":"pro"}`, subject)).want(201)
		if d := s.take(fmt.Sprintf(`{"subject":%q,"cost":7}`, subject)).decision(); d.Tier != "pro" {
			t.Errorf("%s is on %s", subject, d.Tier)
		}
		path := url.PathEscape(subject)
		if subject == ".." {
			path = "%2E%2E"
		}
		s.ask(s.public, "GET", "/v1/usage/"+path, "").want(200, `"used":7`)
		var read tiers.Subject
		if err := json.Unmarshal(s.ask(s.admin, "GET", "/admin/v1/subjects/"+path, "").want(200).body, &read); err != nil || read.ID != subject {
			t.Errorf("asked for %s, read %+v, %v", subject, read, err)
		}
	}
}

func TestATiersLifeOverHTTP(t *testing.T) {
	s := newSite(t, 0)
	const gold = `{"key":"gold","name":"Gold","priority":25,"load":{"start":0.5,"full":0.9,"floor":0.2},
		"limits":{"per_minute":{"max":7,"window":"60s","adaptive":true},"per_month":{"max":null,"period":"month","anchor":"calendar"}}}`
	tag := s.ask(s.admin, "POST", "/admin/v1/tiers", gold).want(201, `"on_store_error":"local"`).header.Get("ETag")
	s.ask(s.admin, "POST", "/admin/v1/tiers", gold).want(409, "exists already")
	a := s.ask(s.admin, "GET", "/admin/v1/tiers/gold", "").want(200)
	if a.header.Get("ETag") != tag {
		t.Errorf("ETag %s, created with %s", a.header.Get("ETag"), tag)
	}
	// What was read can be sent back as it is.
	changed := strings.Replace(string(a.body), `"max":7`, `"max":8`, 1)
	s.ask(s.admin, "PUT", "/admin/v1/tiers/gold", changed).want(428)
	for _, bad := range []string{"gold", `"`, `"4" or so`} {
		s.ask(s.admin, "PUT", "/admin/v1/tiers/gold", changed, "If-Match", bad).want(400, "If-Match")
	}
	for _, other := range []string{"W/" + tag, `"+4"`, `"8", "9"`, `""`, `"-1"`} { // none is the current version's ETag
		s.ask(s.admin, "PUT", "/admin/v1/tiers/gold", changed, "If-Match", other).want(412)
	}
	s.ask(s.admin, "PUT", "/admin/v1/tiers/silver", changed, "If-Match", tag).want(400, "key")
	next := s.ask(s.admin, "PUT", "/admin/v1/tiers/gold", changed, "If-Match", tag).want(200, `"max":8`).header.Get("ETag")
	s.ask(s.admin, "PUT", "/admin/v1/tiers/gold", changed, "If-Match", tag).want(412)

	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_1","tier":"gold"}`).want(201)
	if d := s.take(`{"subject":"acct_1"}`).decision(); d.Tier != "gold" || d.Windows[0].Max != 8 {
		t.Errorf("%+v", d)
	}
	s.ask(s.admin, "DELETE", "/admin/v1/tiers/gold", "").want(428)
	s.ask(s.admin, "DELETE", "/admin/v1/tiers/gold", "", "If-Match", next).want(409, "acct_1")
	s.ask(s.admin, "DELETE", "/admin/v1/tiers/free", "", "If-Match", `"1"`).want(409, "default")
	s.ask(s.admin, "GET", "/admin/v1/tiers/nosuch", "").want(404)
	s.ask(s.admin, "GET", "/admin/v1/tiers", "").want(200, `"has_more":false`, `"key":"enterprise"`)

	bad := `{"key":"BAD","priority":-1,"limits":{"a":{"max":-5,"window":"60s"},"b":{"max":1,"period":"day","adaptive":true},"c":{"max":1,"window":"soon"}}}`
	s.ask(s.admin, "POST", "/admin/v1/tiers", bad).want(400, "limits.a.max", "limits.c.window")
	bad = strings.NewReplacer("-5", "5", "soon", "1s").Replace(bad)
	s.ask(s.admin, "POST", "/admin/v1/tiers", bad).want(400, "3 fields", `"key"`, "priority", "limits.b.adaptive")
}

func TestASubjectsLifeOverHTTP(t *testing.T) {
	s := newSite(t, 0)
	tag := s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"free"}`).want(201).header.Get("ETag")
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`).want(409)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_43","tier":"nosuch"}`).want(400, `tier \"nosuch\"`)
	for range 5 {
		s.take(`{"subject":"acct_42"}`)
	}
	if d := s.take(`{"subject":"acct_42"}`).decision(); d.Allowed {
		t.Fatal("six on free")
	}
	s.ask(s.admin, "PUT", "/admin/v1/subjects/acct_42", `{"tier":"pro"}`, "If-Match", tag).want(200)
	if d := s.take(`{"subject":"acct_42"}`).decision(); !d.Allowed || d.Tier != "pro" || d.Windows[0].Used != 6 {
		t.Errorf("an upgrade acts at once and keeps usage: %+v", d)
	}
	s.ask(s.admin, "PUT", "/admin/v1/subjects/acct_42", `{"tier":"free"}`, "If-Match", tag).want(412)
	s.ask(s.admin, "GET", "/admin/v1/subjects/acct_42/usage", "").want(200, `"used":6`)
	s.ask(s.admin, "DELETE", "/admin/v1/subjects/acct_42/usage?limit=per_month", "").want(204)
	s.ask(s.admin, "GET", "/admin/v1/subjects/acct_42/usage", "").want(200, `"used":6`, `"used":0`)
	for _, slip := range []string{"limit=per_minute;x", "limit=per_minute%zz", "limits=per_minute", "limit="} {
		s.ask(s.admin, "DELETE", "/admin/v1/subjects/acct_42/usage?"+slip, "").want(400)
	}
	s.ask(s.admin, "GET", "/admin/v1/subjects/acct_42/usage", "").want(200, `"used":6`)
	s.ask(s.admin, "DELETE", "/admin/v1/subjects/acct_42/usage?limit=per_mouth", "").want(400, "per_minute, per_month")
	s.ask(s.admin, "DELETE", "/admin/v1/subjects/%00/usage", "").want(400, "subject")
	s.ask(s.admin, "DELETE", "/admin/v1/subjects/acct_42/usage", "").want(204)
	if d := s.take(`{"subject":"acct_42"}`).decision(); d.Windows[0].Used != 1 {
		t.Errorf("after a reset: %+v", d)
	}
}

func TestAPlanChangesOverHTTPAndKeepsUsage(t *testing.T) {
	s := newSite(t, 0)
	const subject = "/admin/v1/subjects/acct_42"
	etag := func(a answer) string { return a.header.Get("Etag") }
	patch := func(tag, body string) answer {
		s.Helper()
		return s.ask(s.admin, "PATCH", subject, body, "If-Match", tag)
	}
	takes := func(reason tierlimit.Reason, tier, from string) {
		s.Helper()
		d := s.take(`{"subject":"acct_42"}`).decision()
		if d.Reason != reason || d.Tier != tier || from != "" && d.Windows[len(d.Windows)-1].From != from {
			s.Errorf("%+v, want %s on %s from %s", d, reason, tier, from)
		}
	}
	tag := etag(s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"free"}`).want(201, `"status":"active"`))
	s.take(`{"subject":"acct_42","cost":5}`).want(200, `"allowed":true`)
	takes(tierlimit.Exceeded, "free", "tier")

	tag = etag(patch(tag, `{"trial":{"tier":"pro","ends_at":"2099-01-01T00:00:00Z"}}`).want(200, `"trial":{"tier":"pro","ends_at":"2099-01-01T00:00:00Z"}`))
	takes(tierlimit.OK, "pro", "trial")
	tag = etag(patch(tag, `{"trial":null}`).want(200, `"tier":"free"`))
	takes(tierlimit.Exceeded, "free", "tier")

	launch := s.ask(s.admin, "POST", subject+"/overrides", `{"limit":"per_minute","max":8,"expires_at":"2099-01-01T00:00:00Z","reason":"launch day"}`)
	launch.want(201, `"limit":"per_minute","max":8`, `"reason":"launch day"`)
	takes(tierlimit.OK, "free", "override")
	s.ask(s.admin, "GET", subject+"/overrides", "").want(200, `"data":[{"limit":"per_minute"`)
	patched := s.ask(s.admin, "PATCH", subject+"/overrides/per_minute", `{"max":null}`, "If-Match", etag(launch))
	patched.want(200, `"max":null`) // null means unlimited, as everywhere
	s.ask(s.admin, "PATCH", subject+"/overrides/per_minute", `{"max":7}`, "If-Match", etag(launch)+`, `+etag(patched)).want(200, `"max":7`)
	takes(tierlimit.Exceeded, "free", "override")
	s.ask(s.admin, "DELETE", subject+"/overrides/per_minute", "", "If-Match", etag(launch)).want(412)
	s.ask(s.admin, "GET", subject+"/overrides/exports", "").want(404)

	patch(tag, `{"status":"suspended"}`).want(412) // an override is a change of its subject too
	tag = etag(s.ask(s.admin, "GET", subject, "").want(200))
	tag = etag(patch(tag, `{"status":"past_due","grace_until":"2099-01-01T00:00:00Z"}`).want(200))
	takes(tierlimit.Exceeded, "free", "override")
	patch(tag, `{"status":"active"}`).want(400, "grace_until")
	tag = etag(patch(tag, `{"status":"suspended","grace_until":null}`).want(200))
	takes(tierlimit.Suspended, "free", "")
	tag = etag(patch(tag, `{"status":"active","blocked_until":"2099-01-01T00:00:00Z"}`).want(200))
	takes(tierlimit.Blocked, "free", "")
	tag = etag(patch(tag, `{"blocked_until":null,"next":{"tier":"pro","at":"2001-01-01T00:00:00Z"}}`).want(200))
	takes(tierlimit.Exceeded, "pro", "")                                  // the override is of whatever tier
	s.ask(s.admin, "GET", subject, "").want(200, `"tier":"pro","status"`) // a change that was due is made
	s.ask(s.admin, "GET", "/admin/v1/audit?object=acct_42&limit=2", "").want(200, `"actor":"owner","actor_id":"owner","action":"subject.replace","kind":"subject","object":"acct_42"`, `"has_more":true`)
	s.ask(s.admin, "DELETE", subject+"/usage?limit=per_minute", "").want(204)
	s.ask(s.admin, "GET", "/admin/v1/audit?kind=usage", "").want(200, `"action":"usage.reset"`, `"detail":"per_minute"`, `"has_more":false`)
	s.ask(s.admin, "GET", "/admin/v1/audit?cursor=x", "").want(400, "cursor")
	s.ask(s.admin, "GET", "/admin/v1/audit", "", "Authorization", "Bearer "+serviceToken).want(403, "it needs the role viewer")
	patch(tag, `{"plan":"pro"}`).want(400, "plan")
	patch(tag, `[]`).want(400)
	patch(tag, `null`).want(400, "a JSON object")
	// What encoding/json folds into another field was lost in the merge: 200, and
	// nothing done.
	patch(tag, `{"Status":"suspended"}`).want(400, `"field":"Status"`, "no such field")
	patch(tag, `{"\u0054ier":"free"}`).want(400, `"field":"Tier"`)
	patch(tag, `{"trail":null}`).want(400, `"field":"trail"`, "no such field")
	s.ask(s.public, "POST", "/v1/take", `{"subject":"a","SUBJECT":"b"}`).want(400, `"field":"SUBJECT"`)
	s.ask(s.public, "POST", "/v1/take", `{"subject":"SUBJECT Ü","scope":"search"}`).want(200, `"subject":"SUBJECT Ü"`)
	patch(tag, `{"next":{"tier":"nosuch","at":"2099-01-01T00:00:00Z"},"trial":{"tier":"neither","ends_at":"soon"}}`).want(400, "trial.ends_at")
}

func TestSubjectsArePaged(t *testing.T) {
	s := newSite(t, 0)
	for i := range 7 {
		s.ask(s.admin, "POST", "/admin/v1/subjects", fmt.Sprintf(`{"id":"acct/%d","tier":"pro"}`, i)).want(201)
	}
	var got []string
	cursor := ""
	for range 4 {
		var page struct {
			Data       []tiers.Subject
			NextCursor string `json:"next_cursor"`
			HasMore    bool   `json:"has_more"`
		}
		a := s.ask(s.admin, "GET", "/admin/v1/subjects?limit=3&cursor="+cursor, "").want(200)
		if err := json.Unmarshal(a.body, &page); err != nil {
			t.Fatal(err)
		}
		for _, x := range page.Data {
			got = append(got, x.ID)
		}
		if cursor = page.NextCursor; !page.HasMore {
			break
		}
	}
	if strings.Join(got, " ") != "acct/0 acct/1 acct/2 acct/3 acct/4 acct/5 acct/6" {
		t.Errorf("pages held %v", got)
	}
	for _, query := range []string{"limit=0", "limit=501", "limit=x", "cursor=%21", "cursor=AA", "limit=%zz"} {
		s.ask(s.admin, "GET", "/admin/v1/subjects?"+query, "").want(400, query[:5])
	}
}

func TestTokens(t *testing.T) {
	s := newSite(t, 0)
	var refusals []string
	for _, c := range []struct {
		authorization string
		public, admin int
	}{
		{"Bearer " + adminToken, 200, 200},
		{"bearer " + adminToken, 200, 200},
		{"Bearer " + serviceToken, 200, 403},
		{"Bearer " + adminToken + "x", 401, 401},
		{"Bearer ", 401, 401},
		{"", 401, 401},
		{adminToken, 401, 401},
		{"Basic " + adminToken, 401, 401},
	} {
		for _, x := range []struct {
			h    http.Handler
			path string
			code int
		}{{s.public, "/v1/usage/acct_42", c.public}, {s.admin, "/admin/v1/tiers", c.admin}} {
			a := s.ask(x.h, "GET", x.path, "", "Authorization", c.authorization)
			if a.code != x.code {
				t.Errorf("%q on %s: %d, want %d", c.authorization, x.path, a.code, x.code)
			}
			if a.code == 401 {
				refusals = append(refusals, string(a.body))
			}
		}
	}
	for _, r := range refusals {
		if r != refusals[0] {
			t.Errorf("refusals differ: %s and %s", r, refusals[0])
		}
	}
}

func TestLoadIsShownWhereItBites(t *testing.T) {
	s := newSite(t, 0.95)
	d := s.take(`{"subject":"nobody"}`).decision()
	if d.Multiplier != 0.1 || d.Windows[1].Max != 5 || d.Windows[1].EffectiveMax != 1 {
		t.Errorf("free under load: %+v", d)
	}
	if d := s.take(`{"subject":"nobody"}`).decision(); d.Allowed || d.Reason != tierlimit.LoadScaled {
		t.Errorf("the second: %+v", d)
	}
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_42","tier":"pro"}`).want(201)
	if d := s.take(`{"subject":"acct_42"}`).decision(); d.Windows[0].EffectiveMax != 55 {
		t.Errorf("pro under load: %+v", d)
	}
	s.ask(s.public, "GET", "/v1/load", "").want(200, `"mode":"enforce"`, `"cpu":0.95`, `"multiplier":0.1`)
}

// What services report is shown with what follows from it; what is no reading is refused by name.
func TestServicesReportTheirLoad(t *testing.T) {
	s := newSite(t, 0.2)
	s.ask(s.public, "POST", "/v1/load/report", `{"source":"api-1","cpu":0.8,"capacity":4}`, "Authorization", "Bearer "+serviceToken).want(204)
	s.ask(s.public, "GET", "/v1/load", "").want(200, `"source":"api-1","cpu":0.8,"capacity":4,"kind":"report"`, `"counts":true`, `"kind":"fixed"`)
	s.ask(s.public, "POST", "/v1/load/report", `{"source":"api-1","cpu":0.8,"capacity":4}`, "Authorization", "").want(401)
	for body, field := range map[string]string{
		`{"source":"api-1","cpu":80,"capacity":4}`:          "cpu",
		`{"source":"api-1","cpu":-0.1,"capacity":4}`:        "cpu",
		`{"source":"api-1","cpu":NaN,"capacity":4}`:         "body",
		`{"source":"api-1","cpu":1e400,"capacity":4}`:       "cpu",
		`{"source":"api-1","cpu":"0.5","capacity":4}`:       "cpu",
		`{"source":"api-1","cpu":null,"capacity":4}`:        "cpu",
		`{"source":"api-1","capacity":4}`:                   "cpu",
		`{"source":"api-1","cpu":0.5}`:                      "capacity",
		`{"source":"api-1","cpu":0.5,"capacity":1e9}`:       "capacity",
		`{"source":"api-1","cpu":0.5,"capacity":0}`:         "capacity",
		`{"source":"API 1","cpu":0.5,"capacity":4}`:         "source",
		`{"source":"own","cpu":0.5,"capacity":4}`:           "source",
		`{"cpu":0.5,"capacity":4}`:                          "source",
		`{"source":"a","cpu":0.5,"capacity":4,"at":"2036"}`: "at",
		`[]`: "body",
		``:   "body",
	} {
		s.ask(s.public, "POST", "/v1/load/report", body).want(400, `"field":"`+field+`"`)
	}
}

func TestTheDemoAnswers429(t *testing.T) {
	s := newSite(t, 0)
	for range 5 {
		s.ask(s.public, "GET", "/demo/data", "").want(200, "data")
	}
	a := s.ask(s.public, "GET", "/demo/data", "").want(429, "#quota-exceeded")
	if a.header.Get("Retry-After") != "60" {
		t.Errorf("%v", a.header)
	}
}

func TestAStoreThatIsGone(t *testing.T) {
	s := newSite(t, 0)
	s.store.err = fmt.Errorf("dial 10.1.2.3: %w", tierlimit.ErrStoreUnavailable)
	if d := s.take(`{"subject":"acct_42"}`).decision(); d.Allowed || d.Reason != tierlimit.StoreDown || !d.Degraded {
		t.Errorf("%+v", d)
	}
	for _, a := range []answer{
		s.ask(s.public, "GET", "/v1/usage/acct_42", "").want(503),
		s.ask(s.admin, "DELETE", "/admin/v1/subjects/acct_42/usage", "").want(503),
	} {
		if bytes.Contains(a.body, []byte("10.1.2.3")) || a.header.Get("Retry-After") == "" {
			t.Errorf("%s %v", a.body, a.header)
		}
	}
	s.ask(s.public, "GET", "/demo/data", "").want(503, "#temporary-reduced-capacity")
}

func TestHealth(t *testing.T) {
	s := newSite(t, 0)
	for _, h := range []http.Handler{s.public, s.admin} {
		s.ask(h, "GET", "/livez", "", "Authorization", "").want(200, "ok")
		s.ask(h, "HEAD", "/readyz", "", "Authorization", "").want(200)
	}
	a := s.ask(s.admin, "GET", "/readyz?verbose", "", "Authorization", "").want(200, "ready", "good: ok", "gone: failing")
	if bytes.Contains(a.body, []byte("hunter2")) {
		t.Errorf("a secret in %s", a.body)
	}
	if a := s.ask(s.public, "GET", "/readyz?verbose", "").want(200); string(a.body) != "ready\n" {
		t.Errorf("strangers have the servers asked: %s", a.body)
	}
	s.draining.Store(true)
	if a := s.ask(s.public, "GET", "/readyz", ""); a.code != 503 {
		t.Errorf("draining and %d", a.code)
	}
	s.ask(s.public, "GET", "/livez", "").want(200)
}

// Preconditions and Location follow RFC 9110, so that generic HTTP clients can rely on them.
func TestPreconditionsAndLocationsAreThoseOfHTTP(t *testing.T) {
	s := newSite(t, 0)
	const subject = "/admin/v1/subjects/acct%2F42"
	made := s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct/42","tier":"free"}`).want(201)
	if at := made.header.Get("Location"); at != subject {
		t.Errorf("made at %q", at)
	}
	head := s.ask(s.admin, "HEAD", subject, "").want(200)
	if head.header.Get("ETag") != made.header.Get("ETag") {
		t.Errorf("HEAD: %v", head.header)
	}
	for _, path := range []string{"/livez", "/readyz", "/openapi.json", "/docs"} {
		s.ask(s.public, "HEAD", path, "").want(200)
	}
	s.ask(s.admin, "PUT", subject, `{"tier":"pro"}`, "If-Match", "*").want(200, `"tier":"pro"`)
	s.ask(s.admin, "PUT", subject, `{"tier":"pro"}`, "If-Match", "W/"+made.header.Get("ETag")).want(412)
	s.ask(s.admin, "PATCH", subject, `{"tier":"free"}`, "If-Match", "*").want(200, `"tier":"free"`)
	s.ask(s.admin, "PUT", subject, `{"tier":"pro"}`, "If-None-Match", "*").want(412, "is for what is not there")
	s.ask(s.admin, "PATCH", subject, `{"tier":"pro"}`, "If-None-Match", "*").want(412)
	s.ask(s.admin, "DELETE", subject, "", "If-None-Match", "*").want(412)
	s.ask(s.admin, "PUT", "/admin/v1/load", `{"mode":"off"}`, "If-None-Match", "*").want(412)
	s.ask(s.admin, "PUT", subject, `{"tier":"pro"}`, "If-Match", `"1", , "a,b" ,"2"`).want(412)
	s.ask(s.admin, "PUT", subject, `{"tier":"pro"}`, "If-Match", strings.Replace(made.header.Get("ETag"), `"`, `"0`, 1)).want(412)
	s.ask(s.admin, "PUT", "/admin/v1/subjects/nobody", `{"tier":"pro"}`, "If-Match", "*").want(404)
	other := s.ask(s.admin, "PUT", "/admin/v1/subjects/acct_7", `{"tier":"pro"}`, "If-None-Match", "*").want(201)
	if at := other.header.Get("Location"); at != "/admin/v1/subjects/acct_7" {
		t.Errorf("made at %q", at)
	}
	s.ask(s.admin, "PUT", "/admin/v1/subjects/acct_7", `{"tier":"pro"}`, "If-None-Match", `"1"`).want(400, "If-None-Match")

	// A billing webhook does not know whether the subject exists.
	s.ask(s.admin, "PUT", "/admin/v1/subjects/acct_8?upsert=true", `{"tier":"pro"}`).want(201)
	s.ask(s.admin, "PUT", "/admin/v1/subjects/acct_8?upsert=true", `{"tier":"free"}`).want(200, `"tier":"free"`)
	s.ask(s.admin, "PUT", "/admin/v1/subjects/acct_8?upsert=true", `{"tier":"pro"}`, "If-Match", `"1"`).want(412)
	s.ask(s.admin, "PUT", "/admin/v1/subjects/acct_9?upsert=true&dry_run=true", `{"tier":"pro"}`).want(200, `"action":"subject.create"`)
	s.ask(s.admin, "GET", "/admin/v1/subjects/acct_9", "").want(404)
	s.ask(s.admin, "PUT", "/admin/v1/subjects/acct_8?upsert=yes", `{"tier":"pro"}`).want(400, "upsert")
	s.ask(s.admin, "PUT", "/admin/v1/tiers/free?upsert=true", `{}`).want(400, "upsert")
}

// encoding/json silently takes the last of two members with the same name.
func TestAMemberThatStandsTwiceIsRefused(t *testing.T) {
	s := newSite(t, 0)
	s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"acct_1","tier":"free","tier":"enterprise"}`).want(400, "tier", "given once")
	s.ask(s.admin, "POST", "/admin/v1/tiers", `{"key":"x","limits":{"a":{"max":1,"max":2,"window":"1s"}}}`).want(400, "max", "given once")
	s.ask(s.public, "POST", "/v1/take", `{"subject":"a","subject":"b"}`).want(400, "subject", "given once")
	s.ask(s.admin, "PATCH", "/admin/v1/tiers/free", `{"name":"a","name":"b"}`, "If-Match", "*").want(400, "name", "given once")
}

// Regression test: 62 KB of invalid limits produced an error of 1.8 MB, after seconds.
func TestAnErrorIsNoLongerThanWhatWasSent(t *testing.T) {
	s := newSite(t, 0)
	for _, limit := range []string{`"l%d":{"max":-1,"window":"x","nope":1},`, `"l%d":{},`, `"l%d":7,`} {
		var b strings.Builder
		for i := 0; b.Len() < 60_000; i++ {
			fmt.Fprintf(&b, limit, i)
		}
		a := s.ask(s.admin, "POST", "/admin/v1/tiers", `{"key":"x","limits":{`+strings.TrimSuffix(b.String(), ",")+`}}`).want(400, "limits")
		if len(a.body) > 16<<10 {
			t.Errorf("%d bytes are answered", len(a.body))
		}
	}
	var b strings.Builder
	for i := range 200 {
		fmt.Fprintf(&b, `"l%d":{"max":-1,"window":"x","nope":1},`, i)
	}
	a := s.ask(s.admin, "POST", "/admin/v1/tiers", `{"key":"x","limits":{`+strings.TrimSuffix(b.String(), ",")+`}}`).want(400, "601 fields are wrong", "The first of them are listed")
	if len(a.body) > 16<<10 {
		t.Errorf("%d bytes are answered", len(a.body))
	}
}

// Regression test: a patch of 59 KB, nested 9,900 levels deep, took a gigabyte of memory.
func TestWhatIsNestedWithoutEndIsRefused(t *testing.T) {
	s := newSite(t, 0)
	deep := strings.Repeat(`{"a":`, 9900) + "1" + strings.Repeat("}", 9900)
	s.ask(s.admin, "PATCH", "/admin/v1/tiers/free", `{"load":{"start":`+deep+`}}`, "If-Match", "*").want(400, "nested")
	s.ask(s.public, "POST", "/v1/take", `{"subject":`+strings.Repeat("[", 9900)).want(400, "nested")
}

// The response to a repeated creation has the same Location as the first response. No
// response echoes a secret that the client sent.
func TestWhatIsAnsweredAgainIsAnsweredAlike(t *testing.T) {
	s := newSite(t, 0)
	for _, replayed := range []string{"", "true"} {
		a := s.ask(s.admin, "POST", "/admin/v1/subjects", `{"id":"a/b","tier":"free"}`, "Idempotency-Key", "k1").want(201)
		if a.header.Get("Location") != "/admin/v1/subjects/a%2Fb" || a.header.Get("Idempotent-Replayed") != replayed {
			t.Errorf("%v", a.header)
		}
	}
	made := s.ask(s.admin, "POST", "/admin/v1/keys", `{"name":"x","subject":"a/b"}`).want(201, `"secret":"tl_key_`)
	if a := s.ask(s.admin, "PUT", made.header.Get("Location"), `{"name":"y","secret":"tl_mine"}`, "If-Match", "*").want(200); bytes.Contains(a.body, []byte("tl_mine")) {
		t.Errorf("shown: %s", a.body)
	}
}

// In the document of a listener, the server of the listener's own operations is "/".
func TestTheDocumentOfAListenerIsOfItsAddress(t *testing.T) {
	s := newSite(t, 0)
	for _, c := range []struct {
		handler      http.Handler
		own, another string
	}{{s.public, "/v1/take", "/admin/v1/tiers"}, {s.admin, "/admin/v1/tiers", "/v1/take"}} {
		var d struct {
			Paths map[string]struct{ Servers []struct{ URL string } }
		}
		if err := json.Unmarshal(s.ask(c.handler, "GET", "/openapi.json", "").want(200).body, &d); err != nil {
			t.Fatal(err)
		}
		if own, another := d.Paths[c.own].Servers[0].URL, d.Paths[c.another].Servers[0].URL; own != "/" || !strings.HasPrefix(another, "http://127.0.0.1:") {
			t.Errorf("%s is at %q, and %s at %q", c.own, own, c.another, another)
		}
	}
}

func TestWhatIsNotThere(t *testing.T) {
	s := newSite(t, 0)
	s.ask(s.public, "GET", "/nosuch", "").want(404)
	if a := s.ask(s.public, "GET", "/v1/take", "").want(405); a.header.Get("Allow") != "POST" {
		t.Errorf("Allow: %v", a.header["Allow"])
	}
	if a := s.ask(s.admin, "POST", "/admin/v1/tiers/free", "").want(405); strings.Join(a.header["Allow"], " ") != "GET HEAD PUT PATCH DELETE" {
		t.Errorf("Allow: %v", a.header["Allow"])
	}
	s.ask(s.public, "GET", "/admin/v1/tiers", "").want(404)
}
